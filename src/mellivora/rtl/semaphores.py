"""The 64 counting semaphores, and which engines start in a cycle.

The counters are held as bit planes: plane b has bit b of all counters. Posts and waits become masks
of 64 bits, and one row of gates for each plane adds them to all counters at once.

Which engines start is known late in a cycle, so the tokens they take leave the planes in the next
one: a counter is its number in the planes less the tokens taken of it in the cycle before.
"""

from itertools import chain

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import ENGINES, LOAD, SEMAPHORE_MAX, SEMAPHORES
from mellivora.rtl.interfaces import END, FAULT, SEMAPHORE_BITS
from mellivora.rtl.pipeline import register, wire

WORKERS = len(ENGINES) - LOAD
OVERFLOW_FAULT = 6
COUNT_BITS = SEMAPHORE_MAX.bit_length()
LOW_BITS = (4 * WORKERS - 1).bit_length()
"""Of what all engines take in two cycles: before this cycle's last take there are all others."""
OVERFLOW_CYCLES = 2
"""From the cycle in which operations end to the one in which `overflow` names them."""
WAITS = data.StructLayout({"wait0": SEMAPHORE_BITS, "wait1": SEMAPHORE_BITS})


class Semaphores(wiring.Component):
    """Tokens of all engines. outstanding: ends of LOAD and of STORE in one cycle.

    valid, waits: the heads of the queues, LOAD first; ready: their engines could take them.
    start: they are taken in this cycle, and so are their tokens. Where engines wait for the same
    semaphore the earlier in order has the first choice. stop: nothing starts.
    ends0 .. ends3: of LOAD, STORE, MATRIX, VECTOR, in any order; what they post can be taken in the
    next cycle.
    past: a counter passed its maximum by the posts of the cycle before, or an earlier one; nothing
    starts. overflow: for each engine its oldest operation in `ends` that posts to such a counter,
    OVERFLOW_CYCLES later.
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
                "past": Out(1),
                "overflow": Out(data.ArrayLayout(FAULT, WORKERS)),
                "lacks": Out(WORKERS),
                "posters": Out(data.ArrayLayout(WORKERS, WORKERS)),
                **ends,
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
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
        all_posts = list(chain(*posts))
        most = SEMAPHORE_MAX + 2 * WORKERS + len(all_posts)
        planes = [Signal(SEMAPHORES, name=f"plane{b}") for b in range(most.bit_length())]

        # Who started in the cycle before, and the tokens that took.
        started = Signal(WORKERS)
        m.d.sync += started.eq(self.start)
        taken = [
            (started[e], register(m, self.waits[e][name], f"taken{e}_{name}"))
            for e in range(WORKERS)
            for name in ("wait0", "wait1")
        ]
        takes = [_mask(m, *one, f"takes{i}") for i, one in enumerate(taken)]
        left, short = _subtract(m, planes, _count(m, takes, "takes"))
        # Past the maximum, and not brought back by those takes: what the low bits lack others have.
        some: Value = Const(0, SEMAPHORES)
        high: Value = Const(0, SEMAPHORES)
        for plane in planes[LOW_BITS:COUNT_BITS]:
            some = some | plane
        for plane in planes[COUNT_BITS:]:
            high = high | plane
        over = wire(m, high & (some | ~short), "over")
        m.d.comb += self.past.eq(over.any())

        self._decide(m, planes, taken)
        self._blame(m, posts)
        after = _add(m, left, _count(m, all_posts, "posts"))
        m.d.sync += [plane.eq(value) for plane, value in zip(planes, after, strict=True)]
        with m.If(self.clear):
            m.d.sync += [plane.eq(0) for plane in planes]
            m.d.sync += started.eq(0)
        for e, row in enumerate(ends):
            self._overflow(m, e, row, over)
        return m

    def _decide(self, m: Module, planes: list[Signal], taken: list[tuple[Value, Value]]) -> None:
        """Drives `start` and `lacks`.

        Each engine's tokens are looked for as if each set of the engines before it started; which
        of them did then only chooses.
        """
        high: Value = Const(0, SEMAPHORES)
        for plane in planes[LOW_BITS:]:
            high = high | plane
        rows = [*planes[:LOW_BITS], wire(m, high, "high")]
        starts: list[Value] = []
        self._lacking: list[list[tuple[Value, Value]]] = []  # (mask, there is no token)
        for e in range(WORKERS):
            numbers = self.waits[e].wait0, self.waits[e].wait1
            masks = [_mask(m, Const(1, 1), n, f"wait_{e}_{j}") for j, n in enumerate(numbers)]
            tokens = [
                self._tokens(m, e, j, [(row & masks[j]).any() for row in rows], taken)
                for j in range(2)
            ]
            both = [first & second for first, second in zip(*tokens, strict=True)]
            can = wire(m, self.valid[e] & self.ready[e] & ~self.stop, f"can{e}")
            there = [_chosen(token, starts) for token in tokens]
            m.d.comb += self.lacks[e].eq(~_chosen(both, starts))
            starts.append(wire(m, can & _chosen(both, starts), f"start{e}"))
            m.d.comb += self.start[e].eq(starts[e] & ~self.past)
            self._lacking.append([*zip(masks, (~token for token in there), strict=True)])

    def _tokens(
        self,
        m: Module,
        e: int,
        j: int,
        held: list[Value],
        taken: list[tuple[Value, Value]],
    ) -> list[Value]:
        """Whether there is a token for wait j of engine e, for each set of engines before it.

        held: the low bits of its counter in the planes, and whether it has a higher one.
        """
        number = self.waits[e][f"wait{j}"]
        gone = _total([started & (other == number) for started, other in taken])
        low = wire(m, Cat(held[:LOW_BITS]), f"low_{e}_{j}")
        same = [[self.waits[f][name] == number for name in ("wait0", "wait1")] for f in range(e)]
        own = [self.waits[e].wait0 == number] if j else []
        tokens = []
        for which in range(1 << e):
            before = list(own)
            for f in range(e):
                before += same[f] if which >> f & 1 else []
            needs = wire(m, gone + _total(before), f"needs_{e}_{j}_{which}")
            there = (number == 0) | held[LOW_BITS] | (low > needs)
            tokens.append(wire(m, there, f"token_{e}_{j}_{which}"))
        return tokens

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
                wire(m, Cat((mask & posted).any() & lacks for posted in by), f"posted_{e}_{j}")
                for j, (mask, lacks) in enumerate(lacking)
            )
            waits = self.waits[e]
            ahead = first.any() & (~second.any() | (waits.wait0 > waits.wait1))
            m.d.comb += self.posters[e].eq(Mux(ahead, first, second))

    def _overflow(self, m: Module, e: int, ends: list[data.View], over: Value) -> None:
        """Drives the `overflow` of one engine: `over` is of what ended in the cycle before."""
        oldest: tuple[Value, Value, Value] | None = None
        for i, now in enumerate(ends):
            valid = Signal(name=f"ended_{e}_{i}")
            m.d.sync += valid.eq(now.valid & ~self.clear)
            end = {
                name: register(m, now[name], f"ended_{e}_{i}_{name}")
                for name in ("post0", "post1", "pc", "sequence")
            }
            past = over.bit_select(end["post0"], 1) | over.bit_select(end["post1"], 1)
            entry = (valid & past, end["pc"], end["sequence"])
            if oldest is None:
                oldest = entry
                continue
            older = wire(m, entry[0] & (~oldest[0] | (entry[2] < oldest[2])), f"older_{e}_{i}")
            oldest = (
                wire(m, oldest[0] | entry[0], f"any_{e}_{i}"),
                wire(m, Mux(older, entry[1], oldest[1]), f"pc_{e}_{i}"),
                wire(m, Mux(older, entry[2], oldest[2]), f"sequence_{e}_{i}"),
            )
        assert oldest is not None
        out = self.overflow[e]
        m.d.sync += out.as_value().eq(0)
        with m.If(oldest[0] & ~self.clear):
            m.d.sync += [
                out.valid.eq(1),
                out.cause.eq(OVERFLOW_FAULT),
                out.pc.eq(oldest[1]),
                out.sequence.eq(oldest[2]),
            ]


def _chosen(ways: list[Value], starts: list[Value]) -> Value:
    """The one of the set of engines that starts; the last of them is the last to be known."""
    for start in starts:
        ways = [Mux(start, on, off) for off, on in zip(ways[::2], ways[1::2], strict=True)]
    return ways[0]


def _total(bits: list[Value]) -> Value:
    return sum(bits[1:], bits[0]) if bits else Const(0, 1)


def _mask(m: Module, enable: Value, number: Value, name: str) -> Value:
    """One bit of 64; none for semaphore 0, which is none."""
    one = (Const(1, 1) << number)[:SEMAPHORES]
    return wire(m, Mux(enable, Cat(Const(0, 1), one[1:]), 0), name)


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


def _subtract(m: Module, planes: list[Signal], less: list[Value]) -> tuple[list[Value], Value]:
    """The differences, and which counters have less in their low bits: none is below zero, as only
    tokens that are there are taken."""
    out = []
    borrow: Value = Const(0, SEMAPHORES)
    short: Value = borrow
    for b, plane in enumerate(planes):
        other = less[b] if b < len(less) else Const(0, SEMAPHORES)
        out.append(wire(m, plane ^ other ^ borrow, f"left{b}"))
        borrow = wire(m, (~plane & (other | borrow)) | (other & borrow), f"borrow{b}")
        if b == LOW_BITS - 1:
            short = borrow
    return out, short


def _add(m: Module, planes: list[Value], more: list[Value]) -> list[Value]:
    """The sums; no counter leaves the planes before the core stops."""
    out = []
    carry: Value = Const(0, SEMAPHORES)
    for b, plane in enumerate(planes):
        other = more[b] if b < len(more) else Const(0, SEMAPHORES)
        out.append(wire(m, plane ^ other ^ carry, f"after{b}"))
        carry = wire(m, (plane & other) | (carry & (plane ^ other)), f"carry{b}")
    return out
