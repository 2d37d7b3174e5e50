"""Formats and arithmetic, exact: the meaning of every number on the chip.

formats    what a code, a scale and a slice mean            block      BlockTensor
quantize   vectorised quantisers                            exact      the same in Python integers
fp32       add, mul, max, conversions (RNE, one NaN)        reduce     the fixed reduction tree
functions  exp2 log2 recip rsqrt sin_turns cos_turns        matmul     what MATRIX computes
"""

from mellivora.numerics.block import BlockTensor
from mellivora.numerics.formats import BLOCK, FORMATS, Format, format_of
from mellivora.numerics.quantize import quantize

__all__ = ["BLOCK", "FORMATS", "BlockTensor", "Format", "format_of", "quantize"]
