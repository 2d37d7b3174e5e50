"""Ports wider than 32 bits as a simulation takes and shows them: uint32 words, low ones first."""

import numpy as np


def words(fields, bits):
    """Integers [cycles, n], `bits` each, as the rows of one port."""
    rows = [sum(int(one) << bits * i for i, one in enumerate(row)) for row in fields]
    count = -(-bits * len(fields[0]) // 32)
    return np.array([[one >> 32 * k & 0xFFFF_FFFF for k in range(count)] for one in rows])


def number(row):
    """A port's words, or its only one, as a number."""
    return sum(int(word) << 32 * i for i, word in enumerate(np.atleast_1d(row)))
