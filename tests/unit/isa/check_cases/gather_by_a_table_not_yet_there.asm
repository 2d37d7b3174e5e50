lcfg 0 0 64 0 0 64 256
load 0 0 0 0 64 1 1 1 !1
vew 256 0 0 0 1 8 0 0 ?1
loadx 0 0 0 512 64 1 1 4
halt
