"""Random legal operations of VECTOR."""

from __future__ import annotations

import random
import struct

from mellivora.isa.modes import Deq, Func, Kind, Op, Reduce, Store, vew_fn, vew_mode
from mellivora.isa.random_programs.operation import Operation, make
from mellivora.isa.random_programs.shapes import BYTES, FLOATS, SCALES, Room, size

MOST_WORDS = 320
"""Of a tile: what keeps a program short."""
_CONSTANTS = (0.0, -0.0, 1.0, -1.5, 2.0**-130, float("inf"), float("-inf"), float("nan"), 3e38)
_DEQ_BYTES = {
    Deq.F16: (64, 0),
    Deq.BF16: (64, 0),
    Deq.INT32: (128, 0),
    Deq.INT8: (32, 0),
    **dict.fromkeys((Deq.MX1, Deq.MX2, Deq.MX3), (32, 1)),
    Deq.Q8_0: (32, 2),
    Deq.Q4_0: (16, 2),
    Deq.Q4_1: (16, 4),
}
"""Bytes of codes and of scales of 32 columns in one plane."""


class Impossible(Exception):
    """No room for what was drawn: draw again."""


def garbage(pick: random.Random) -> int:
    """A value that must not matter."""
    if pick.random() < 0.7:
        return 0
    return pick.choice((1, -1, pick.randrange(2048), pick.randrange(-(1 << 31), 1 << 31)))


def constant(pick: random.Random) -> int:
    """FP32 bits as a signed number."""
    value = pick.choice((*_CONSTANTS, pick.gauss(0, 4), pick.gauss(0, 4)))
    return struct.unpack("<i", struct.pack("<f", value))[0]


