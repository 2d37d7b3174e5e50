"""Area of a chip in mm2, from synthesis of our own blocks and a few cited figures.

    chip_area(load_chip("m1")).total_mm2.value

Cells of each block are those of the smallest and the largest chip of which all was synthesised
(`area.toml`, ASAP7); for any other chip they lie on the straight line through both, over what the
block grows with. Where one chip alone was, a block is proportional to that.
SRAM, placement and what drives memory are figures with ranges (`area_figures.toml`). Not in it:
wires that need more room than cells, clock trees, a host link, memory controllers, pads, test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mellivora.spec.area_table import AreaTable, family, standard
from mellivora.spec.chip import BLOCK_TERMS, ChipSpec
from mellivora.spec.figures import Figure, load_figures
from mellivora.spec.load import load_chip

FIGURES = Path(__file__).with_name("area_figures.toml")
LIBRARY = "asap7_rvt_tt_full_slim"
LIBRARY_NM = 7
CHIPS = ("nano", "m1")
"""Those that may have been synthesised, smallest first."""
BANK_BYTES = 32
CHANNEL_GBPS = {"LPDDR5X": 17.0, "GDDR7": 112.0, "DDR5": 22.4, "HBM3": 819.0}
"""Of one interface as `phy_mm2` counts them: a channel, or a stack."""
UM2_IN_MM2 = 1e6
MACRO_BITS = 8192
"""A block's memory is SRAM if the smallest chip's has so many bits, else counted as flip-flops."""


@dataclass(frozen=True)
class Range:
    """What may be believed: low <= value <= high."""

    value: float
    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.value + other.value, self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Range:
        return Range(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class ChipArea:
    """core_mm2: parts of one core. once_mm2: what the chip has once. cells_um2: the cells in each
    part of a core, before placement, by block."""

    cores: int
    core_mm2: dict[str, Range]
    once_mm2: dict[str, Range]
    cells_um2: dict[str, dict[str, float]]

    @property
    def one_core_mm2(self) -> Range:
        return _sum(self.core_mm2)

    @property
    def total_mm2(self) -> Range:
        return self.one_core_mm2 * self.cores + _sum(self.once_mm2)


def _sum(parts: dict[str, Range]) -> Range:
    total = Range(0.0, 0.0, 0.0)
    for part in parts.values():
        total = total + part
    return total


def memory_ports(chip: ChipSpec) -> dict[str, tuple[int, list[int], list[int]]]:
    """{memory: (banks, widths of read ports, of write ports in bytes)} of a core, as in the RTL."""
    lanes, columns = chip.lanes, chip.columns
    reads = [4 * lanes] * 3 + [max(4, lanes // 8)]
    writes = [4 * lanes, max(32, lanes), max(32, lanes), max(4, lanes // 8)]
    exchange, burst = chip.exchange_bytes_per_cycle, chip.dram_burst_bytes
    ways = chip.core_port_bursts
    pad_reads = [32, 1, 2 * columns, 2 * columns, *reads, 4]
    pad_reads += [max(burst, exchange), *[burst] * (ways - 1)]
    pad_writes = [*writes, *[burst] * ways, exchange]
    banks = chip.sram_banks
    while banks * BANK_BYTES < max(*pad_reads, *pad_writes) + BANK_BYTES - 1:
        banks *= 2
    return {
        "scratchpad": (banks, pad_reads, pad_writes),
        "accumulators": (
            max(2, 2 * columns * 4 // BANK_BYTES),
            [4 * columns, *reads],
            [4 * columns, *writes],
        ),
    }


def crossbar_bytes(chip: ChipSpec, memory: str) -> int:
    """Two-way multiplexers of bytes in the crossbar of a memory, all ports.

    A port turns a ring of words (log2 of its length levels), and shifts bytes within each word that
    it moves (log2 of 32 levels); a read port first picks one bank for each place of the ring.
    """
    banks, reads, writes = memory_ports(chip)[memory]
    total = 0
    for kind, widths in (("read", reads), ("write", writes)):
        for width in widths:
            touched = -(-(width + BANK_BYTES - 1) // BANK_BYTES)
            ring = 1 << (touched - 1).bit_length()
            moved = width if kind == "read" else ring * BANK_BYTES
            total += ring * BANK_BYTES * (ring.bit_length() - 1)
            total += moved * (BANK_BYTES.bit_length() - 1)
            total += (banks - ring) * BANK_BYTES if kind == "read" else 0
    return total


def _beat_blocks(chip: ChipSpec) -> int:
    """Blocks of 32 columns in a beat of VECTOR."""
    return max(1, chip.lanes // BLOCK_TERMS)


def _merges(chip: ChipSpec) -> int:
    """Levels over the chunks of a row that come one after the other, as in the RTL."""
    most = max(chip.sram_bytes, chip.accumulator_bytes) // (4 * BLOCK_TERMS)
    return max(1, (most - 1).bit_length()) - (_beat_blocks(chip) - 1).bit_length()


def _crossed(chip: ChipSpec) -> int:
    """Of a memory port of several masters, which are modules of their own: each meets all cores."""
    slots = chip.dram_slots
    return chip.cores * chip.core_port_bursts * slots if slots > 1 else 0


Size = Callable[[ChipSpec], float]
_ONE: Size = lambda chip: 1  # noqa: E731
_SIZES: dict[str, Size] = {
    "matrix": lambda chip: chip.columns,
    "vector": lambda chip: chip.lanes,
    "core": lambda chip: chip.lanes,
    "dma": _ONE,
    "control": _ONE,
    "scratchpad": lambda chip: crossbar_bytes(chip, "scratchpad"),
    "accumulators": lambda chip: crossbar_bytes(chip, "accumulators"),
    "chip": lambda chip: chip.cores * chip.exchange_bytes_per_cycle,
}
"""What the blocks of a part grow with; those that grow with something else are below."""
_BLOCK_SIZES: dict[str, Size] = {
    **dict.fromkeys(("matrix_addresses", "matrix_sequencer", "matrix_check"), _ONE),
    **dict.fromkeys(("vector_engine", "vector_sequencer", "vector_check", "region_check"), _ONE),
    "op_queue": lambda chip: chip.queue_depth,
    "semaphores": lambda chip: chip.outstanding_transfers,
    "reduce_tree": _beat_blocks,
    "reduce_node": lambda chip: BLOCK_TERMS * _beat_blocks(chip) - 1 + _merges(chip),
    "chunk_merge": _merges,
    "chunk_reduce": lambda chip: max(BLOCK_TERMS, chip.lanes),
    "watchdog": lambda chip: chip.cores,
    "memory_port": lambda chip: chip.cores * max(1, chip.dram_slots),
    **dict.fromkeys(("memory_master", "beat_return", "dram_arbiter"), _crossed),
}


def size_of(block: str, part: str, chip: ChipSpec) -> float:
    """What a block's area in a part is proportional to, or grows on a straight line with."""
    return _BLOCK_SIZES.get(block, _SIZES[part])(chip)


