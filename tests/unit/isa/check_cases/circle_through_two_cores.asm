loadm 0 0 0 0 64 1 1 1 !1
barrier ?1
halt
===
loadm 0 0 0 0 64 1 1 1 ?1
barrier !1
halt
