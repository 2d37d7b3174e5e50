"""CXXRTL code in which a memory's write of nothing costs nothing.

CXXRTL queues a write of every port at every edge, with a mask of a bit for each bit of the word:
for a bank of the scratchpad six words of 256 bits, their masks put together from 63 pieces. Here
nothing is queued where the enable is zero, and a mask of bytes is spread in a loop.
"""

from __future__ import annotations

import re

SPREAD = """
template<size_t Each, size_t Bits>
cxxrtl::value<Each * Bits> mellivora_spread(const cxxrtl::value<Bits>& enable) {
    cxxrtl::value<Each * Bits> mask;
    for (size_t i = 0; i < Each * Bits; i++)
        mask.data[i / 32] |= uint32_t(enable.data[i / Each / 32] >> i / Each % 32 & 1) << i % 32;
    return mask;
}
"""
"""Each bit of an enable `Each` times."""

_WRITE = re.compile(
    r"(?m)^(\t+)if \((tmp_\d+)\.valid\) \{\n"
    r"(\t+memory_\w+\.update\(\2\.index, (?:.*), )((p_\w+)\.[\w.<>,()]*)(, \d+\);\n)"
)
_VALUE = r"(?:\.val\(\))?"
_PIECE = rf"{{0}}(?:\.slice<(\d+)(?:,(\d+))?>\(\))?{_VALUE}(?:\.repeat<(\d+)>\(\))?{_VALUE}"


def cheap_writes(struct: str, functions: str) -> str:
    """The functions of a module of `write_cxxrtl`, with such writes to its memories."""

    def write(found: re.Match[str]) -> str:
        indent, place, before, mask, enable, after = found.groups()
        bits = _bits(mask, enable)
        if bits is None:
            return found[0]
        width = re.search(rf"value<(\d+)> {enable};", struct)
        if width and len(bits) > int(width[1]) > 1:
            each = len(bits) // int(width[1])
            if bits == [i // each for i in range(each * int(width[1]))]:
                mask = f"mellivora_spread<{each}>({enable})"
        return f"{indent}if ({place}.valid && !{enable}.is_zero()) {{\n{before}{mask}{after}"

    return _WRITE.sub(write, functions)


def _bits(mask: str, enable: str) -> list[int] | None:
    """Which bit of `enable` each bit of the mask is, lowest first; None where it is another thing.

    mask: pieces of `enable`, the highest first, as `x.slice<3,2>().concat(x.slice<1>()...)`.
    """
    piece = _PIECE.format(re.escape(enable))
    if not re.fullmatch(rf"{piece}(?:\.concat\({piece}\))*{_VALUE}", mask):
        return None
    bits: list[int] = []
    for high, low, times in re.findall(piece, mask):
        first = int(high or 0)
        bits += [*range(first, int(low or first) - 1, -1)] * int(times or 1)
    return bits[::-1]
