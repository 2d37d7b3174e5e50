; LOAD itself brings the first table, VECTOR the second
lcfg 0 0 64 0 0 64 0
load 0 0 0 0 64 1 1 1 !1 !2
store 1 96 0 0 64 1 1 1 ?1 !3
vew 256 0 0 0 1 8 0 0 ?2 !4
loadx 1 0 0 512 64 1 1 4 ?3
lcfg 0 0 64 0 0 64 256
loadx 0 0 0 768 64 1 1 4 ?4 !5
vew 1280 512 768 0 1 8 1 0 ?5
halt
