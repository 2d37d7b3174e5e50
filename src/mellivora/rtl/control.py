"""CONTROL: one instruction a cycle; turns words into resolved operations, as `isa.control` does.

What is fetched in cycle u-1 is executed in cycle u: registers are read, the ALU works, results are
written back. An engine's instruction leaves as an operation of numbers in the same cycle. All
decoding comes from the instruction table.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import (
    CONTROL,
    ENGINES,
    LOAD,
    PARAMETERS,
    REGISTER_FLAG,
    REGISTERS,
    SLOT_BITS,
    SLOTS,
    WORD_BYTES,
)
from mellivora.isa.table import TABLE
from mellivora.rtl.interfaces import CAUSE_BITS, OPERATION, PC_BITS, SEMAPHORE_BITS
from mellivora.rtl.loop_stack import LOOP_PC_BITS, LoopStack

WORD_BITS = 8 * WORD_BYTES
WORKERS = len(ENGINES) - LOAD
"""Engines that take operations; number 0 of them is LOAD."""
PARAMETER_BITS = (PARAMETERS - 1).bit_length()
OPCODE_FAULT, LOOP_FAULT, PARAMETER_FAULT = 1, 8, 9
"""Causes of `isa.state.FAULTS` that CONTROL finds."""

CONTROL_FAULT = data.StructLayout({"valid": 1, "cause": CAUSE_BITS, "pc": LOOP_PC_BITS})
"""As FAULT, without a sequence; a skip may lead to a pc wider than those of instructions."""

WORD = data.StructLayout(
    {
        "opcode": 8,
        "wait0": SEMAPHORE_BITS,
        "wait1": SEMAPHORE_BITS,
        "post0": SEMAPHORE_BITS,
        "post1": SEMAPHORE_BITS,
        "slots": data.ArrayLayout(SLOT_BITS, SLOTS),
    }
)


class Control(wiring.Component):
    """The front of a core.

    run: 0 holds everything as at the doorbell; the first cycle with 1 is cycle 0.
    fetch_address: in cycle u-1 the pc of cycle u, in which fetch_word is due.
    program_words: a pc from here on is fault 1. parameter_count: an index from here on is fault 9.
    parameter_address, parameter_value: the parameter memory, read in the same cycle.
    stall: this cycle does nothing; the word stays.
    push, engine, op: an operation leaves; engine has one bit for each, LOAD first.
    halted, fault: held, from the cycle after; nothing is executed any more.
    """

    run: In(1)
    fetch_address: Out(PC_BITS)
    fetch_word: In(WORD_BITS)
    program_words: In(PC_BITS)
    core_id: In(16)
    cores: In(16)
    parameter_count: In(PARAMETER_BITS + 1)
    parameter_address: Out(PARAMETER_BITS)
    parameter_value: In(32)
    stall: In(1)
    push: Out(1)
    engine: Out(WORKERS)
    op: Out(OPERATION)
    halted: Out(1)
    fault: Out(CONTROL_FAULT)
    module_name = "control"
    has_reset = True

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word = data.View(WORD, self.fetch_word)
        pc = Signal(LOOP_PC_BITS)
        values = self._operands(m, word)

        known, configures = Signal(), Signal(WORKERS)
        is_halt, is_loop, is_ldp, writes = (
            Signal(name=name) for name in ("is_halt", "is_loop", "is_ldp", "writes")
        )
        result = Signal(32)
        with m.Switch(word.opcode):
            for row in TABLE:
                with m.Case(row.opcode):
                    m.d.comb += known.eq(1)
                    if row.engine != CONTROL:
                        m.d.comb += self.engine.eq(1 << row.engine - LOAD)
                    elif row.configures >= 0:
                        m.d.comb += configures.eq(1 << row.configures - LOAD)
                    elif row.name in ("halt", "loop", "nop"):
                        m.d.comb += [is_halt.eq(row.name == "halt"), is_loop.eq(row.name == "loop")]
                    else:
                        m.d.comb += [
                            writes.eq(1),
                            is_ldp.eq(row.name == "ldp"),
                            result.eq(self._result(row.name, word, values)),
                        ]

        m.submodules.loops = loops = LoopStack()
        count, length = values[0], values[1]
        index = values[1]
        m.d.comb += self.parameter_address.eq(index)
        limit = Mux(self.parameter_count > PARAMETERS, PARAMETERS, self.parameter_count)
        bad_opcode = (pc >= self.program_words) | ~known
        bad_loop = is_loop & (loops.full | (length < 1))
        bad_index = is_ldp & (index.as_unsigned() >= limit)
        works, faulty, step = (Signal(name=name) for name in ("works", "faulty", "step"))
        m.d.comb += [
            works.eq(self.run & ~self.stall & ~self.halted & ~self.fault.valid),
            faulty.eq(bad_opcode | bad_loop | bad_index),
            step.eq(works & ~faulty & ~is_halt),
            self.push.eq(step & self.engine.any()),
        ]
        with m.If(works & faulty):
            cause = Mux(bad_opcode, OPCODE_FAULT, Mux(bad_loop, LOOP_FAULT, PARAMETER_FAULT))
            m.d.sync += [self.fault.valid.eq(1), self.fault.cause.eq(cause), self.fault.pc.eq(pc)]
        with m.If(works & ~faulty & is_halt):
            m.d.sync += self.halted.eq(1)

        following = Signal(LOOP_PC_BITS)  # the instruction after this one, or after a skipped body
        skips = Signal()
        m.d.comb += [
            skips.eq(is_loop & (count <= 0)),
            loops.clear.eq(~self.run),
            loops.step.eq(step),
            loops.open_body.eq(is_loop & ~skips),
            loops.last.eq(pc + length.as_unsigned()),
            loops.at.eq(Mux(skips, loops.last, pc)),
            loops.first.eq(pc + 1),
            loops.count.eq(count),
            following.eq(Mux(loops.jump, loops.target, loops.at + 1)),
            self.fetch_address.eq(Mux(step, following, Mux(self.run, pc, 0))),
        ]
        with m.If(step):
            m.d.sync += pc.eq(following)

        self._write_back(m, writes & step, word.slots[0], result)
        config = self._configure(m, configures, step, values)
        sequence = Signal(32)
        with m.If(self.push):
            m.d.sync += sequence.eq(sequence + 1)
        m.d.comb += [
            *(self.op[name].eq(word[name]) for name in ("opcode", "wait0", "wait1")),
            *(self.op[name].eq(word[name]) for name in ("post0", "post1")),
            self.op.pc.eq(pc),
            self.op.sequence.eq(sequence),
            self.op.slots.eq(Cat(*values)),
            self.op.config.eq(config),
        ]
        with m.If(~self.run):
            m.d.sync += [signal.eq(0) for signal in (pc, sequence, self.halted)]
            m.d.sync += self.fault.as_value().eq(0)
        return m

    def _operands(self, m: Module, word: data.View) -> list[Value]:
        """Immediate or register of each slot, signed 32 bits.

        A register that was not written since the doorbell reads what it starts with: so a memory
        need not be cleared.
        """
        m.submodules.registers = self._registers = memory.Memory(shape=32, depth=REGISTERS, init=[])
        self._written = Signal(REGISTERS)
        initial = {1: self.core_id, 2: self.cores}
        values = []
        for i in range(SLOTS):
            port = self._registers.read_port(domain="comb")
            raw = word.slots[i]
            number = raw[: (REGISTERS - 1).bit_length()]
            unwritten = Signal(32, name=f"unwritten{i}")
            with m.Switch(number):
                for register, value in initial.items():
                    with m.Case(register):
                        m.d.comb += unwritten.eq(value)
            value = Signal(signed(32), name=f"value{i}")
            m.d.comb += port.addr.eq(number)
            held = Mux(self._written.bit_select(number, 1), port.data, unwritten)
            immediate = raw & REGISTER_FLAG == 0
            m.d.comb += value.eq(Mux(immediate, raw[: SLOT_BITS - 1], held))
            values.append(value)
        return values

    def _result(self, name: str, word: data.View, values: list[Value]) -> Value:
        """What an instruction writes to its register; KeyError for one the table has and this has
        not."""
        a, b = values[1], values[2]
        by = b.as_unsigned()[:5]
        results = {
            "li": Cat(*(word.slots[i] for i in (1, 2, 3)))[:32],
            "ldp": self.parameter_value,
            "add": a + b,
            "sub": a - b,
            "mul": (a * b)[:32],
            "min": Mux(a < b, a, b),
            "max": Mux(a > b, a, b),
            "shr": a >> by,
            "and": a & b,
            "shl": (a.as_unsigned() << by)[:32],
        }
        return results[name]

    def _write_back(self, m: Module, enable: Value, slot: Value, result: Signal) -> None:
        """Register 0 is never written, so that it reads zero."""
        port = self._registers.write_port()
        number = slot[: (REGISTERS - 1).bit_length()]
        m.d.comb += [
            port.addr.eq(number),
            port.data.eq(result),
            port.en.eq(enable & number.any()),
        ]
        with m.If(port.en):
            m.d.sync += self._written.bit_select(number, 1).eq(1)
        with m.If(~self.run):
            m.d.sync += self._written.eq(0)

    def _configure(self, m: Module, chosen: Signal, step: Signal, values: list[Value]) -> Value:
        """The configuration of the engine that the word is for."""
        shown = Signal(OPERATION["config"].shape)
        for number, name in enumerate(ENGINES[LOAD:]):
            config = Signal(SLOTS * 32, name=f"config_{name.lower()}")
            with m.If(~self.run):
                m.d.sync += config.eq(0)
            with m.Elif(step & chosen[number]):
                m.d.sync += config.eq(Cat(*values))
            with m.If(self.engine[number]):
                m.d.comb += shown.eq(config)
        return shown
