"""Quantisers: against Python integers, against ggml's, against ml_dtypes' element grids."""

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import quants

from mellivora.errors import IsaError
from mellivora.numerics import BlockTensor, exact, quantize
from mellivora.numerics.formats import FORMATS

F32, U32 = np.float32, np.uint32
E8M0 = ("mxint8", "x2", "x3", "mxfp6", "mxfp4")
GGML = {
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
    "q4_1": gguf.GGMLQuantizationType.Q4_1,
}


def assert_exact(x: np.ndarray, fmt: str) -> None:
    tensor = quantize(x, fmt)
    spec, integers = FORMATS[fmt], tensor.integers()
    for row in range(x.shape[0]):
        for b in range(x.shape[1] // 32):
            part = slice(32 * b, 32 * b + 32)
            codes, scale = exact.quantize_block(x[row, part].view(U32).tolist(), spec)
            assert integers[row, part].tolist() == codes
            assert tensor.scales[row, b] == scale
            for c in (0, 17, 31):
                cut = [int(tensor.slice_codes(j)[row, part][c]) for j in range(spec.slices)]
                assert cut == exact.slices_of(codes[c], spec.slices)


@pytest.mark.parametrize("fmt", E8M0)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_16_bit_value_as_an_element(fmt, dtype):
    values = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(F32)
    values = values[np.isfinite(values)]
    # A leader of a larger binade (by 0 to 30) in each block moves the rounding point.
    for distance in (0, 1, 7, 30) if fmt == "mxint8" else (3,):
        blocks = np.zeros((-(-values.size // 31), 31), F32)
        blocks.reshape(-1)[: values.size] = np.sort(values)
        top = np.frexp(np.abs(blocks).max(axis=1))[1]
        leader = np.ldexp(F32(1), np.minimum(top - 1 + distance, 127))
        assert_exact(np.hstack([leader[:, None].astype(F32), blocks]), fmt)


@pytest.mark.parametrize("fmt", E8M0)
def test_corner_lattice_and_random_fp32(fmt, corners, rng):
    lattice = np.tile(corners, 4)
    rng.shuffle(lattice)
    lattice = lattice[: lattice.size // 32 * 32]
    assert_exact(lattice.view(F32).reshape(-1, 32), fmt)
    fields = rng.integers(0, 255, (400, 1)) - rng.integers(0, 30, (400, 32))
    bits = rng.integers(0, 2**32, (400, 32), dtype=U32) & U32(0x807FFFFF)
    assert_exact((bits | (np.maximum(fields, 0).astype(U32) << U32(23))).view(F32), fmt)


@pytest.mark.parametrize("fmt", E8M0)
def test_specials(fmt):
    x = np.zeros((4, 32), F32)
    x[1, 3], x[2, 9], x[3, 31] = np.nan, -np.inf, -1e-45
    tensor = quantize(x, fmt)
    assert tensor.scales[:3, 0].tolist() == [0, 255, 255]
    assert not tensor.codes[:, :3].any()
    assert (tensor.dequantize()[1:3].view(U32) == 0x7FC00000).all()
    assert tensor.scales[3, 0] == 0


def test_x3_keeps_the_leading_binade_of_fp32_and_errs_by_half_a_unit_below(rng):
    x = rng.standard_normal((50, 320)).astype(F32)
    tensor = quantize(x, "x3")
    unit = np.ldexp(1.0, tensor.scales.astype(int) - 127 - 22).repeat(32, axis=1)
    error = np.abs(tensor.dequantize().astype(np.float64) - x)
    # Half a unit by rounding; one at the clip, where all 24 bits are ones.
    assert (error <= np.where(np.abs(tensor.integers()) == 2**23 - 1, 1.0, 0.5) * unit).all()


@pytest.mark.parametrize(
    ("fmt", "element"),
    [("mxfp6", ml_dtypes.float6_e2m3fn), ("mxfp4", ml_dtypes.float4_e2m1fn)],
)
def test_element_grid_is_ml_dtypes(fmt, element, rng):
    x = (rng.standard_normal((64, 32)) * 3).astype(F32)
    tensor = quantize(x, fmt)
    scale = np.ldexp(F32(1), tensor.scales.astype(int) - 127)
    theirs = (x / scale).astype(element).astype(F32) * scale
    assert (tensor.dequantize() == theirs).all()


@pytest.mark.parametrize("fmt", GGML)
def test_gguf_formats_equal_ggml(fmt, rng):
    x = (rng.standard_normal((64, 320)) * np.exp(rng.normal(size=(64, 1)) * 3)).astype(F32)
    x[0], x[1, :32], x[2, 5] = 0, 1.5, 0.49999997
    with np.errstate(all="ignore"):
        raw = quants.quantize(x, GGML[fmt])
    theirs = BlockTensor.from_ggml(raw, fmt, *x.shape)
    assert quantize(x, fmt).same_bits(theirs)
    assert (theirs.dequantize() == quants.dequantize(raw, GGML[fmt])).all()


@pytest.mark.parametrize("fmt", GGML)
def test_gguf_formats_give_undefined_blocks_a_meaning(fmt):
    x = np.zeros((3, 32), F32)
    x[0, 4], x[1, 4], x[2, 4] = np.nan, np.inf, 1e-44
    tensor = quantize(x, fmt)
    assert np.isnan(tensor.dequantize()[:2]).all()
    assert np.isfinite(tensor.dequantize()[2]).all()
    assert not tensor.codes[:, 2].any()


def test_uint8_follows_dynamic_quantize_linear(rng):
    x = (rng.standard_normal((8, 50)) + 0.3).astype(F32)
    tensor = quantize(x, "uint8")
    for row in range(8):  # the rule of ONNX DynamicQuantizeLinear, a row at a time
        low, high = min(x[row].min(), F32(0)), max(x[row].max(), F32(0))
        scale = F32((high - low) / F32(255))
        zero = np.rint(np.clip(-low / scale, 0, 255))
        codes = np.clip(np.rint(x[row] / scale) + zero, 0, 255)
        assert tensor.scales[row, 0] == scale
        assert tensor.offsets[row, 0] == zero
        assert (tensor.codes[0, row] == codes).all()


@pytest.mark.parametrize(("fmt", "limit"), [("int8", 127), ("int4", 7)])
def test_symmetric_rows(fmt, limit, rng):
    x = rng.standard_normal((6, 33)).astype(F32)
    x[5] = 0
    tensor = quantize(x, fmt)
    assert np.abs(tensor.codes[0, :5].astype(int)).max(axis=1).tolist() == [limit] * 5
    # Half a step by rounding; the division and the product may each shift it by a last place.
    error = np.abs(tensor.dequantize() - x)
    assert (error <= tensor.scales * F32(0.5 + 2**-15)).all()
    assert not tensor.dequantize()[5].any()
    whole = quantize(x, fmt, per_tensor=True)
    assert len(np.unique(whole.scales)) == 1


def test_refusals():
    cases = [
        ("MV0680", lambda: quantize(np.zeros((1, 32)), "q5_k")),
        ("MV0681", lambda: quantize(np.zeros((1, 33)), "x2")),
        ("MV0681", lambda: quantize(np.zeros(32), "x2")),
        ("MV0688", lambda: quantize(np.zeros((1, 32)), "bf16")),
    ]
    for code, action in cases:
        with pytest.raises(IsaError) as caught:
            action()
        assert caught.value.code == code
