"""The 64 counting semaphores, and which engines start in a cycle.

The counters are held as bit planes: plane b has bit b of all counters. Posts and waits become masks
of 64 bits, and one row of gates for each plane adds them to all counters at once.
"""

from itertools import chain

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import ENGINES, LOAD, SEMAPHORE_MAX, SEMAPHORES
from mellivora.rtl.interfaces import END, FAULT, SEMAPHORE_BITS
from mellivora.rtl.pipeline import wire

WORKERS = len(ENGINES) - LOAD
OVERFLOW_FAULT = 6
PLANES = SEMAPHORE_MAX.bit_length()
WAITS = data.StructLayout({"wait0": SEMAPHORE_BITS, "wait1": SEMAPHORE_BITS})


class Semaphores(wiring.Component):
    """Tokens of all engines. outstanding: ends of LOAD and of STORE in one cycle.

    valid, waits: the heads of the queues, LOAD first; ready: their engines could take them.
    start: they are taken in this cycle, and so are their tokens. Where engines wait for the same
    semaphore the earlier in order has the first choice. stop: nothing starts.
    ends0 .. ends3: of LOAD, STORE, MATRIX, VECTOR, in any order; what they post can be taken in the
    next cycle.
    overflow: for each engine its oldest operation in `ends` that posts to a semaphore which passes
    its maximum by this cycle's posts.
    lacks: the head misses a token. posters: for each engine, which one posts in this cycle what its
    head lacks; of two the one that posts to the semaphore with the larger number.
    """

    def __init__(self, outstanding: int) -> None:
        self.ends_of = (outstanding, outstanding, 1, 1)
        self.module_name = f"semaphores_{outstanding}"
        self.has_reset = True
        ends = {
            f"ends{e}": In(data.ArrayLayout(END, count)) for e, count in enumerate(self.ends_of)
        }
        super().__init__(
            {
                "clear": In(1),
                "stop": In(1),
                "valid": In(WORKERS),
                "ready": In(WORKERS),
                "waits": In(data.ArrayLayout(WAITS, WORKERS)),
                "start": Out(WORKERS),
                "overflow": Out(data.ArrayLayout(FAULT, WORKERS)),
                "lacks": Out(WORKERS),
                "posters": Out(data.ArrayLayout(WORKERS, WORKERS)),
                **ends,
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        planes = [Signal(SEMAPHORES, name=f"plane{b}") for b in range(PLANES)]
        takes = self._decide(m, planes)
        ends = [
            [getattr(self, f"ends{e}")[i] for i in range(n)] for e, n in enumerate(self.ends_of)
        ]
        posts = [
            [
                _mask(m, end.valid, end[name], f"{name}_{e}_{i}")
                for i, end in enumerate(row)
                for name in ("post0", "post1")
            ]
            for e, row in enumerate(ends)
        ]
        left = _subtract(m, planes, _count(m, takes, "takes"))
        after, over = _add(m, left, _count(m, list(chain(*posts)), "posts"))
        self._blame(m, posts)
        m.d.sync += [plane.eq(value) for plane, value in zip(planes, after, strict=True)]
        with m.If(self.clear):
            m.d.sync += [plane.eq(0) for plane in planes]
        for e, row in enumerate(ends):
            self._overflow(m, self.overflow[e], row, over)
        return m

    def _decide(self, m: Module, planes: list[Signal]) -> list[Value]:
        """Drives `start`; the masks of the tokens taken."""
        enough = _at_least(m, planes, 2 * WORKERS)
        taken: list[tuple[Value, Value]] = []  # (started, semaphore) of engines before this one
        always = Const(1, 1)
        masks = []
        self._lacking: list[list[Value]] = []
        for e in range(WORKERS):
            first, second = self.waits[e].wait0, self.waits[e].wait1
            wanted = [_mask(m, always, n, f"wait_{e}_{j}") for j, n in enumerate((first, second))]
            tokens = []
            for j, number in enumerate((first, second)):
                others = [started & (other == number) for started, other in taken]
                others += [first == second] if j else []
                before = sum(others[1:], others[0]) if others else Const(0)
                at = f"{e}_{j}"
                have = wire(
                    m,
                    Cat(*((row & wanted[j]).any() for row in enough[: 2 * e + j + 1])),
                    f"have_{at}",
                )
                there = have.bit_select(wire(m, before, f"before_{at}"), 1)
                tokens.append(wire(m, (number == 0) | there, f"token_{at}"))
            m.d.comb += self.lacks[e].eq(~(tokens[0] & tokens[1]))
            self._lacking.append(
                [
                    wire(m, Mux(token, 0, mask), f"lacking_{e}_{j}")
                    for j, (token, mask) in enumerate(zip(tokens, wanted, strict=True))
                ]
            )
            start = wire(
                m, self.valid[e] & self.ready[e] & tokens[0] & tokens[1] & ~self.stop, f"start{e}"
            )
            m.d.comb += self.start[e].eq(start)
            for number, mask in zip((first, second), wanted, strict=True):
                taken.append((start, number))
                masks.append(Mux(start, mask, 0))
        return masks

    def _blame(self, m: Module, posts: list[list[Value]]) -> None:
        """Drives `posters`."""
        by = []
        for e, row in enumerate(posts):
            mask = row[0]
            for other in row[1:]:
                mask = mask | other
            by.append(wire(m, mask, f"posts_of_{e}"))
        for e, lacking in enumerate(self._lacking):
            first, second = (
                wire(m, Cat((mask & posted).any() for posted in by), f"posted_{e}_{j}")
                for j, mask in enumerate(lacking)
            )
            waits = self.waits[e]
            ahead = first.any() & (~second.any() | (waits.wait0 > waits.wait1))
            m.d.comb += self.posters[e].eq(Mux(ahead, first, second))

    def _overflow(self, m: Module, out: data.View, ends: list[data.View], over: Value) -> None:
        """Drives the `overflow` of one engine."""
        oldest: tuple[Value, Value, Value] | None = None
        for i, end in enumerate(ends):
            past = over.bit_select(end.post0, 1) | over.bit_select(end.post1, 1)
            entry = (end.valid & past, end.pc, end.sequence)
            if oldest is None:
                oldest = entry
                continue
            older = wire(m, entry[0] & (~oldest[0] | (entry[2] < oldest[2])), f"older{i}")
            oldest = (
                wire(m, oldest[0] | entry[0], f"any{i}"),
                wire(m, Mux(older, entry[1], oldest[1]), f"pc{i}"),
                wire(m, Mux(older, entry[2], oldest[2]), f"sequence{i}"),
            )
        assert oldest is not None
        with m.If(oldest[0]):
            m.d.comb += [
                out.valid.eq(1),
                out.cause.eq(OVERFLOW_FAULT),
                out.pc.eq(oldest[1]),
                out.sequence.eq(oldest[2]),
            ]


def _mask(m: Module, enable: Value, number: Value, name: str) -> Value:
    """One bit of 64; none for semaphore 0, which is none."""
    one = (Const(1, 1) << number)[:SEMAPHORES]
    return wire(m, Mux(enable, Cat(Const(0, 1), one[1:]), 0), name)


def _at_least(m: Module, planes: list[Signal], most: int) -> list[Value]:
    """For k = 1 .. most (a power of two): which counters are k or more."""
    low = (most - 1).bit_length()
    high = planes[low]
    for plane in planes[low + 1 :]:
        high = high | plane
    rows = [high]  # of `most` itself
    for k in reversed(range(1, most)):
        row = ~Const(0, SEMAPHORES)  # low bits >= k, the lowest bit first
        for b in range(low):
            row = planes[b] & row if k >> b & 1 else planes[b] | row
        rows.insert(0, row | high)
    return [wire(m, row, f"at_least_{k}") for k, row in enumerate(rows, 1)]


def _count(m: Module, masks: list[Value], name: str) -> list[Value]:
    """The sum of the masks for each counter, as planes: carry-save adders."""
    columns = [list(masks)]
    weight = 0
    while weight < len(columns):
        column = columns[weight]
        while len(column) > 1:
            if weight + 1 == len(columns):
                columns.append([])
            parts, column[:] = column[:3], column[3:]
            if len(parts) == 3:
                a, b, c = parts
                total, carry = a ^ b ^ c, (a & b) | (c & (a ^ b))
            else:
                a, b = parts
                total, carry = a ^ b, a & b
            at = f"{name}_{weight}_{len(columns[weight + 1])}"
            column.append(wire(m, total, f"{at}_sum"))
            columns[weight + 1].append(wire(m, carry, f"{at}_carry"))
        weight += 1
    return [column[0] for column in columns]


def _subtract(m: Module, planes: list[Signal], less: list[Value]) -> list[Value]:
    """The counters never fall below zero, as only tokens that are there are taken."""
    out = []
    borrow: Value = Const(0, SEMAPHORES)
    for b, plane in enumerate(planes):
        other = less[b] if b < len(less) else Const(0, SEMAPHORES)
        out.append(wire(m, plane ^ other ^ borrow, f"left{b}"))
        borrow = wire(m, (~plane & (other | borrow)) | (other & borrow), f"borrow{b}")
    return out


def _add(m: Module, planes: list[Value], more: list[Value]) -> tuple[list[Value], Value]:
    """The sums, and which of them passed the maximum."""
    out = []
    carry: Value = Const(0, SEMAPHORES)
    for b, plane in enumerate(planes):
        other = more[b] if b < len(more) else Const(0, SEMAPHORES)
        out.append(wire(m, plane ^ other ^ carry, f"after{b}"))
        carry = wire(m, (plane & other) | (carry & (plane ^ other)), f"carry{b}")
    for other in more[len(planes) :]:
        carry = carry | other
    return out, carry
