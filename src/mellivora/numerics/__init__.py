"""Formats and arithmetic, exact: the meaning of every number on the chip.

formats    what a code, a scale and a slice mean            block      BlockTensor
quantize   vectorised quantisers                            exact      the same in Python integers
fp32       add, mul, max, conversions (RNE, one NaN)        reduce     the fixed reduction tree
functions  exp2 log2 recip rsqrt sin_turns cos_turns        matmul     what MATRIX computes
"""

from mellivora.numerics.adapters import (
    FP4_CODES,
    FP6_CODES,
    f32_to_int8,
    fp4_nibbles,
    mx_slices,
    pack_fp6,
    unpack_fp6,
)
from mellivora.numerics.angles import cos_sin, inverse_powers
from mellivora.numerics.block import CANONICAL_NAN, BlockTensor, from_e8m0
from mellivora.numerics.formats import BLOCK, FORMATS, Format, format_of
from mellivora.numerics.fp8 import from_fp8, to_fp8
from mellivora.numerics.fp32 import (
    add,
    canonical,
    from_bf16,
    from_f16,
    from_int,
    maximum,
    minimum,
    mul,
    sub,
    to_bf16,
    to_f16,
)
from mellivora.numerics.functions import (
    cos_turns,
    cpp_tables,
    exp2,
    log2,
    recip,
    rsqrt,
    sin_turns,
)
from mellivora.numerics.matmul import block_matmul, int_matmul, passes
from mellivora.numerics.quantize import quantize
from mellivora.numerics.reduce import tree_max, tree_sum, tree_sumsq

# The engines' names for the same things.
f32_max, reciprocal, f32_to_f16_bits, f32_to_bf16_bits = maximum, recip, to_f16, to_bf16

__all__ = [
    "BLOCK",
    "CANONICAL_NAN",
    "FORMATS",
    "FP4_CODES",
    "FP6_CODES",
    "BlockTensor",
    "Format",
    "add",
    "block_matmul",
    "canonical",
    "cos_sin",
    "cos_turns",
    "cpp_tables",
    "exp2",
    "f32_max",
    "f32_to_bf16_bits",
    "f32_to_f16_bits",
    "f32_to_int8",
    "format_of",
    "fp4_nibbles",
    "from_bf16",
    "from_e8m0",
    "from_f16",
    "from_fp8",
    "from_int",
    "int_matmul",
    "inverse_powers",
    "log2",
    "maximum",
    "minimum",
    "mul",
    "mx_slices",
    "pack_fp6",
    "passes",
    "quantize",
    "recip",
    "reciprocal",
    "rsqrt",
    "sin_turns",
    "sub",
    "to_bf16",
    "to_f16",
    "to_fp8",
    "tree_max",
    "tree_sum",
    "tree_sumsq",
    "unpack_fp6",
]
