"""Results of VECTOR to memory: addresses, byte masks, which result goes where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import C, Cat, Module, Mux, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.modes import Store
from mellivora.rtl.interfaces import OPERATION, write_port
from mellivora.rtl.pipeline import wire
from mellivora.rtl.vector_control import TOKEN, blocks_a_beat, control_layout
from mellivora.rtl.vector_walker import walker

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

PLANES = 3


def write_widths(lanes: int) -> tuple[int, int, int, int]:
    """Bytes of ports w0 to w3."""
    return 4 * lanes, max(32, lanes), max(32, lanes), max(4, lanes // 8)


class VectorWriter(wiring.Component):
    """w0..w3 in the cycle of `token` and its results; nothing while `blocked`.

    w0: FP32 of all lanes, VRED's one word, the first plane or the narrow codes of VQUANT; w1, w2:
    its lower planes; w3: its scales, with the last beat of their blocks.
    """

    def __init__(self, chip: ChipSpec) -> None:
        self.chip, lanes = chip, chip.lanes
        self.module_name = f"vector_writer_{lanes}"
        ports = {f"w{i}": Out(write_port(width)) for i, width in enumerate(write_widths(lanes))}
        super().__init__(
            {
                "control": In(control_layout(chip)),
                "current": In(OPERATION),
                "first": In(1),
                "blocked": In(1),
                "token": In(TOKEN),
                "q": In(data.ArrayLayout(32, lanes)),
                "reduced_valid": In(1),
                "reduced": In(32),
                "codes": In(data.ArrayLayout(data.ArrayLayout(8, lanes), PLANES)),
                "narrow": In(data.ArrayLayout(16, lanes)),
                "scales": In(data.ArrayLayout(8, blocks_a_beat(lanes))),
            }
            | ports
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, control, token = self.chip.lanes, self.control, self.token
        slots, config = self.current.slots, self.current.config
        vquant, vred, target = control.vquant, control.vred, control.target
        free = ~self.blocked
        beat = wire(m, token.valid & free, "beat")
        inside = wire(m, control.last_mask | ~token.row_last.replicate(lanes), "inside")
        halves = control.narrow & (target != Store.INT8)
        bytes_ = control.narrow & (target == Store.INT8)

        def bit_mask(width: int) -> Value:
            return Cat(inside[i].replicate(width) for i in range(lanes))

        narrow = Mux(bytes_, Cat(self.narrow[i][:8] for i in range(lanes)), Cat(
            self.narrow[i] for i in range(lanes)))  # fmt: skip
        quant = Mux(control.narrow, narrow, Cat(self.codes[0][i] for i in range(lanes)))
        quant_mask = Mux(halves, bit_mask(2), inside)
        words = Cat(self.q[i] for i in range(lanes))
        step = Mux(vquant, Mux(halves, 2 * lanes, lanes), 4 * lanes)
        self._port(
            m,
            0,
            enable=Mux(vred, self.reduced_valid & free, beat),
            start=slots[0],
            step=step,
            row_last=token.row_last | vred,
            content=Mux(vred, self.reduced, Mux(vquant, quant, words)),
            mask=Mux(vred, 15, Mux(vquant, quant_mask, bit_mask(4))),
        )
        sliced = beat & vquant & ~control.narrow
        for j in (1, 2):
            plane = (slots[0] + (config[4] << (j - 1)))[:32]
            self._port(
                m,
                j,
                enable=sliced & (target > j),
                start=plane,
                step=C(lanes, 12),
                row_last=token.row_last,
                content=Cat(self.codes[j][i] for i in range(lanes)),
                mask=inside,
            )
        blocks = blocks_a_beat(lanes)
        each = Cat(inside[32 * g] if g else C(1, 1) for g in range(blocks))
        self._port(
            m,
            3,
            enable=sliced & Mux(control.wide, token.row_last, token.block_last),
            start=slots[1],
            step=C(blocks, 12),
            row_last=token.row_last,
            content=Cat(self.scales[g] for g in range(blocks)),
            mask=Mux(control.wide, 1, each),
        )
        return m

    def _port(
        self,
        m: Module,
        index: int,
        *,
        enable: Value,
        start: Value,
        step: Value,
        row_last: Value,
        content: Value,
        mask: Any,
    ) -> None:
        port = getattr(self, f"w{index}")
        config = self.current.config
        enable = wire(m, enable, f"w{index}_beat")
        address = walker(
            m,
            f"w{index}",
            load=self.first,
            start=start,
            advance=enable,
            row_last=row_last,
            step=step,
            stride=config[3] if index == 3 else config[0],
        )
        m.d.comb += [
            port.address.eq(address),
            port.enable.eq(enable),
            port.data.eq(content),
            port.mask.eq(mask),
        ]
