vcfg 32 32 32 32 0 0 0
load 0 0 0 0 128 1 1 1 !1
vew 4 0 0 0 4 8 0 0 ?1
halt
