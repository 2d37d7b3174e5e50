load 0 0 0 0 64 1 1 1 !1
store 1 0 0 0 64 1 1 1 ?1
barrier
halt
===
barrier
load 1 0 0 0 64 1 1 1
halt
