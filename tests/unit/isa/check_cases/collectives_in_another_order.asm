loadm 0 0 0 0 64 1 1 1
barrier
halt
===
barrier
loadm 0 0 0 0 64 1 1 1
halt
