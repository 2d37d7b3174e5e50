"""Kernel builder: tiles in, low-level IR out, regions noted on the way."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

from mellivora.compiler.emit import CACHE_FIRST
from mellivora.compiler.ir import EngineOp, Item, Loop, Operand, Reg, Region, ScalarOp
from mellivora.compiler.rounding import round_up
from mellivora.errors import CompileError
from mellivora.isa.encoding import ACCUMULATOR_BASE
from mellivora.isa.modes import Deq, Func, Kind, Op, Reduce, Store, vew_fn, vew_mode, vquant_mode
from mellivora.spec import ChipSpec

ALIGN_BYTES = 64


class NoRoom(CompileError):
    """The scratchpad or the accumulators do not hold the kernel; with fewer rows it may fit."""


def no_room(where: str, *, given: str, allowed: str) -> NoRoom:
    """The error of a scratchpad that is too small."""
    return NoRoom(
        "MV0403",
        "the chip's scratchpad is too small for this model",
        where=where,
        given=given,
        allowed=allowed,
        hint="use a chip with more sram_bytes, a smaller batch, or fewer slices",
    )


@dataclass(frozen=True)
class Buffer:
    """Bytes [address, address + size) of scratchpad or accumulators. Conflicts: within `root`."""

    root: str
    address: int
    size: int

    def at(self, offset: int = 0, reg: Reg | None = None) -> Ref:
        return Ref(self, offset, reg)


@dataclass(frozen=True)
class Ref:
    """A place in a buffer. With reg, the address is in it and the whole buffer is touched."""

    buffer: Buffer
    offset: int = 0
    reg: Reg | None = None

    @property
    def operand(self) -> Operand:
        return self.reg if self.reg is not None else self.buffer.address + self.offset

    def plus(self, offset: int) -> Ref:
        return replace(self, offset=self.offset + offset)

    def region(self, size: Operand | None) -> Region:
        """Bytes touched; size None or a register: to the end of the buffer."""
        start = self.buffer.address
        if self.reg is not None:
            return Region(self.buffer.root, start, start + self.buffer.size)
        end = self.buffer.size if not isinstance(size, int) else self.offset + size
        return Region(self.buffer.root, start + self.offset, start + max(end, self.offset + 1))


@dataclass(frozen=True)
class Tile:
    """FP32 (or byte) rows at ref, `stride` bytes apart; stride 0 repeats the row."""

    ref: Ref
    stride: Operand = 0

    def region(self, rows: Operand, row_bytes: Operand) -> Region:
        if isinstance(rows, Reg) or isinstance(row_bytes, Reg) or isinstance(self.stride, Reg):
            return self.ref.region(None)
        return self.ref.region((rows - 1) * self.stride + row_bytes if rows > 0 else 1)


@dataclass(frozen=True)
class RowVec(Tile):
    """One FP32 a row."""


@dataclass(frozen=True)
class Exponents(Tile):
    """One E8M0 byte a column."""


Term: TypeAlias = Tile | float | None


def float_bits(value: float) -> int:
    """The 32 bits of value rounded to FP32."""
    return struct.unpack("<i", struct.pack("<f", value))[0]


@dataclass(frozen=True)
class Mask:
    """Row r keeps columns below limit + r % mod (and, with a window, not older than `window`)."""

    limit: Operand
    mod: Operand = 1
    window: int = 0


class Kernel:
    """Program under construction for one core of `chip` (all cores run the same)."""

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.items: list[Item] = []
        self.labels: list[tuple[str, str]] = [("start", "control")]
        self.label = 0
        self.free_bytes = 0
        self.overlay_root = ""
        self.buffers: dict[str, Buffer] = {}
        self.next_register = 3
        self.next_accumulator = 0

    # ------------------------------------------------------------------ memory

    def alloc(self, name: str, size: int, *, root: str | None = None) -> Buffer:
        """A buffer of its own in the scratchpad. Raises MV0403 when the scratchpad is full."""
        address = self.free_bytes
        self.free_bytes = round_up(address + size, ALIGN_BYTES)
        if self.free_bytes > self.chip.sram_bytes:
            raise no_room(
                f"{self.chip.name}: buffer {name}",
                given=f"{self.free_bytes} bytes",
                allowed=f"{self.chip.sram_bytes} bytes a core",
            )
        self.buffers[name] = Buffer(root or self.overlay_root or name, address, size)
        return self.buffers[name]

    @contextmanager
    def overlay(self, root: str, phases: int) -> Iterator[Callable[[], None]]:
        """Phases that never live at once share bytes: call what this gives to start each."""
        base, top, outer = self.free_bytes, self.free_bytes, self.overlay_root
        started = 0

        def start() -> None:
            nonlocal top, started
            top, self.free_bytes, self.overlay_root = max(top, self.free_bytes), base, root
            started += 1

        yield start
        assert started == phases, f"{started} phases of {phases}"
        self.free_bytes, self.overlay_root = max(top, self.free_bytes), outer

    def reserve_accumulators(self, rows: int) -> None:
        """The next calls of `accumulators`, up to `rows` rows in all, give rows apart."""
        if rows > self.chip.accumulator_rows:
            raise NoRoom(
                "MV0404",
                "too many rows for the accumulators",
                given=str(rows),
                allowed=str(self.chip.accumulator_rows),
                hint="report this kernel",
            )
        if self.next_accumulator + rows > self.chip.accumulator_rows:
            self.next_accumulator = 0

    def accumulators(self, rows: int) -> Buffer:
        """The next `rows` accumulator rows, round robin; earlier ones may be given again."""
        self.reserve_accumulators(rows)
        start, pitch = self.next_accumulator, 4 * self.chip.columns
        self.next_accumulator += rows
        return Buffer("acc", ACCUMULATOR_BASE + start * pitch, rows * pitch)

    def acc_row(self, buffer: Buffer) -> int:
        return (buffer.address - ACCUMULATOR_BASE) // (4 * self.chip.columns)

    # ------------------------------------------------------------------ CONTROL

    def reg(self) -> Reg:
        """A scalar register for the rest of the program."""
        if self.next_register >= CACHE_FIRST:
            raise CompileError("MV0405", "out of scalar registers", hint="report this kernel")
        self.next_register += 1
        return Reg(self.next_register - 1)

    def scalar(self, name: str, rd: Reg, a: Operand, b: Operand = 0) -> Reg:
        self.items.append(ScalarOp(name, rd, a, b))
        return rd

    def parameter(self, index: Operand) -> Reg:
        """A register loaded from the parameter memory here."""
        return self.scalar("ldp", self.reg(), index)

    @contextmanager
    def temps(self, count: int) -> Iterator[tuple[Reg, ...]]:
        """Scalar registers for the time of a block."""
        yield tuple(self.reg() for _ in range(count))
        self.next_register -= count

    @contextmanager
    def loop(self, count: Operand) -> Iterator[None]:
        outer, self.items = self.items, []
        yield
        body, self.items = self.items, outer
        self.items.append(Loop(count, body))

    @contextmanager
    def named(self, label: str, kind: str) -> Iterator[None]:
        """Operations inside carry this label and kind in reports."""
        before = self.label
        self.labels.append((label, kind))
        self.label = len(self.labels) - 1
        yield
        self.label = before

    # ------------------------------------------------------------------ engines

    def put(
        self,
        name: str,
        slots: list[Operand],
        config: tuple[Operand, ...] | None = None,
        *,
        reads: tuple[Region, ...] = (),
        writes: tuple[Region, ...] = (),
        prefetch: bool = False,
    ) -> None:
        self.items.append(EngineOp(name, slots, config, reads, writes, self.label, prefetch))

    def dma(
        self,
        name: str,
        near: Ref,
        *,
        window: int,
        offset: Operand,
        fine: Operand = 0,
        n: tuple[Operand, ...],
        d: tuple[Operand, ...] = (),
        p: tuple[Operand, ...] = (),
        far: Region | None = None,
        near_size: int | None = None,
        prefetch: bool = False,
        table: Ref | None = None,
    ) -> None:
        """LOAD, LOADM, STORE or LOADX; n inner first; outer strides in d (DRAM), p (scratchpad).

        table: INT32 pages of LOADX, n[3] of them.
        """
        counts = [*n, 1, 1, 1, 1][:4]
        config = (*([*d, 0, 0, 0][:3]), *([*p, 0, 0, 0][:3]))
        local = near.region(n[0] if len(n) == 1 else near_size)
        remote = (far,) if far is not None else ()
        if table is not None:
            assert not prefetch, "hoist does not look at what a prefetch reads"
            config += (table.operand,)
            remote += (table.region(4 * counts[3] if isinstance(counts[3], int) else None),)
        store = name == "store"
        self.put(
            name,
            [window, offset, fine, near.operand, *counts],
            config,
            reads=(local,) if store else remote,
            writes=remote if store else (local,),
            prefetch=prefetch,
        )

    def _term(
        self, term: Term, rows: Operand, cols: Operand
    ) -> tuple[Operand, Operand, Kind, tuple[Region, ...]]:
        if term is None:
            return 0, 0, Kind.CONST, ()
        if isinstance(term, int | float):
            return float_bits(term), 0, Kind.CONST, ()
        if isinstance(term, RowVec):
            return term.ref.operand, term.stride, Kind.ROW, (term.region(rows, 4),)
        if isinstance(term, Exponents):
            return term.ref.operand, term.stride, Kind.E8M0, (term.region(rows, cols),)
        return term.ref.operand, term.stride, Kind.TENSOR, (term.region(rows, _times4(cols)),)

    def vew(
        self,
        dst: Tile,
        a: Tile,
        *,
        rows: Operand,
        cols: Operand,
        op1: Op = Op.NONE,
        b: Term = None,
        op2: Op = Op.NONE,
        c: Term = None,
        func: Func = Func.ID,
        mask: Mask | None = None,
    ) -> None:
        """dst = func((a op1 b) op2 c)."""
        b_value, b_stride, b_kind, b_reads = self._term(b, rows, cols)
        c_value, c_stride, c_kind, c_reads = self._term(c, rows, cols)
        config: tuple[Operand, ...] = (dst.stride, a.stride, b_stride, c_stride)
        if mask:
            config += (mask.limit, mask.mod, mask.window)
        row_bytes = _times4(cols)
        self.put(
            "vew",
            [
                dst.ref.operand,
                a.ref.operand,
                b_value,
                c_value,
                rows,
                cols,
                vew_fn(op1, op2, func),
                vew_mode(b=b_kind, c=c_kind, mask=mask is not None),
            ],
            config,
            reads=(a.region(rows, row_bytes), *b_reads, *c_reads),
            writes=(dst.region(rows, row_bytes),),
        )

    def vred(
        self,
        dst: RowVec,
        a: Tile,
        *,
        rows: Operand,
        cols: Operand,
        op: Reduce,
        mask: Mask | None = None,
    ) -> None:
        config: tuple[Operand, ...] = (dst.stride, a.stride)
        if mask:
            config += (0, 0, mask.limit, mask.mod, mask.window)
        self.put(
            "vred",
            [dst.ref.operand, a.ref.operand, rows, cols, int(op), int(mask is not None)],
            config,
            reads=(a.region(rows, _times4(cols)),),
            writes=(dst.region(rows, 4),),
        )

    def vquant(
        self,
        dst: Tile,
        scale: Tile,
        a: Tile,
        *,
        rows: Operand,
        cols: int,
        slices: int,
        plane: Operand,
        b: Tile | None = None,
        wide: bool = False,
    ) -> None:
        """Slices of a (times b) at dst, `plane` bytes apart; a scale byte a block (or a row)."""
        b_value, b_stride, b_kind, b_reads = self._term(b, rows, cols)
        mode = vquant_mode(Store(slices), b=b_kind if b is not None else None, wide=wide)
        writes = [scale.region(rows, 1 if wide else cols // 32)]
        for j in range(slices):
            if isinstance(plane, int):
                writes.append(Tile(dst.ref.plus(j * plane), dst.stride).region(rows, cols))
            else:
                writes.append(dst.ref.region(None))
        self.put(
            "vquant",
            [dst.ref.operand, scale.ref.operand, a.ref.operand, b_value, rows, cols, mode],
            (dst.stride, a.stride, b_stride, scale.stride, plane),
            reads=(a.region(rows, 4 * cols), *b_reads),
            writes=tuple(writes),
        )

    def vdeq(
        self,
        dst: Tile,
        src: Tile,
        scale: Tile,
        *,
        rows: Operand,
        cols: int,
        fmt: Deq,
        plane: int = 0,
    ) -> None:
        self.put(
            "vdeq",
            [dst.ref.operand, src.ref.operand, scale.ref.operand, rows, cols, int(fmt)],
            (dst.stride, src.stride, scale.stride, 0, plane),
            reads=(src.ref.region(None), scale.ref.region(None)),
            writes=(dst.region(rows, 4 * cols),),
        )


def _times4(cols: Operand) -> Operand:
    return 4 * cols if isinstance(cols, int) else cols
