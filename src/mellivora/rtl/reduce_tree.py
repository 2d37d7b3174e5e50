"""The reduction of a chunk of 32 by the fixed tree of `numerics.reduce`."""

from amaranth.hdl import Module, Mux, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.numerics.reduce import CHUNK
from mellivora.rtl.fp32_add import Fp32Add
from mellivora.rtl.fp32_max import Fp32Max
from mellivora.rtl.pipeline import register
from mellivora.rtl.primitive import Primitive
from mellivora.rtl.sharing import share

NODE_STAGES = 2
LEVELS = CHUNK.bit_length() - 1
TREE_STAGES = LEVELS * NODE_STAGES


class ReduceNode(wiring.Component):
    """q = max(a, b) if take_max else fl(a + b), after 2 cycles."""

    a: In(32)
    b: In(32)
    take_max: In(1)
    q: Out(32)
    module_name = "reduce_node"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.add = add = Fp32Add(stages=NODE_STAGES)
        m.submodules.maximum = maximum = Fp32Max()
        late = register(m, maximum.q, "maximum_2")
        m.d.comb += [
            add.a.eq(self.a),
            add.b.eq(self.b),
            maximum.a.eq(self.a),
            maximum.b.eq(self.b),
            self.q.eq(Mux(register(m, self.take_max, "take_max_2", stages=2), late, add.q)),
        ]
        return m


class ReduceTree(wiring.Component):
    """q = reduction of x[0..31], 10 cycles later; a chunk each cycle.

    x[i] op x[i + 16], then strides 8, 4, 2, 1. Places beyond a row's end hold the identity: -0 for
    a sum, -infinity for a maximum.
    """

    x: In(data.ArrayLayout(32, CHUNK))
    take_max: In(1)
    q: Out(32)
    module_name = "reduce_tree"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        level: list[Value] = [self.x[i] for i in range(CHUNK)]
        take_max: Value = self.take_max
        while len(level) > 1:
            half = len(level) // 2
            nodes = [ReduceNode() for _ in range(half)]
            for i, node in enumerate(nodes):
                m.submodules[f"node_{half}_{i}"] = share(node)
                m.d.comb += [
                    node.a.eq(level[i]),
                    node.b.eq(level[i + half]),
                    node.take_max.eq(take_max),
                ]
            level = [node.q for node in nodes]
            take_max = register(m, take_max, f"take_max_{half}", stages=NODE_STAGES)
        m.d.comb += self.q.eq(level[0])
        return m


REDUCE_SUM = Primitive(
    name="reduce_tree", compute=numerics.tree_sum, create=ReduceTree, stages=TREE_STAGES
)
REDUCE_MAX = Primitive(
    name="reduce_tree", compute=numerics.tree_max, create=ReduceTree, stages=TREE_STAGES
)
"""VRED: the five levels of REDUCE_FILL_CYCLES; 6 cycles remain for the merge of chunks."""