def measured(table: AreaTable) -> tuple[str, ...]:
    """The smallest and the largest chip of which the library has every module."""
    found = [name for name in CHIPS if table.has(LIBRARY, name)]
    return tuple(dict.fromkeys((found[0], found[-1])))


def by_block(table: AreaTable, chip: str, part: str) -> dict[str, dict[str, int]]:
    """{block: {module: places}} of a part of a core."""
    found: dict[str, dict[str, int]] = {}
    for module, count in table.places[chip][part].items():
        found.setdefault(family(module), {})[module] = count
    return found


_preset = functools.cache(load_chip)


def _line(at: list[tuple[float, float]], x: float) -> float:
    """On the straight line through what was measured, one point's through nothing at size 0; never
    below nothing. Where both have one size they are one point, of the larger figure."""
    (x0, y0), (x1, y1) = at[0], at[-1]
    if x0 == x1:
        (x0, y0), y1 = (0.0, 0.0), max(y0, y1)
    return max(0.0, y0 + (y1 - y0) / (x1 - x0) * (x - x0)) if x1 != x0 else y1


@dataclass(frozen=True)
class Block:
    """All places of a block in one core. register_bits, macro_bits: of its small memories, and of
    those that are SRAM."""

    area_um2: float
    register_bits: float
    macro_bits: float


