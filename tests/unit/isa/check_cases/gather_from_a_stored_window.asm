; the store is far from the first pages, but any page may be read
lcfg 0 0 64 0 0 64 0
load 0 0 0 0 64 1 1 1 !1
store 1 96 0 0 64 1 1 1 ?1
loadx 1 0 0 512 64 1 1 4
halt
