load 0 0 0 0 64 1 1 1 !1
load 1 0 0 64 64 1 1 1
store 1 0 32 0 64 1 1 1 ?1
halt
