vcfg 32 32 32 32 0 0 0
vsync ?1
load 0 0 0 0 128 1 1 1 !1
halt
