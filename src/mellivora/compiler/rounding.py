"""Whole-number division upwards, and what follows from it: padding and fair shares."""

from __future__ import annotations


def ceil_div(value: int, step: int) -> int:
    """value / step, rounded up; step > 0."""
    return (value + step - 1) // step


def round_up(value: int, multiple: int) -> int:
    """The least multiple that is not below value."""
    return ceil_div(value, multiple) * multiple


def share(total: int, cores: int, multiple: int) -> int:
    """Columns of one core: an equal part, rounded up to a multiple."""
    return ceil_div(total, cores * multiple) * multiple


def split(total: int, width: int) -> list[tuple[int, int]]:
    """(start, end) pieces of at most width, as even as possible in multiples of 4."""
    pieces = ceil_div(total, width)
    step = min(round_up(ceil_div(total, pieces), 4), width)
    return [(start, min(start + step, total)) for start in range(0, total, step)]
