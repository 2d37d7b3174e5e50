load 0 0 0 0 64 1 1 1 !1
shl r3 r1 1
ssync ?1
store 1 r3 0 0 64 1 1 1
barrier !2
lsync ?2
load 1 0 0 64 128 1 1 1
halt
=== the same on the other core
load 0 0 0 0 64 1 1 1 !1
shl r3 r1 1
ssync ?1
store 1 r3 0 0 64 1 1 1
barrier !2
lsync ?2
load 1 0 0 64 128 1 1 1
halt