def blocks(
    chip: ChipSpec, part: str, table: AreaTable | None = None, *, library: str = LIBRARY
) -> dict[str, Block]:
    """The blocks of a part of one core by name; of the part "chip", of the chip.

    Each lies on the line through the smallest and the largest chip of which it was measured.
    """
    table = standard() if table is None else table
    rows = table.modules[library]
    sums: dict[str, dict[str, list[float]]] = {}
    macros: dict[str, bool] = {}
    for name in (one for one in CHIPS if one in table.places):
        for block, modules in by_block(table, name, part).items():
            if not all(module in rows for module in modules):
                continue
            mine = sums.setdefault(block, {}).setdefault(name, [0.0] * 3)
            for module, count in modules.items():
                row = rows[module]
                is_macro = macros.setdefault(block, row.memory_bits >= MACRO_BITS)
                bits = (row.memory_bits * (not is_macro), row.memory_bits * is_macro)
                for i, figure in enumerate((row.area_um2, *bits)):
                    mine[i] += figure * count
    found: dict[str, Block] = {}
    for block, points in sums.items():
        ends = [next(iter(points)), *list(points)[1:][-1:]]
        x = size_of(block, part, chip)
        area, register, macro = (
            _line([(size_of(block, part, _preset(one)), points[one][i]) for one in ends], x)
            for i in range(3)
        )
        found[block] = Block(area, register, macro)
    return found


@functools.cache
def _figures() -> dict[str, Figure]:
    return load_figures(FIGURES)


def chip_area(chip: ChipSpec, *, table: AreaTable | None = None) -> ChipArea:
    """The area of a chip. table: of synthesis; by default the committed one.

    A chip of another process: logic and SRAM times the ratio of feature sizes, at most its square,
    which is taken as the value: more is not known.
    """
    return _standard_area(chip) if table is None else _area(chip, table)


@functools.lru_cache
def _standard_area(chip: ChipSpec) -> ChipArea:
    return _area(chip, standard())


def _area(chip: ChipSpec, table: AreaTable) -> ChipArea:
    figures, ratio = _figures(), chip.process_nm / LIBRARY_NM
    shrink = Range(ratio**2, min(ratio, ratio**2), max(ratio, ratio**2))
    use, flop_um2 = figures["utilisation"], table.libraries[LIBRARY].flip_flop_um2
    bit = figures["register_bit"]

    def sram(count: float) -> Range:
        cell, share, port = (
            figures[name] for name in ("sram_cell_um2", "sram_array_share", "sram_ports")
        )
        bits = 8 * count / UM2_IN_MM2
        return Range(
            shrink.value * bits * cell.value / share.value * port.value,
            shrink.low * bits * cell.low / share.high * port.low,
            shrink.high * bits * cell.high / share.low * port.high,
        )

    def placed(part: str) -> Range:
        found = blocks(chip, part, table).values()
        area, bits = (
            sum(getattr(block, name) for block in found) / UM2_IN_MM2
            for name in ("area_um2", "register_bits")
        )
        macros = sram(sum(block.macro_bits for block in found) / 8)
        return macros + Range(
            shrink.value * (area + bits * flop_um2 * bit.value) / use.value,
            shrink.low * (area + bits * flop_um2 * bit.low) / use.high,
            shrink.high * (area + bits * flop_um2 * bit.high) / use.low,
        )

    core = {
        "matrix": placed("matrix"),
        "vector": placed("vector"),
        "scratchpad": sram(chip.sram_bytes),
        "accumulators": sram(chip.accumulator_bytes),
        "crossbars": placed("scratchpad") + placed("accumulators"),
        "load and store": placed("dma"),
        "control": placed("control") + placed("core"),
    }
    once = {"exchange and memory port": placed("chip")}
    if chip.dram_kind in CHANNEL_GBPS:
        phy = figures[f"phy_mm2.{chip.dram_kind}"]
        channels = -(-chip.dram_gbps // CHANNEL_GBPS[chip.dram_kind])
        once["DRAM interface"] = Range(phy.value, phy.low, phy.high) * channels
    parts = ("matrix", "vector", "scratchpad", "accumulators", "dma", "control", "core")
    inside = {
        part: {name: block.area_um2 for name, block in blocks(chip, part, table).items()}
        for part in parts
    }
    return ChipArea(chip.cores, core, once, inside)
