li r5 256
loop r5 1
lsync !1
loop r5 1
vsync ?1
halt
