vcfg 32 32 32 32 0 0 0
vew 128 2 0 0 4 8 0 0
halt
