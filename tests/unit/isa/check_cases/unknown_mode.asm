matmul 0 0 0 0 4 2 8 15
halt
