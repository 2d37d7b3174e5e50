"""Hot loops in C++17, built on first use. Each is proven equal to its Python definition by a test."""