class Vectors:
    """Makes operations of VECTOR in a room; `note` of the room is the caller's."""

    def __init__(self, room: Room, pick: random.Random, lanes: int) -> None:
        self.room, self.pick, self.lanes = room, pick, lanes
        self.ops = {
            "vew": self.vew, "vred": self.vred, "vquant": self.vquant, "vdeq": self.vdeq,
        }  # fmt: skip

    def shape(self, *, block: int = 1) -> tuple[int, int]:
        """Rows and columns about the lanes; columns a multiple of `block`."""
        pick = self.pick
        if block > 1:
            count = pick.choice((1, 1, 1, 2, 2, 3, 5, 0, 0, -1)) if pick.random() < 0.8 else 1
            cols = block * count
        else:
            cols = size(pick, self.lanes, 96, none=0.1)
            if pick.random() < 0.05:
                cols = pick.choice((32, 33, 64, 65, 96, 160, 256, 288))
        most = MOST_WORDS // max(cols, 1)
        return size(pick, 3, max(most, 1), none=0.1), cols

    def stride(self, rows: int, width: int, word: int, *, written: bool) -> int:
        """Bytes from row to row; a source may have rows on each other."""
        pick, chance = self.pick, self.pick.random()
        if rows == 1 and chance < 0.1:
            return pick.randrange(1 << 29) * 4 if pick.random() < 0.5 else 0
        if chance < 0.55 and width % word == 0:
            return width
        if not written and chance < 0.75:
            return pick.choice((0, word, width // 2 // word * word))
        pad = pick.randrange(0, 9) * word
        return -(-width // word) * word + pad

    def read(self, rows: int, width: int, kind: str, word: int) -> tuple[int, int]:
        """Address and stride of a source."""
        stride = self.stride(rows, width, word, written=False)
        if rows <= 0 or width <= 0:
            return garbage(self.pick), garbage(self.pick)
        extent = (rows - 1) * stride + width
        if extent > self.room.longest():
            stride, extent = 0, width
        at = self.room.source(extent, kind, align=word, vector=True)
        if at is None:
            raise Impossible
        return at, stride

    def write(self, rows: int, width: int, word: int) -> tuple[int, int]:
        """Address and stride of a destination."""
        stride = self.stride(rows, width, word, written=True)
        if rows <= 0 or width <= 0:
            return garbage(self.pick), garbage(self.pick)
        at = self.room.place((rows - 1) * stride + width, align=word, vector=True)
        if at is None:
            raise Impossible
        return at, stride

    def operand(self, kind: Kind, rows: int, cols: int) -> tuple[int, int]:
        if kind == Kind.CONST:
            return constant(self.pick), garbage(self.pick)
        if kind == Kind.E8M0:
            return self.read(rows, cols, SCALES, 1)
        width = 4 if kind == Kind.ROW and cols > 0 else 4 * cols
        return self.read(rows, width, FLOATS, 4)

    def mask(self, rows: int, cols: int) -> tuple[int, int, int]:
        """mask_limit, mask_mod and mask_window."""
        pick = self.pick
        near = max(cols, 0)
        limit = pick.choice((0, 1, near - 1, near, near + 1, pick.randint(-3, 99)))
        return limit, pick.choice((0, 1, 2, rows, -1)), pick.choice((0, -1, 1, 3, near))

    def vew(self) -> Operation:
        pick, (rows, cols) = self.pick, self.shape()
        op1, op2 = Op(pick.randrange(8)), Op(pick.choice((0, *range(8))))
        func = Func(pick.choice((0, pick.randrange(9))))
        kinds = Kind(pick.randrange(4)), Kind(pick.randrange(4))
        a, a_stride = self.read(rows, 4 * cols, FLOATS, 4)
        b, b_stride = self.operand(kinds[0], rows, cols) if op1 else (garbage(pick), garbage(pick))
        c, c_stride = self.operand(kinds[1], rows, cols) if op2 else (garbage(pick), garbage(pick))
        if rows > 0 and cols > 0 and a_stride >= 4 * cols and pick.random() < 0.15:
            dst, dst_stride = a, a_stride
        elif op1 and kinds[0] == Kind.TENSOR and b_stride >= 4 * cols and pick.random() < 0.15:
            dst, dst_stride = b, b_stride
        else:
            dst, dst_stride = self.write(rows, 4 * cols, 4)
        masked = pick.random() < 0.3
        slots = (dst, a, b, c, rows, cols, vew_fn(op1, op2, func),
                 vew_mode(b=kinds[0], c=kinds[1], mask=masked))  # fmt: skip
        mask = self.mask(rows, cols) if masked else (garbage(pick), garbage(pick), garbage(pick))
        return make("vew", slots, (dst_stride, a_stride, b_stride, c_stride, *mask))

    def vred(self) -> Operation:
        pick, (rows, cols) = self.pick, self.shape()
        a, a_stride = self.read(rows, 4 * cols, FLOATS, 4)
        dst, dst_stride = self.write(rows, 4 if cols > 0 else 0, 4)
        masked = int(pick.random() < 0.35)
        slots = (dst, a, rows, cols, pick.choice(list(Reduce)), masked)
        mask = self.mask(rows, cols) if masked else (garbage(pick), garbage(pick), garbage(pick))
        return make("vred", slots, (dst_stride, a_stride, garbage(pick), garbage(pick), *mask))

    def vquant(self) -> Operation:
        pick, target = self.pick, Store(self.pick.randint(1, 6))
        wide = pick.random() < 0.4
        blocked = target <= Store.MX3
        rows, cols = self.shape(block=32 if blocked and not wide else 1)
        kind = pick.choice((None, *Kind))
        a, a_stride = self.read(rows, 4 * cols, FLOATS, 4)
        b, b_stride = (garbage(pick),) * 2 if kind is None else self.operand(kind, rows, cols)
        width = cols * (2 if target in (Store.F16, Store.BF16) else 1)
        dst, dst_stride = self.write(rows, width, 1)
        scale, scale_stride, plane = garbage(pick), garbage(pick), garbage(pick)
        if blocked and rows > 0 and cols > 0:
            scale, scale_stride = self.write(rows, 1 if wide else cols // 32, 1)
            extent = (rows - 1) * dst_stride + width
            plane = extent + pick.randrange(0, 9)
            if dst_stride > 0 and rows > 1 and dst_stride >= target * width:
                plane = pick.choice((plane, width))  # planes woven into each other's rows
            if pick.random() < 0.2:
                dst, plane = dst + (target - 1) * plane, -plane
            plane = plane if target > 1 else garbage(pick)
        mode = int(target) | wide << 3 | (kind is not None) << 4 | int(kind or 0) << 5
        slots = (dst, scale, a, b, rows, cols, mode)
        return make("vquant", slots, (dst_stride, a_stride, b_stride, scale_stride, plane))

    def vdeq(self) -> Operation:
        pick, fmt = self.pick, Deq(self.pick.randrange(10))
        blocked = Deq.MX1 <= fmt <= Deq.Q4_1
        rows, cols = self.shape(block=32 if blocked else 1)
        codes, scales = _DEQ_BYTES[fmt]
        planes = fmt - Deq.MX1 + 1 if Deq.MX1 <= fmt <= Deq.MX3 else 1
        dst, dst_stride = self.write(rows, 4 * cols, 4)
        word = 4 if fmt == Deq.INT32 else 1
        src, src_stride = self.read(rows, codes * cols // 32, BYTES, word)
        plane, scale, scale_stride = garbage(pick), garbage(pick), garbage(pick)
        if rows > 0 and cols > 0:
            extent = (rows - 1) * src_stride + codes * cols // 32
            if planes > 1:
                plane = min(pick.choice((0, extent, 1, extent + 5)),
                            (self.room.longest() - extent) // (planes - 1))  # fmt: skip
                at = self.room.source(extent + (planes - 1) * plane, BYTES, vector=True)
                if plane < 0 or at is None:
                    raise Impossible
                src = at
                if pick.random() < 0.2:
                    src, plane = src + (planes - 1) * plane, -plane
            if scales:
                kind = SCALES if scales == 1 else BYTES
                scale, scale_stride = self.read(rows, scales * cols // 32, kind, 1)
        slots = (dst, src, scale, rows, cols, int(fmt))
        return make("vdeq", slots, (dst_stride, src_stride, scale_stride, garbage(pick), plane))
