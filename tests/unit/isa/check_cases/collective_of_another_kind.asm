barrier
halt
===
load 0 0 0 0 64 1 1 1 !1
exch 64 0 32 32 1 0 0 ?1
halt
