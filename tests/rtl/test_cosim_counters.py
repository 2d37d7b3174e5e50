"""The counters of a whole chip, read through its control port, are those of the timing machine."""

import numpy as np
from tests.rtl.bench_counters import check_counters

from mellivora.isa import assemble, resolve
from mellivora.rtl.chip_simulation import chip_simulation
from mellivora.sim.timing import simulate
from mellivora.spec import load_chip

TEXT = """
lcfg 64 0 64 64 0 64 256
scfg 64 0 0 64 0 0
vcfg 32 32 32 32 0 0 0
loop 6 9
load 0 0 0 0x100 64 4 1 1 !1
load 0 64 0 0x400 64 3 1 1 !1
loadx 0 0 0 0x600 64 1 1 3
vew 0 256 1024 0 8 8 1 0 ?1 ?1 !2
matmul 0 256 1024 1536 4 2 8 0x50 !4
store 0 128 0 0 64 2 1 1 ?2
ssync !3
vsync ?3 ?4
barrier
vsync
halt
"""


def test_every_counter():
    chip = load_chip("nano")
    code = assemble(TEXT)
    image = np.zeros(1 << 14, np.uint8)
    run = chip_simulation(chip).run(code, [0], dram=image, windows=[(0, image.size)])
    assert run.stopped
    assert not run.faults
    result = simulate([resolve(code, [0])], chip)
    got = {name: int(values[0]) for name, values in run.registers.items()}
    check_counters(got, result, 0)
    assert got["dram_reads"] + got["dram_writes"] == result.work.bursts
    assert got["dram_reads"] == 6 * (7 + 3)
    assert got["control_waits"] > 0
    assert got["fault_cause"] == 0
