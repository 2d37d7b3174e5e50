"""The E8M0 expander equals `numerics.from_e8m0` on all of its operands."""

import numpy as np

from mellivora import numerics
from mellivora.numerics import FORMATS
from mellivora.rtl.e8m0 import E8M0_EXPAND


def test_all_operands(simulation, same_bits):
    code, shift = (x.reshape(-1) for x in np.meshgrid(np.arange(256), np.arange(23)))
    got = simulation(E8M0_EXPAND).results(E8M0_EXPAND.stages, code=code, shift=shift)["q"]
    same_bits(got, E8M0_EXPAND.compute(code, shift=shift), code=code, shift=shift)


def test_no_format_shifts_further():
    assert max(fmt.shift for fmt in FORMATS.values()) == 22


def test_cycles(simulation, changes_at):
    first, second = {"code": 127, "shift": 0}, {"code": 127, "shift": 1}
    one, half = (int(np.float32(x).view(np.uint32)) for x in (1, 0.5))
    sim = simulation(E8M0_EXPAND)
    changes_at(sim, E8M0_EXPAND.stages, first, second, "q", (one, half))


def test_compute_is_the_simulators_function():
    assert E8M0_EXPAND.compute is numerics.from_e8m0
