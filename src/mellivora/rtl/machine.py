"""The RTL in the place of the functional simulator: launches of a model, each co-simulated.

    device._machine = RtlMachine(...)     what `examples/tokens_on_rtl.py` does

Every launch runs on all three machines; a difference in one bit or one cycle raises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mellivora.errors import MachineFault
from mellivora.rtl.cosim import CosimResult, cosim
from mellivora.sim.functional import RunStats
from mellivora.spec import ChipSpec
from mellivora.spec.dram_timing import DramTiming


class RtlMachine:
    """Has what `sim.functional.Machine` has for launches: chip, dram, windows, load, run.

    results: of every launch so far. say: is told after each.
    timing: of DRAM's banks; None is an ideal memory. Raises MachineFault MV0790 where the
    machines differ.
    """

    def __init__(
        self,
        chip: ChipSpec,
        *,
        dram: npt.NDArray[np.uint8],
        windows: Sequence[tuple[int, int]],
        say: Callable[[CosimResult], None] | None = None,
        timing: DramTiming | None = None,
    ) -> None:
        self.timing = timing
        self.chip, self.windows, self.say = chip, list(windows), say or (lambda result: None)
        burst = chip.dram_burst_bytes
        self.dram = np.concatenate([dram, np.zeros(-dram.nbytes % burst, np.uint8)])
        self.results: list[CosimResult] = []
        self.code = np.zeros((0, 2), np.uint64)

    def load(self, code: npt.NDArray[np.uint64]) -> None:
        """Take a program: code uint64 [words, 2]."""
        self.code = code

    def run(self, parameters: npt.ArrayLike = ()) -> RunStats:
        """Run it to its end on all three machines."""
        started = time.perf_counter()
        result = cosim(
            self.code,
            parameters,
            chip=self.chip,
            dram=self.dram,
            windows=self.windows,
            timing=self.timing,
        )
        self.results.append(result)
        self.say(result)
        if not result.equal:
            raise MachineFault(
                "MV0790",
                "the RTL and the simulators differ",
                where=f"launch {len(self.results)}",
                given=result.report(),
                hint="this is a fault of Mellivora: please report it with the program",
            )
        assert result.dram is not None
        self.dram[...] = result.dram
        return RunStats(result.operations, 0, time.perf_counter() - started, 0)
