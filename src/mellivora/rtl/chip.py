"""A chip: cores, memory port, the network of collectives, one control port, the watchdog."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.errors import SpecError
from mellivora.rtl.axi import axi4, axi4_lite
from mellivora.rtl.banked_memory import BankedMemory
from mellivora.rtl.chip_text import top_name
from mellivora.rtl.control import WORD_BITS
from mellivora.rtl.control_port import CORE_ADDRESS_BITS
from mellivora.rtl.core import Core, accumulators, ends_of, scratchpad
from mellivora.rtl.exchange import Exchange
from mellivora.rtl.front import WORKERS
from mellivora.rtl.interfaces import ADDRESS_BITS, PC_BITS
from mellivora.rtl.memory_port import MemoryPort, check_memory_port
from mellivora.rtl.sharing import share
from mellivora.rtl.watchdog import Watchdog
from mellivora.spec import ChipSpec

CORE_NUMBER_BITS = 8
"""Address bits of the control port above a core's own."""


class Chip(wiring.Component):
    """The top level. The control port's address is a core's number, then the core's register.

    memory_*: AXI4 masters of one burst, as many as DRAM moves in a cycle; none without DRAM.
    fetch_*: a synchronous instruction memory for each core. All cores start in the cycle after the
    last doorbell. Raises SpecError MV0120 for a chip whose memory the RTL cannot serve.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec, *, ecc: bool = False) -> None:
        try:
            check_memory_port(chip)
        except SpecError:
            self._MustUse__used = True  # refused, so not forgotten: Amaranth is not to warn
            raise
        self.chip, self.ecc = chip, ecc
        self.ends = ends_of(chip)
        self.module_name = top_name(chip)
        members = {
            "control": In(axi4_lite(CORE_ADDRESS_BITS + CORE_NUMBER_BITS)),
        }
        for s in range(chip.dram_slots):
            members[f"memory_{s}"] = Out(axi4(ADDRESS_BITS, chip.dram_burst_bytes))
        for i in range(chip.cores):
            members |= {
                f"fetch_address_{i}": Out(PC_BITS),
                f"fetch_word_{i}": In(WORD_BITS),
                f"running_{i}": Out(1),
                f"done_{i}": Out(1),
                f"start_valid_{i}": Out(WORKERS),
                f"start_sequence_{i}": Out(32 * WORKERS),
                f"end_valid_{i}": Out(self.ends),
                f"end_sequence_{i}": Out(32 * self.ends),
            }
        super().__init__(members)

    def memory_of(self, name: str) -> BankedMemory:
        """Geometry of a core's "scratchpad" or "accumulators"."""
        made = scratchpad(self.chip, ecc=self.ecc)
        if name != "scratchpad":
            made._MustUse__used = True
            made = accumulators(self.chip)
        made._MustUse__used = True  # asked for its numbers, placed nowhere
        return made

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chip = self.chip
        cores = [Core(chip, ecc=self.ecc) for _ in range(chip.cores)]
        m.submodules.watchdog = share(watchdog := Watchdog(chip.cores))
        run = Signal()
        m.d.comb += [
            run.eq(Cat(core.wants_run for core in cores).all()),
            watchdog.quiet.eq(Cat(core.quiet | core.done for core in cores)),
            watchdog.done.eq(Cat(core.done for core in cores)),
        ]
        if chip.dram_slots:
            self._memory(m, cores, run)
        for i, core in enumerate(cores):
            m.submodules[f"core_{i}"] = share(core)
            m.d.comb += [
                core.core_id.eq(i),
                core.run.eq(run),
                core.watchdog.eq(watchdog.expired),
                core.fetch_word.eq(getattr(self, f"fetch_word_{i}")),
                getattr(self, f"running_{i}").eq(run),
            ]
            for name in (
                "fetch_address",
                "done",
                "start_valid",
                "start_sequence",
                "end_valid",
                "end_sequence",
            ):
                m.d.comb += getattr(self, f"{name}_{i}").eq(getattr(core, name))
        m.submodules.exchange = share(network := Exchange(chip))
        for i, core in enumerate(cores):
            wiring.connect(m, network.cores[i], core.exchange)
        self._control(m, cores)
        return m

    def _memory(self, m: Module, cores: list[Core], run: Signal) -> None:
        """Without DRAM every LOAD and STORE of some bytes is a fault: nobody ever asks."""
        m.submodules.memory_port = share(memory := MemoryPort(self.chip))
        m.d.comb += memory.hold.eq(~run)
        for s, axi in enumerate(memory.axi):
            wiring.connect(m, wiring.flipped(getattr(self, f"memory_{s}")), axi)
        for i, core in enumerate(cores):
            wiring.connect(m, memory.loads[i], core.load)
            wiring.connect(m, memory.stores[i], core.store)

    def _control(self, m: Module, cores: list[Core]) -> None:
        """One access at a time: the core's number is kept until the answer has gone."""
        port = self.control
        for ask, answer, more in (("aw", "b", "w"), ("ar", "r", None)):
            pending = Signal(name=f"{ask}_pending")
            kept = Signal(CORE_NUMBER_BITS, name=f"{ask}_core")
            number = getattr(port, f"{ask}addr")[CORE_ADDRESS_BITS:]
            asks, taken = getattr(port, f"{ask}valid"), getattr(port, f"{ask}ready")
            target = Mux(pending, kept, number)
            answered = getattr(port, f"{answer}valid") & getattr(port, f"{answer}ready")
            with m.If(asks & taken):
                m.d.sync += [pending.eq(1), kept.eq(number)]
            with m.If(answered):
                m.d.sync += pending.eq(0)
            for i, core in enumerate(cores):
                side = core.control
                here = target == i
                m.d.comb += [
                    getattr(side, f"{ask}addr").eq(getattr(port, f"{ask}addr")),
                    getattr(side, f"{ask}prot").eq(getattr(port, f"{ask}prot")),
                    getattr(side, f"{ask}valid").eq(asks & here & ~pending),
                    getattr(side, f"{answer}ready").eq(getattr(port, f"{answer}ready") & here),
                ]
                if more:
                    m.d.comb += [
                        side.wdata.eq(port.wdata),
                        side.wstrb.eq(port.wstrb),
                        side.wvalid.eq(port.wvalid & here & (asks | pending)),
                    ]
                with m.If(here):
                    m.d.comb += [
                        taken.eq(getattr(side, f"{ask}ready") & ~pending),
                        getattr(port, f"{answer}valid").eq(getattr(side, f"{answer}valid")),
                        getattr(port, f"{answer}resp").eq(getattr(side, f"{answer}resp")),
                    ]
                    if more:
                        m.d.comb += port.wready.eq(side.wready & (asks | pending))
                    else:
                        m.d.comb += port.rdata.eq(side.rdata)
