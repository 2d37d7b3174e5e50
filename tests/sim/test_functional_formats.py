"""MATMUL on the machine == numerics.block_matmul, which knows nothing of memory layouts."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from mellivora import numerics
from mellivora.isa import assemble
from mellivora.isa.modes import B_DWORDS, B_SCALE_BYTES, BFormat, matmul_mode
from mellivora.sim.functional import Machine
from mellivora.spec import load_chip

FORMATS = {
    "mxint8": BFormat.MX8,
    "x2": BFormat.MX8,
    "x3": BFormat.MX8,
    "mxfp6": BFormat.MXFP6,
    "mxfp4": BFormat.MXFP4,
    "q8_0": BFormat.Q8_0,
    "q4_0": BFormat.Q4_0,
    "q4_1": BFormat.Q4_1,
}
M, K, N = 5, 96, 24


def codes_of(tensor: numerics.BlockTensor, block: int, j: int) -> np.ndarray:
    """One block of one slice as MATRIX reads it: dword rows of columns, uint8 [dwords, N, 4]."""
    codes = tensor.codes[j][:, 32 * block : 32 * block + 32]
    if tensor.fmt == "mxfp6":
        by_column = numerics.pack_fp6(codes)
    elif tensor.fmt in ("mxfp4", "q4_0", "q4_1"):
        if tensor.fmt == "mxfp4":
            table = np.zeros(256, np.uint8)
            table[np.array(numerics.FP4_CODES[::-1], np.int8).view(np.uint8)] = np.arange(
                15, -1, -1
            )
            nibbles = table[codes.view(np.uint8)]
        else:
            nibbles = (codes.astype(np.int16) + (8 if tensor.fmt == "q4_0" else 0)).astype(np.uint8)
        by_column = nibbles[:, :16] | nibbles[:, 16:] << 4
    else:
        by_column = codes.view(np.uint8)
    return by_column.reshape(N, -1, 4).transpose(1, 0, 2)


def pack_b(tensor: numerics.BlockTensor) -> bytes:
    parts: list[bytes] = []
    for block in range(K // 32):
        parts += [codes_of(tensor, block, j).tobytes() for j in range(tensor.slices)]
        parts.append(tensor.scales[:, block].tobytes())
        if tensor.offsets is not None:
            parts.append(tensor.offsets[:, block].tobytes())
    return b"".join(parts)


@pytest.mark.parametrize("a_fmt", ["mxint8", "x2", "x3"])
@pytest.mark.parametrize("b_fmt", FORMATS)
def test_matmul_is_block_matmul(a_fmt: str, b_fmt: str) -> None:
    rng = np.random.default_rng(17)
    a = numerics.quantize(rng.normal(size=(M, K)).astype(np.float32), a_fmt)
    b = numerics.quantize(rng.normal(size=(N, K)).astype(np.float32), b_fmt)
    chip = load_chip("nano").replace(columns=32)
    fmt, packed = FORMATS[b_fmt], pack_b(b)
    machine = Machine(chip, dram=64, windows=[(0, 64)])
    pad = machine.cores[0].scratchpad
    for j in range(a.slices):
        pad[4096 * j : 4096 * j + M * K] = a.codes[j].view(np.uint8).ravel()
    pad[16384 : 16384 + M * K // 32] = a.scales.ravel()
    pad[20480 : 20480 + len(packed)] = np.frombuffer(packed, np.uint8)
    mode = matmul_mode(fmt, a_slices=a.slices, b_slices=b.slices)
    block_bytes = (4 * b.slices * B_DWORDS[fmt] + B_SCALE_BYTES[fmt]) * N
    machine.load(
        assemble(f"""
        li r3 4096
        li r4 16384
        li r5 20480
        li r6 {block_bytes}
        mcfg {K} r3 {K // 32} {N} 0 r6 0 0
        matmul 0 0 r4 r5 {M} {K // 32} {N} {mode}
        halt
    """)
    )
    stats = machine.run()
    out = machine.cores[0].accumulators.view(np.float32).reshape(-1, 32)[:M, :N]
    np.testing.assert_array_equal(out.view(np.uint32), numerics.block_matmul(a, b).view(np.uint32))
    assert stats.macs == M * N * K * len(numerics.passes(a.slices, b.slices))


def test_small_floats_are_ml_dtypes() -> None:
    fp4 = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    fp6 = np.arange(64, dtype=np.uint8).view(ml_dtypes.float6_e2m3fn).astype(np.float32)
    np.testing.assert_array_equal(np.array(numerics.FP4_CODES, np.float32), fp4 * 2)
    np.testing.assert_array_equal(np.array(numerics.FP6_CODES, np.float32), fp6 * 8)


def test_fp6_packs_and_unpacks() -> None:
    rng = np.random.default_rng(2)
    integers = rng.choice(np.array(numerics.FP6_CODES, np.int8), (7, 64))
    packed = numerics.pack_fp6(integers)
    assert packed.shape == (7, 48)
    np.testing.assert_array_equal(numerics.unpack_fp6(packed), integers)


def test_fp4_nibbles_are_ml_dtypes() -> None:
    nibbles = np.array([0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15], np.uint8)  # no -0
    values = nibbles.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(numerics.fp4_nibbles(values * 2), nibbles)


@pytest.mark.parametrize("fmt", ["mxint8", "x2", "x3"])
def test_slices_are_those_of_the_quantiser(fmt: str) -> None:
    x = np.random.default_rng(4).normal(size=(3, 128)).astype(np.float32)
    tensor = numerics.quantize(x, fmt)
    codes, scales = numerics.mx_slices(x, slices=tensor.slices)
    np.testing.assert_array_equal(scales, tensor.scales)
    for j, plane in enumerate(codes):
        np.testing.assert_array_equal(plane, tensor.slice_codes(j))


def test_int8_saturates() -> None:
    x = np.array([[0.5, 1.5, -0.5, 127.5, 300, -128.5, -129, np.inf, -np.inf, np.nan]], np.float32)
    wanted = [[0, 2, 0, 127, 127, -128, -128, 127, -128, 0]]
    np.testing.assert_array_equal(numerics.f32_to_int8(x), wanted)
