"""VRED behind the lanes: beats to chunks of 32, the tree of a chunk, the tree over chunks."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.numerics.reduce import CHUNK
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.reduce_tree import NODE_STAGES, TREE_STAGES, ReduceNode, ReduceTree
from mellivora.rtl.sharing import share
from mellivora.rtl.vector_control import beats_a_block, blocks_a_beat
from mellivora.rtl.vector_lane import only_if
from mellivora.spec import ChipSpec

NEGATIVE_ZERO, NEGATIVE_INFINITY = 0x80000000, 0xFF800000


def merge_levels(chip: ChipSpec) -> int:
    """Of the tree over the chunks of the longest row that a memory can hold."""
    most = max(chip.sram_bytes, chip.accumulator_bytes) // (4 * CHUNK)
    return max(1, (most - 1).bit_length())


class ChunkMerge(wiring.Component):
    """One level of the tree over a row's chunks as they come: a op b of neighbours, 2 cycles later.

    The last of a row that has no neighbour is joined with the identity, which changes no bit.
    Without `use` nothing comes out.
    """

    use: In(1)
    take_max: In(1)
    valid: In(1)
    last: In(1)
    x: In(32)
    q_valid: Out(1)
    q_last: Out(1)
    q: Out(32)
    module_name = "chunk_merge"
    has_reset = True

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.node = share(node := ReduceNode())
        waits, first = Signal(), Signal(32, reset_less=True)
        come = wire(m, self.valid & self.use, "come")
        feed = wire(m, come & (waits | self.last), "feed")
        identity = Mux(self.take_max, NEGATIVE_INFINITY, NEGATIVE_ZERO)
        with m.If(come):
            m.d.sync += [waits.eq(~feed), first.eq(self.x)]
        m.d.comb += [
            node.a.eq(only_if(feed, Mux(waits, first, self.x))),
            node.b.eq(only_if(feed, Mux(waits, self.x, identity)[:32])),
            node.take_max.eq(self.take_max),
            self.q.eq(node.q),
        ]
        valid, last = feed, feed & self.last
        for stage in range(NODE_STAGES):
            valid_next, last_next = Signal(name=f"valid_{stage}"), Signal(name=f"last_{stage}")
            m.d.sync += [valid_next.eq(valid), last_next.eq(last)]
            valid, last = valid_next, last_next
        m.d.comb += [self.q_valid.eq(valid), self.q_last.eq(last)]
        return m


class ChunkReduce(wiring.Component):
    """q of a row, with q_valid, 12 + 2 * levels cycles after the beat that is its last.

    x: the lanes of a beat, those outside `inside` do not count; block_last: it fills or ends a
    chunk. 1 cycle collects, 10 are the tree of a chunk, 2 each level over chunks, 1 for the result.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.levels = merge_levels(chip)
        self.module_name = f"chunk_reduce_{chip.lanes}_{self.levels}"
        super().__init__(
            {
                "take_max": In(1),
                "levels_used": In(5),
                "valid": In(1),
                "block_last": In(1),
                "row_last": In(1),
                "inside": In(chip.lanes),
                "x": In(data.ArrayLayout(32, chip.lanes)),
                "q_valid": Out(1),
                "q": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chunks, valid, last = self._collect(m)
        results = []
        for g, chunk in enumerate(chunks):
            m.submodules[f"tree_{g}"] = share(tree := ReduceTree())
            m.d.comb += [tree.x.eq(chunk), tree.take_max.eq(self.take_max)]
            results.append(tree.q)
        valid, last = _delay(m, TREE_STAGES, valid, last, "tree")
        found = [(results[0], valid & last)]
        level = 0
        while len(results) > 1:  # chunks of one beat side by side
            results = self._side_by_side(m, results, level)
            valid, last = _delay(m, NODE_STAGES, valid, last, f"beside_{level}")
            found.append((results[0], valid & last))
            level += 1
        value = results[0]
        for k in range(level, self.levels):
            m.submodules[f"merge_{k}"] = share(merge := ChunkMerge())
            m.d.comb += [
                merge.use.eq(self.levels_used > k),
                merge.take_max.eq(self.take_max),
                merge.valid.eq(valid),
                merge.last.eq(last),
                merge.x.eq(value),
            ]
            value, valid, last = merge.q, merge.q_valid, merge.q_last
            found.append((value, valid & last))
        q, q_valid = C(0, 32), C(0, 1)
        for k, (value, done) in enumerate(found):
            here = wire(m, self.levels_used == k, f"ends_at_{k}")
            q, q_valid = q | only_if(here, value), q_valid | (here & done)
        out = Signal()
        m.d.sync += out.eq(q_valid)
        m.d.comb += [self.q.eq(register(m, q, "q_out")), self.q_valid.eq(out)]
        return m

    def _collect(self, m: Module) -> tuple[list[Value], Value, Value]:
        """Chunks with the identity where a row has no column; whether they are whole, a row's
        last."""
        lanes = self.chip.lanes
        within = beats_a_block(lanes)
        identity = Mux(self.take_max, NEGATIVE_INFINITY, NEGATIVE_ZERO)[:32]
        x = [wire(m, Mux(self.inside[i], self.x[i], identity), f"inside_{i}") for i in range(lanes)]
        valid, last = Signal(name="chunk"), Signal(name="chunk_last")
        m.d.sync += [
            valid.eq(self.valid & self.block_last),
            last.eq(self.row_last),
        ]
        place = Signal(range(within + 1), name="place")
        words = [Signal(32, name=f"word_{i}", reset_less=True) for i in range(lanes * within)]
        with m.If(self.valid):
            m.d.sync += place.eq(Mux(self.block_last, 0, place + 1))
            for i, word in enumerate(words):
                part, lane = divmod(i, lanes)
                if part == 0:
                    with m.If(place == 0):
                        m.d.sync += word.eq(x[lane])
                else:
                    with m.If(place == part):
                        m.d.sync += word.eq(x[lane])
                    with m.Elif(place == 0):
                        m.d.sync += word.eq(identity)
        count = blocks_a_beat(lanes)
        return [Cat(words[g * CHUNK : (g + 1) * CHUNK]) for g in range(count)], valid, last

    def _side_by_side(self, m: Module, results: list[Value], level: int) -> list[Value]:
        joined = []
        for i in range(0, len(results), 2):
            m.submodules[f"beside_{level}_{i}"] = share(node := ReduceNode())
            m.d.comb += [
                node.a.eq(results[i]),
                node.b.eq(results[i + 1]),
                node.take_max.eq(self.take_max),
            ]
            joined.append(node.q)
        return joined


def _delay(m: Module, stages: int, valid: Value, last: Value, name: str) -> tuple[Value, Value]:
    """Flags with a reset: one that is true by chance would be a write."""
    for stage in range(stages):
        valid_next = Signal(name=f"{name}_valid_{stage}")
        m.d.sync += valid_next.eq(valid)
        valid = valid_next
    return valid, register(m, last, f"{name}_last", stages=stages)
