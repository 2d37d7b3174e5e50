"""BlockTensor: the parts must fit; sizes in DRAM; raw GGUF blocks."""

import numpy as np
import pytest

from mellivora.errors import IsaError
from mellivora.numerics import FORMATS, BlockTensor, quantize

CODES = np.zeros((1, 2, 64), np.int8)
SCALES = np.zeros((2, 2), np.uint8)
HALVES = np.zeros((2, 2), np.float16)


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("MV0680", ("mx9", (2, 64), CODES, SCALES)),
        ("MV0681", ("mxint8", (2, 63), CODES, SCALES)),
        ("MV0682", ("mxint8", (2, 64), CODES.astype(np.uint8), SCALES)),
        ("MV0682", ("x2", (2, 64), CODES, SCALES)),
        ("MV0683", ("mxint8", (2, 64), CODES, HALVES)),
        ("MV0683", ("q8_0", (2, 64), CODES, HALVES[:1])),
        ("MV0684", ("q4_1", (2, 64), CODES.view(np.uint8), HALVES)),
        ("MV0684", ("q8_0", (2, 64), CODES, HALVES, HALVES)),
        ("MV0685", ("q4_0", (2, 64), CODES + 8, HALVES)),
        ("MV0685", ("mxfp4", (2, 64), CODES - 13, SCALES)),
        ("MV0688", ("f16", (2, 64), CODES, HALVES)),
    ],
)
def test_parts_that_do_not_fit_are_refused(code, arguments):
    with pytest.raises(IsaError) as caught:
        BlockTensor(*arguments)
    assert caught.value.code == code
    assert caught.value.hint


@pytest.mark.parametrize(
    ("code", "raw", "fmt", "k"),
    [
        ("MV0686", bytes(33), "q8_0", 32),
        ("MV0681", bytes(34), "q8_0", 31),
        ("MV0687", bytes(34), "mxint8", 32),
    ],
)
def test_raw_blocks_that_do_not_fit_are_refused(code, raw, fmt, k):
    with pytest.raises(IsaError) as caught:
        BlockTensor.from_ggml(raw, fmt, 1, k)
    assert caught.value.code == code


def test_raw_nibbles():
    raw = np.array([1.0, 2.0], np.float16).tobytes() + bytes(range(0x10, 0x100, 0xF))
    raw = raw[:4] + bytes((15 - c) << 4 | c for c in range(16))
    tensor = BlockTensor.from_ggml(raw, "q4_1", 1, 32)
    assert tensor.codes[0, 0].tolist() == [*range(16), *reversed(range(16))]
    assert tensor.dequantize()[0].tolist() == [c + 2 for c in tensor.codes[0, 0].tolist()]
    signed = BlockTensor.from_ggml(raw[:2] + raw[4:], "q4_0", 1, 32)
    assert (signed.codes.astype(int) == tensor.codes.astype(int) - 8).all()


@pytest.mark.parametrize(
    ("fmt", "bits"),
    [("mxint8", 8.25), ("x2", 16.25), ("x3", 24.25), ("mxfp6", 6.25), ("mxfp4", 4.25),
     ("q8_0", 8.5), ("q4_0", 4.5), ("q4_1", 5.0)],
)  # fmt: skip
def test_bits_an_element(fmt, bits):
    assert quantize(np.ones((3, 64)), fmt).nbytes * 8 == bits * 3 * 64
    assert FORMATS[fmt].bytes_for(3, 64) * 8 == bits * 3 * 64


def test_slices_are_worth_their_scales(rng):
    x = rng.standard_normal((3, 64)).astype(np.float32)
    for fmt in ("mxint8", "x2", "x3"):
        tensor = quantize(x, fmt)
        parts = [
            tensor.slice_codes(j) * tensor.slice_scales(j).astype(np.float64).repeat(32, axis=1)
            for j in range(tensor.slices)
        ]
        assert (sum(parts) == tensor.dequantize()).all()


def test_the_smallest_and_largest_scales_are_exact():
    for value in (2.0**-149, 2.0**-126, 2.0**127):
        x = np.full((1, 32), value, np.float32)
        assert (quantize(x, "x3").dequantize() == x).all()
