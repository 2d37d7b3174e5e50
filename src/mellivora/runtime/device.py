"""A simulated chip with one compiled model in its DRAM: launches, results, timing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mellivora.compiler.layout import Win
from mellivora.errors import HostError, UsageError
from mellivora.native import build
from mellivora.runtime.cache import Executable
from mellivora.sim.expand import expand
from mellivora.sim.functional import Machine, RunStats

if TYPE_CHECKING:
    from mellivora.sim.result import TimingResult
    from mellivora.spec.dram_timing import DramTiming

Settings = Mapping[str, int] | npt.NDArray[np.int32]
"""Parameters by name (those left out are 0), or the parameter memory itself, int32 [n]."""

_SPARE_BYTES = 256 << 20  # what Python, the simulators' tables and the tokenizer need besides


class Device:
    """DRAM laid out by the program, weights in place, ready to launch.

    threads: of the host; results do not depend on it. Memory is checked before it is taken:
    HostError MV0910. Without images (shapes only) `timing` works and `launch` raises UsageError
    MV0820.
    """

    def __init__(self, executable: Executable, *, threads: int = 2) -> None:
        self.executable, self.threads = executable, threads
        self.program, self.chip = executable.program, executable.program.chip
        self.windows = self.program.placement()
        self.launches = 0
        self.host_seconds = 0.0
        self.dram_timing: DramTiming | None = None
        """Of DRAM's banks, for `timing`; None is an ideal memory."""
        self._machine: Machine | None = None

    @property
    def machine(self) -> Machine:
        """The functional simulator with its memories; made when first used."""
        if self._machine is None:
            if not self.executable.images:
                raise UsageError(
                    "MV0820",
                    "a model without weights cannot compute, it can only be timed",
                    given=self.program.name,
                    hint="give a model file, or use `mellivora bench --timing`",
                )
            self._machine = self._allocate()
        return self._machine

    def _allocate(self) -> Machine:
        size = sum(self.windows[-1])
        chip = self.chip
        needed = size + chip.cores * (chip.sram_bytes + chip.accumulator_bytes) + _SPARE_BYTES
        free = _available_bytes()
        if free is not None and needed > free:
            raise HostError(
                "MV0910",
                "this machine has too little free memory for the model",
                where=self.program.name,
                given=f"{free >> 20} MiB free",
                allowed=f"{needed >> 20} MiB or more",
                hint="use a smaller model, context or batch, or `mellivora bench --timing`",
            )
        dram = np.zeros(size, np.uint8)  # untouched pages cost nothing
        for window, (base, _) in zip(self.program.windows, self.windows, strict=True):
            image = self.executable.images.get(window.name)
            if image is not None:
                dram[base : base + len(image)] = image
        return Machine(chip, dram=dram, windows=self.windows, threads=self.threads)

    def prepare(self) -> None:
        """Take the memory and build native code now, so that the first launch is as quick as the
        others.
        """
        assert self.machine
        build.load("functional")

    def parameters(self, entry: str, settings: Settings) -> npt.NDArray[np.int32]:
        """Parameter memory of all cores, int32 [cores, n]. Raises ProgramError MV0530 for unknown
        names.
        """
        code = self.program.entries[entry]
        if isinstance(settings, Mapping):
            rows = [code.parameter_memory(core, settings) for core in range(self.chip.cores)]
            return np.array(rows, np.int32)
        memory = np.repeat(settings[None, :], self.chip.cores, axis=0)
        if code.core_constants.size:
            memory[:, : code.core_constants.shape[1]] = code.core_constants
        return memory

    def launch(self, entry: str, settings: Settings) -> RunStats:
        """Run an entry to its end. Raises a MachineFault if the program faults, UsageError
        MV0820.
        """
        machine = self.machine
        machine.load(self.program.entries[entry].code)
        stats = machine.run(self.parameters(entry, settings))
        self.launches += 1
        self.host_seconds += stats.seconds
        return stats

    @property
    def logits_rows(self) -> int:
        """Rows that the LOGITS window holds."""
        return self.windows[Win.LOGITS][1] // (4 * self.executable.logits_pitch)

    def read_logits(self, rows: int) -> npt.NDArray[np.float32]:
        """The first rows of the LOGITS window: float32 [rows, vocab], a copy."""
        base, pitch = self.windows[Win.LOGITS][0], self.executable.logits_pitch
        raw = self.machine.dram[base : base + 4 * rows * pitch]
        return raw.view(np.float32).reshape(rows, pitch)[:, : self.executable.vocab].copy()

    def timing(self, entry: str, settings: Settings) -> TimingResult:
        """When every operation of the entry starts and ends, on all cores. Needs no weights."""
        from mellivora.sim.timing import MemoryDevice, simulate

        code, cores = self.program.entries[entry].code, self.chip.cores
        memory = self.parameters(entry, settings)
        rows = [expand(code, memory[core], core_id=core, cores=cores) for core in range(cores)]
        beneath = MemoryDevice(self.dram_timing, self.windows) if self.dram_timing else None
        return simulate(rows, self.chip, beneath)


def _available_bytes() -> int | None:
    """Memory that can be taken without swapping; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return None
