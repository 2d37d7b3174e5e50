lsync !1
lsync !1
vsync ?1
halt
