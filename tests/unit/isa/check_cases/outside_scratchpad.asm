li r5 65500
load 0 0 0 r5 64 1 1 1
halt
