"""One lane of VECTOR: two binary stages and a function, each rounded to FP32."""

from amaranth.hdl import C, Cat, Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.modes import Func, Op
from mellivora.numerics.fp32 import INF_BITS, NAN_BITS
from mellivora.rtl.fp32_add import Fp32Add
from mellivora.rtl.fp32_fields import Fields, unpack
from mellivora.rtl.fp32_max import Fp32Max
from mellivora.rtl.fp32_mul import multiply
from mellivora.rtl.int_to_fp32 import INT_TO_FP32, IntToFp32
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.sharing import share
from mellivora.rtl.table_functions import TABLE_STAGES, TableFunction

BINARY_STAGES = 3
LANE_STAGES = 2 * BINARY_STAGES
ONE_BITS = 0x3F800000
TABLES = {
    Func.EXP2: "exp2",
    Func.LOG2: "log2",
    Func.RECIP: "recip",
    Func.RSQRT: "rsqrt",
    Func.SIN: "sin_turns",
    Func.COS: "cos_turns",
}
"""Functions that have a table; TABLE_FILL_CYCLES are theirs."""


def only_if(condition: Value, bits: Value) -> Value:
    """The bits, or zeros: what is not asked for stands still."""
    return bits & condition.replicate(len(bits))


class ScaleMul(wiring.Component):
    """q = fl(a * b) after 3 cycles; where `integer`, a is a sign at 31 and 24 bits of magnitude.

    Such an integer takes the multiplier's way as it is: see `scale_dot`.
    """

    a: In(32)
    b: In(32)
    integer: In(1)
    q: Out(32)
    module_name = "scale_mul"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        real = unpack(m, self.a, "a")
        either = Fields(
            sign=self.a[31],
            exponent=wire(m, Mux(self.integer, 150, real.exponent), "exponent"),
            significand=wire(m, Mux(self.integer, self.a[:24], real.significand), "significand"),
            nan=real.nan & ~self.integer,
            infinite=real.infinite & ~self.integer,
        )
        m.d.comb += self.q.eq(register(m, multiply(m, either, unpack(m, self.b, "b")), "q_out"))
        return m


class BinaryStage(wiring.Component):
    """q = t op x after 3 cycles, NaN canonical; op NONE: t. integer: t as in ScaleMul, op MUL.

    Units that are not asked get zeros and give zeros, so the result is the OR of all.
    """

    t: In(32)
    x: In(32)
    op: In(3)
    integer: In(1)
    q: Out(32)
    module_name = "binary_stage"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.add = share(adder := Fp32Add())
        m.submodules.mul = share(product := ScaleMul())
        m.submodules.maximum = share(larger := Fp32Max())
        is_op = {op: wire(m, self.op == op, f"is_{op.name.lower()}") for op in Op}
        adds = is_op[Op.ADD] | is_op[Op.SUB] | is_op[Op.RSUB]
        times = is_op[Op.MUL]
        compares = is_op[Op.MAX] | is_op[Op.MIN] | is_op[Op.GT]
        flip_t, flip_x = C(0, 31), C(0, 31)
        m.d.comb += [
            adder.a.eq(only_if(adds, self.t) ^ Cat(flip_t, is_op[Op.RSUB])),
            adder.b.eq(only_if(adds, self.x) ^ Cat(flip_x, is_op[Op.SUB])),
            product.a.eq(only_if(times, self.t)),
            product.b.eq(only_if(times, self.x)),
            product.integer.eq(self.integer & times),
            larger.a.eq(only_if(compares, self.t) ^ Cat(flip_t, is_op[Op.MIN])),
            larger.b.eq(only_if(compares, self.x) ^ Cat(flip_x, is_op[Op.MIN])),
        ]
        same = only_if(is_op[Op.NONE], self.t)
        same_1 = register(m, canonical(same), "same_1")
        found = larger.q
        least = Mux(is_nan(found), found, found ^ (1 << 31))
        chosen = Mux(is_op[Op.MIN], least, found)
        chosen = Mux(is_op[Op.GT], Mux(larger.greater, ONE_BITS, 0), chosen)
        other = wire(m, only_if(compares, chosen[:32]) | same_1, "other")
        late = register(m, other, "other_3", stages=BINARY_STAGES - 1)
        m.d.comb += self.q.eq(adder.q | product.q | late)
        return m


def is_nan(bits: Value) -> Value:
    return bits[:31] > INF_BITS


def canonical(bits: Value) -> Value:
    return Mux(is_nan(bits), NAN_BITS, bits)


class VectorLane(wiring.Component):
    """first = t op1 x1 after 3 cycles, if `taps`; q = func(first op2 x2) after 6, with a table 12.

    op1, op2, func, integer and int32 stand still for as long as operands of one operation are
    under way. x2 comes with t. int32: t is an INT32, first is it as FP32 (op1 NONE).
    """

    t: In(32)
    x1: In(32)
    x2: In(32)
    op1: In(3)
    op2: In(3)
    func: In(4)
    integer: In(1)
    int32: In(1)
    taps: In(1)
    first: Out(32)
    q: Out(32)
    module_name = "vector_lane"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.stage_1 = share(stage_1 := BinaryStage())
        m.submodules.stage_2 = share(stage_2 := BinaryStage())
        m.submodules.convert = share(convert := IntToFp32())
        converted = register(m, convert.q, "converted", stages=BINARY_STAGES - INT_TO_FP32.stages)
        first = wire(m, Mux(self.int32, converted, stage_1.q), "first_mux")
        m.d.comb += [
            stage_1.t.eq(only_if(~self.int32, self.t)),
            stage_1.x.eq(self.x1),
            stage_1.op.eq(self.op1),
            stage_1.integer.eq(self.integer),
            convert.i.eq(only_if(self.int32, self.t).as_signed()),
            stage_2.t.eq(first),
            stage_2.x.eq(register(m, self.x2, "x2_late", stages=BINARY_STAGES)),
            stage_2.op.eq(self.op2),
            stage_2.integer.eq(0),
            self.first.eq(only_if(self.taps, first)),
        ]
        second = stage_2.q
        negative = Mux(
            self.func == Func.ABS, 0, second[31] ^ ((self.func == Func.NEG) & ~is_nan(second))
        )
        plain = Cat(second[:31], negative)
        result, has_table = C(0, 32), C(0, 1)
        for func, name in TABLES.items():
            unit = TableFunction(name)
            m.submodules[name] = share(unit)
            asked = wire(m, self.func == func, f"is_{name}")
            m.d.comb += unit.x.eq(only_if(asked, second))
            result, has_table = result | only_if(asked, unit.q), has_table | asked
        m.d.comb += self.q.eq(Mux(has_table, result, plain))
        return m


TABLE_LANE_STAGES = LANE_STAGES + TABLE_STAGES
