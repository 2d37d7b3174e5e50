load 0 0 0 0 64 1 1 1 !1
store 0 0 0 0 64 1 1 1 ?1
halt
