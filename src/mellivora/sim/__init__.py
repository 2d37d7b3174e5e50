"""Simulators: `expand` (CONTROL), `functional` (bits), `timing` (cycles)."""
