"""Mellivora: an open AI inference chip, and all that is needed to use it."""

__version__ = "0.1.0"
