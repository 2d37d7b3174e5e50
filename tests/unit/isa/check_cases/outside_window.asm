load 0 100 0 0 1024 1 1 1
halt
