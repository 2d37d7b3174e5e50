"""The C++ headers give the bits of the NumPy forms."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

import mellivora
from mellivora.numerics import functions, quantize, reduce

F32, U32 = np.float32, np.uint32
NAMES = ("exp2", "log2", "recip", "rsqrt", "sin_turns", "cos_turns")
SOURCE = """
#include "functions.hpp"
#include "quantize.hpp"
#define ARRAY(name) void seam_##name(const float* x, float* y, size_t n) { mv_##name##_n(x, y, n); }
extern "C" {
ARRAY(exp2) ARRAY(log2) ARRAY(recip) ARRAY(rsqrt) ARRAY(sin_turns) ARRAY(cos_turns)
void quant_row(const float* x, size_t k, int slices, int8_t* plane0, uint8_t* plane1,
               uint8_t* plane2, uint8_t* scales) {
    mv_quant_row(x, k, slices, plane0, plane1, plane2, scales);
}
float tree_sum(const float* x, size_t n) { return mv_tree_sum(x, n); }
float tree_sumsq(const float* x, size_t n) { return mv_tree_sumsq(x, n); }
float tree_max(const float* x, size_t n) { return mv_tree_max(x, n); }
}
"""
POINTER, SIZE = ctypes.c_void_p, ctypes.c_size_t


@pytest.fixture(scope="module")
def native(tmp_path_factory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("native")
    (folder / "function_tables.inc").write_text(functions.cpp_tables())
    (folder / "seam.cpp").write_text(SOURCE)
    flags = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-Wall", "-Werror"]
    headers = Path(mellivora.__file__).parent / "native"
    library = folder / "seam.so"
    subprocess.run(
        ["g++", *flags, "-shared", "-fPIC", f"-I{folder}", f"-I{headers}", "-o", library,
         folder / "seam.cpp"],
        check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize("name", NAMES)
def test_functions(native, name, corners, rng):
    anything = rng.integers(0, 2**32, 700_000, dtype=U32)
    useful = rng.integers(90 << 23, 140 << 23, 700_001, dtype=U32)
    useful |= rng.integers(0, 2, useful.size, dtype=U32) << U32(31)
    x = np.concatenate([corners, anything, useful]).view(F32)
    y = np.empty_like(x)
    getattr(native, f"seam_{name}")(POINTER(x.ctypes.data), POINTER(y.ctypes.data), SIZE(x.size))
    assert (y.view(U32) == getattr(functions, name)(x).view(U32)).all()


@pytest.mark.parametrize(("slices", "fmt"), [(1, "mxint8"), (2, "x2"), (3, "x3")])
def test_quantiser(native, slices, fmt, corners, rng):
    fields = rng.integers(0, 255, (1 << 15, 1)) - rng.integers(0, 30, (1 << 15, 32))
    bits = rng.integers(0, 2**32, fields.shape, dtype=U32) & U32(0x807FFFFF)
    bits |= np.maximum(fields, 0).astype(U32) << U32(23)
    shuffled = rng.permutation(np.tile(corners, 8))
    bits = np.concatenate([bits.reshape(-1), shuffled[: shuffled.size // 32 * 32]])
    x = bits.view(F32).reshape(1, -1)
    planes, scales = np.zeros((3, x.size), np.uint8), np.zeros(x.size // 32, np.uint8)
    native.quant_row(POINTER(x.ctypes.data), SIZE(x.size), slices,
                     *(POINTER(p.ctypes.data) for p in (*planes, scales)))  # fmt: skip
    wanted = quantize(x, fmt)
    assert (scales == wanted.scales[0]).all()
    assert (planes[:slices] == wanted.codes[:, 0].view(np.uint8)).all()


@pytest.mark.parametrize("name", ["tree_sum", "tree_sumsq", "tree_max"])
def test_reductions(native, name, corners, rng):
    function = getattr(native, name)
    function.restype = ctypes.c_float
    for cols in (*range(200), 576, 1000, 1536, 4097):
        x = rng.standard_normal((2, cols)).astype(F32)
        x[1] = np.where(rng.random(cols) < 0.02, rng.choice(corners, cols).view(F32), x[1])
        wanted = getattr(reduce, name)(x)
        for row in (0, 1):
            got = F32(function(POINTER(x[row].ctypes.data), SIZE(cols)))
            assert got.view(U32) == wanted[row].view(U32), (cols, row)
