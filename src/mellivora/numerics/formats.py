"""Storage formats: what a code, a scale and a slice mean, in one table.

A block format stores integers ("codes") and, for each block of 32 along k, a scale:

    e8m0   value = q * 2^(E - 127 - frac_bits - 8 (slices - 1)),  q = all slices as one integer
    f16    value = d * code            (q8_0, q4_0),     d * code + m   (q4_1)
    f32    value = scale * (code - zero_point)           one scale for a row (int8, uint8, int4)

Slices (x2, x3) cut the two's complement integer q into bytes, most significant first. Slice 0 is
signed, the others are unsigned bytes; slice j alone is worth `byte * 2^(E - 127 - 6 - 8 j)`.
The scale of an e8m0 block is the exponent field of its largest magnitude (less `emax` of the
element), so E = 0 also for a block of zeros and subnormals; E = 255 says: the block had a NaN or an
infinity, every element is NaN, all codes are 0.

Where the outside world disagrees, and what we chose:

    question                    ml_dtypes    NumPy     torch        here
    --------------------------  -----------  --------  -----------  --------------------------------
    FP32 to E4M3, beyond 448    NaN          (none)    448          448: one NaN spoils a whole row
    FP32 to E4M3, infinity      NaN          (none)    448          NaN: the infinity was a fault
    FP32 to E5M2, beyond 57344  infinity     (none)    infinity     57344; an infinity stays one
    sign of a NaN, narrowed     kept         kept      lost (bf16)  one NaN: 0x7FC00000, 0x7E00,
                                                                    0x7FC0, 0x7F
    FP32 to E2M3, E2M1, NaN     a zero       (none)    (none)       the scale of the block says NaN
    max(+0, -0)                 (none)       second    first        the second operand
    32-bit sums                 (none)       pairwise  blocked      the tree of `reduce.py`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mellivora.errors import IsaError

BLOCK = 32  # elements along k that share a scale: the block of OCP MX, and of GGUF q8_0, q4_0, q4_1
E8M0_BIAS = 127
E8M0_NAN = 255

Scale = Literal["e8m0", "f16", "f32"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One storage format. Plain floats (f32, f16, bf16) have no scale and no integer code."""

    name: str
    block: int = BLOCK  # elements that share a scale; 0: the whole row; 1: none do
    code_bits: int = 8  # bits of one code of one slice as stored in DRAM
    slices: int = 1
    signed: bool = True  # slice 0; lower slices are always unsigned
    scale: Scale | None = None
    has_offset: bool = False  # q4_1: f16 minimum m of a block; uint8: int32 zero point of a row
    frac_bits: int = 0  # fixed point position of slice 0 (e8m0)
    emax: int = 0  # exponent of the largest element (OCP MX emax_elem), taken off the scale
    code_min: int = -128
    code_max: int = 127

    @property
    def is_float(self) -> bool:
        """A plain floating-point format: no integer codes, cannot be a BlockTensor."""
        return self.scale is None

    @property
    def is_row_scaled(self) -> bool:
        """One float32 scale for a row (int8, uint8, int4)."""
        return self.scale == "f32"

    @property
    def integer_max(self) -> int:
        """Largest magnitude of the whole integer q the quantiser makes (all slices; symmetric)."""
        return self.code_max if self.slices == 1 else (1 << (8 * self.slices - 1)) - 1

    @property
    def shift(self) -> int:
        """value = q * 2^(E - 127 - shift), q the integer of all slices (e8m0 only)."""
        return self.frac_bits + 8 * (self.slices - 1)

    @property
    def scale_bytes(self) -> int:
        """Bytes of scale and offset that accompany one block (one row, if row-scaled)."""
        one = {"e8m0": 1, "f16": 2, "f32": 4, None: 0}[self.scale]
        return one * (2 if self.has_offset else 1)

    def bytes_per_block(self, elements: int | None = None) -> int:
        """DRAM bytes of one block, codes and scales (`elements`: of a row, for block 0)."""
        count = elements if elements is not None else max(self.block, 1)
        return (count * self.code_bits * self.slices + 7) // 8 + self.scale_bytes

    def bytes_for(self, rows: int, k: int) -> int:
        """DRAM bytes of a [rows, k] tensor."""
        if self.is_float or self.block == 0:
            return rows * self.bytes_per_block(k)
        return rows * (k // self.block) * self.bytes_per_block()


def _e8m0(name: str, frac_bits: int, *, slices: int = 1) -> Format:
    return Format(name=name, scale="e8m0", frac_bits=frac_bits, slices=slices)


def _mx_float(name: str, frac_bits: int, *, code_bits: int, largest: int) -> Format:
    return Format(
        name=name,
        scale="e8m0",
        frac_bits=frac_bits,
        code_bits=code_bits,
        emax=2,
        code_min=-largest,
        code_max=largest,
    )


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format(name="f32", block=1, code_bits=32),
        Format(name="f16", block=1, code_bits=16),
        Format(name="bf16", block=1, code_bits=16),
        _e8m0("mxint8", 6),
        _e8m0("x2", 6, slices=2),
        _e8m0("x3", 6, slices=3),
        # E2M3 elements times 8 and E2M1 times 2 are integers: that is how MATRIX sees them.
        _mx_float("mxfp6", 3, code_bits=6, largest=60),
        _mx_float("mxfp4", 1, code_bits=4, largest=12),
        Format(name="int8", block=0, scale="f32"),
        Format(
            name="uint8",
            block=0,
            scale="f32",
            signed=False,
            has_offset=True,
            code_min=0,
            code_max=255,
        ),
        Format(name="int4", block=0, code_bits=4, scale="f32", code_min=-8, code_max=7),
        Format(name="q8_0", scale="f16"),
        Format(name="q4_0", code_bits=4, scale="f16", code_min=-8, code_max=7),
        Format(
            name="q4_1",
            code_bits=4,
            scale="f16",
            signed=False,
            has_offset=True,
            code_min=0,
            code_max=15,
        ),
    )
}


def format_of(name: str) -> Format:
    """The format of that name. Raises IsaError MV0680 for a name not in FORMATS."""
    try:
        return FORMATS[name]
    except KeyError:
        raise IsaError(
            "MV0680",
            "unknown number format",
            given=repr(name),
            allowed=", ".join(FORMATS),
            hint="Name one of the allowed formats.",
        ) from None
