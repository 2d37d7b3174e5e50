"""Hot loops in C++17, built on first use; tests hold each equal to its Python definition."""
