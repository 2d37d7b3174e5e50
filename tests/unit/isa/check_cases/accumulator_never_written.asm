vcfg 32 32 32 32 0 0 0
li r4 0x40000000
vew 128 r4 0 0 4 8 0 0
halt
