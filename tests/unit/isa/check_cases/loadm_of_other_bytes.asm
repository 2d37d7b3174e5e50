loadm 0 0 0 0 64 1 1 1
halt
===
loadm 0 2 0 0 64 1 1 1
halt
