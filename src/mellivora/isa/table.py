"""The instruction table: the one place where an instruction is written down.

A row gives name, opcode, engine, the names of its slots, its meaning (runnable Python) and its
cost. The encoder, assembler, disassembler, checker, both simulators and the manual are driven by
these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mellivora.isa import latency, meaning
from mellivora.isa.encoding import CONTROL, LOAD, MATRIX, STORE, VECTOR
from mellivora.isa.state import Core

Meaning = Callable[[Core, Sequence[int], Sequence[int]], None]

DMA_SLOTS = ("window", "offset", "fine", "pad", "n0", "n1", "n2", "n3")
DMA_CONFIG = ("d1", "d2", "d3", "p1", "p2", "p3")
LOAD_CONFIG = (*DMA_CONFIG, "table")
MATRIX_CONFIG = (
    "a_stride",
    "a_plane",
    "a_scale_stride",
    "b_pitch",
    "b_plane_or_first",
    "b_block",
    "a_zero",
    "b_zero",
)
VECTOR_CONFIG = (
    "dst_stride",
    "a_stride",
    "b_stride",
    "c_stride",
    "mask_limit",
    "mask_mod",
    "mask_window",
)

_SYNC_COST = latency.fixed(latency.SYNC_CYCLES)


@dataclass(frozen=True)
class Instruction:
    """A row. slots: names in order; writes: the first slot is a destination register (CONTROL).

    bursts: of DRAM, for what moves data between it and the scratchpad.
    """

    name: str
    opcode: int
    engine: int
    slots: tuple[str, ...]
    doc: str
    meaning: Meaning | None = None
    cost: latency.Cost = _SYNC_COST
    config: tuple[str, ...] = ()
    bursts: latency.Cost | None = None
    configures: int = -1


def _control(name: str, opcode: int, slots: str, doc: str, configures: int = -1) -> Instruction:
    return Instruction(name, opcode, CONTROL, tuple(slots.split()), doc, configures=configures)


def _sync(name: str, opcode: int, engine: int) -> Instruction:
    doc = "Does nothing but wait on and post to its semaphores, in the order of its engine."
    return Instruction(name, opcode, engine, (), doc, meaning.nothing)


# fmt: off
TABLE: tuple[Instruction, ...] = (
    _control("halt", 0x00, "", "Stop dispatching; the core is done when its engines are idle."),
    _control("nop",  0x01, "", "Takes one CONTROL cycle."),
    _control("li",   0x02, "rd imm32", "rd = imm32."),
    _control("ldp",  0x03, "rd index",
             "rd = parameter memory [index]; written by the host before launch."),
    _control("add",  0x04, "rd a b", "rd = a + b, wrapping to 32 bits."),
    _control("sub",  0x05, "rd a b", "rd = a - b, wrapping."),
    _control("mul",  0x06, "rd a b", "rd = low 32 bits of a * b."),
    _control("min",  0x07, "rd a b", "rd = the smaller, signed."),
    _control("max",  0x08, "rd a b", "rd = the larger, signed."),
    _control("shr",  0x09, "rd a b", "rd = a shifted right by b & 31, sign kept."),
    _control("and",  0x0A, "rd a b", "rd = a & b."),
    _control("shl",  0x0B, "rd a b", "rd = a shifted left by b & 31."),
    _control("loop", 0x0C, "count length",
             "Run the next `length` instructions `count` times; zero or less skips them. Nests up "
             "to four deep."),
    _control("lcfg", 0x10, " ".join(LOAD_CONFIG),
             "Strides of LOAD: DRAM d1..d3, scratchpad p1..p3, bytes; the page table of LOADX.",
             LOAD),
    _control("scfg", 0x11, " ".join(DMA_CONFIG), "Strides of STORE: d1..d3, p1..p3.", STORE),
    _control("mcfg", 0x12, " ".join(MATRIX_CONFIG),
             "Layout of MATRIX operands, bytes; b_plane_or_first: ROWS: bytes between slice "
             "planes, else the first column; zero points.", MATRIX),
    _control("vcfg", 0x13, " ".join(VECTOR_CONFIG),
             "Row strides of VECTOR operands, bytes; the mask.", VECTOR),

    Instruction("load", 0x20, LOAD, DMA_SLOTS,
        "Copy n3 x n2 x n1 pieces of n0 bytes from DRAM (window base + 32*offset + fine, strides "
        "d) to the scratchpad (pad, strides p). The whole access is checked before a byte moves.",
        meaning.load, latency.dma, DMA_CONFIG, latency.dma_bursts),
    Instruction("loadm", 0x21, LOAD, DMA_SLOTS,
        "LOAD of the same bytes by every core: starts when the last core has come to it, and DRAM "
        "is read once.",
        meaning.load, latency.dma, DMA_CONFIG, latency.dma_bursts),
    _sync("lsync", 0x22, LOAD),
    Instruction("loadx", 0x23, LOAD, DMA_SLOTS,
        "LOAD whose outermost dimension is a list of pages: piece group i3 comes from d3 * page "
        "instead of d3 * i3, page being INT32 i3 of the table in the scratchpad. Starts when all "
        "before it in its queue have ended.",
        meaning.loadx, latency.gather, LOAD_CONFIG, latency.gather_bursts),
    Instruction("store", 0x30, STORE, DMA_SLOTS, "LOAD the other way round.",
        meaning.store, latency.dma, DMA_CONFIG, latency.dma_bursts),
    Instruction("exch", 0x31, STORE,
        ("dst", "src", "bytes", "dst_stride", "rows", "dst_row", "src_row"),
        "All-gather: starts when the last core has come to it; then in every core, for each row r, "
        "the bytes at dst + r*dst_row + i*dst_stride are those that core i has at src + r*src_row.",
        None, latency.exchange),
    Instruction("barrier", 0x32, STORE, (), "Ends when every core has come to it.",
        None, latency.barrier),
    _sync("ssync", 0x33, STORE),
    Instruction("matmul", 0x40, MATRIX,
        ("acc_row", "a", "a_scale", "b", "m", "blocks", "n", "mode"),
        "acc[acc_row + r, col] (+)= A[r, :] . B[col, :] over `blocks` blocks of 32, blocks "
        "ascending, slice pairs in order of weight; the integer dot is exact, then "
        "t = fl(float(dot) * fl(sa*sb)), acc = fl(acc + t). Q4_1 adds fl(float(sum a) * fl(sa*m)) "
        "to t first. INT32 mode: plain integers.",
        meaning.matmul, latency.matmul, MATRIX_CONFIG),
    _sync("msync", 0x41, MATRIX),
    Instruction("vew", 0x50, VECTOR, ("dst", "a", "b", "c", "rows", "cols", "fn", "kinds"),
        "dst = func((a op1 b) op2 c) on a tile [rows, cols] of FP32, every stage rounded; optional "
        "mask on a.",
        meaning.vew, latency.vew, VECTOR_CONFIG),
    Instruction("vred", 0x51, VECTOR, ("dst", "a", "rows", "cols", "op", "mask"),
        "dst[r] = sum, maximum or sum of squares of row r, by the fixed tree.",
        meaning.vred, latency.vred, VECTOR_CONFIG),
    Instruction("vquant", 0x52, VECTOR, ("dst", "dst_scale", "a", "b", "rows", "cols", "mode"),
        "Convert a (times b) to a storage format: 1 to 3 slices with one E8M0 scale a block of 32 "
        "(or a row), FP16, BF16, INT8.",
        meaning.vquant, latency.vquant,
        ("dst_stride", "a_stride", "b_stride", "scale_stride", "dst_plane")),
    Instruction("vdeq", 0x53, VECTOR, ("dst", "src", "src_scale", "rows", "cols", "fmt"),
        "dst = FP32 of rows in a storage format.",
        meaning.vdeq, latency.vdeq, ("dst_stride", "src_stride", "scale_stride", "", "src_plane")),
    _sync("vsync", 0x54, VECTOR),
)
# fmt: on

BY_NAME = {row.name: row for row in TABLE}
BY_OPCODE = {row.opcode: row for row in TABLE}
SYNC_OPCODE = {row.engine: row.opcode for row in TABLE if row.name.endswith("sync")}
COLLECTIVES = (BY_NAME["exch"].opcode, BY_NAME["barrier"].opcode)
"""Operations that every core must come to before any goes on."""
