barrier
barrier
halt
===
barrier
halt
