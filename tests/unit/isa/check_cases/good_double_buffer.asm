vcfg 32 32 32 32 0 0 0
; two buffers: the credits of semaphore 2 let LOAD run two tiles ahead
vsync !2
vsync !2
li r5 8
li r6 0
loop r5 7
and r7 r6 1
shl r7 r7 7
load 0 r6 0 r7 128 1 1 1 ?2 !1
vew 256 r7 0 0 4 8 0 0 ?1 !2
add r6 r6 1
nop
nop
lsync ?2
lsync ?2
halt
