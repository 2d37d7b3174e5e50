lsync !1
msync !1
vsync ?1
vsync ?1
halt
