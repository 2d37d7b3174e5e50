"""Graphs on the simulated chip: named arrays in, named arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mellivora.compiler.generic import CompiledGraph, Port, compile_graph
from mellivora.compiler.generic.compile import ENTRY
from mellivora.errors import UsageError
from mellivora.graph.ir import DTYPES, Graph
from mellivora.native import build
from mellivora.sim.expand import expand
from mellivora.sim.functional import Machine, RunStats

if TYPE_CHECKING:
    from mellivora.sim.result import TimingResult
    from mellivora.spec import ChipSpec

Array = npt.NDArray[Any]
EXACT_INTEGER = 1 << 24


class GraphRunner:
    """A graph compiled for a chip, in its DRAM, ready to run many times.

    dims, slices: as for compile_graph. After a run, `stats` has its RunStats.
    """

    def __init__(
        self,
        graph: Graph,
        chip: ChipSpec,
        *,
        dims: Mapping[str, int] | None = None,
        slices: int = 3,
        threads: int = 2,
        **options: Any,
    ) -> None:
        self.compiled = compile_graph(graph, chip, dims=dims, slices=slices, **options)
        self.chip, self.threads = chip, threads
        self.windows = self.compiled.program.placement()
        self.stats: RunStats | None = None
        self._machine: Machine | None = None

    @property
    def machine(self) -> Machine:
        """The functional simulator with the constants in place; made when first used."""
        if self._machine is None:
            dram = np.zeros(sum(self.windows[-1]), np.uint8)
            dram[: len(self.compiled.image)] = self.compiled.image
            self._machine = Machine(
                self.chip, dram=dram, windows=self.windows, threads=self.threads
            )
            self._machine.load(self.compiled.program.entries[ENTRY].code)
        return self._machine

    def prepare(self) -> None:
        """Take the memory and build native code now, so that the first run is as quick."""
        assert self.machine
        build.load("functional")

    def run(self, inputs: Mapping[str, Any], *, poison: bool = False) -> dict[str, Array]:
        """Outputs by name, in the graph's dtypes. UsageError MV0860 to MV0862 for wrong inputs.

        poison: scratchpads start as NaN, so that use of stale data shows.
        """
        arrays = self._checked(inputs)
        machine = self.machine
        for name, array in arrays.items():
            self._place(self.compiled.inputs[name], array)
        self.stats = machine.run(self._parameters(arrays), poison=poison)
        return {name: self._read(port) for name, port in self.compiled.outputs.items()}

    def timing(self, inputs: Mapping[str, Any] | None = None) -> TimingResult:
        """When every operation starts and ends; the time does not depend on the inputs' values."""
        from mellivora.sim.timing import simulate

        code, cores = self.compiled.program.entries[ENTRY].code, self.chip.cores
        zeros = {n: np.zeros(p.shape, DTYPES[p.dtype]) for n, p in self.compiled.inputs.items()}
        memory = self._parameters(self._checked(inputs or zeros))
        return simulate(
            [expand(code, memory, core_id=c, cores=cores) for c in range(cores)], self.chip
        )

    def _checked(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        ports = self.compiled.inputs
        if odd := sorted(set(inputs) ^ set(ports)):
            raise _input_error(
                "MV0860", "inputs are missing or unknown", " ".join(odd), " ".join(ports)
            )
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        for name, array in arrays.items():
            port = ports[name]
            if array.dtype != DTYPES[port.dtype] or array.shape != port.shape:
                given, allowed = (
                    f"{name}: {array.dtype}{list(array.shape)}",
                    f"{port.dtype}{list(port.shape)}",
                )
                raise _input_error("MV0861", "an input has another dtype or shape", given, allowed)
            if array.dtype.kind in "iu" and array.size:
                low, high = int(array.min()), int(array.max())
                most = port.limit - 1 if port.limit else EXACT_INTEGER
                least = -port.limit if port.limit else -EXACT_INTEGER
                if low < least or high > most:
                    raise _input_error(
                        "MV0862",
                        "an integer input is out of range",
                        f"{name}: {low}..{high}",
                        f"{least}..{most}",
                    )
        return arrays

    def _parameters(self, arrays: Mapping[str, Array]) -> npt.NDArray[np.int32]:
        """Parameter memory: the indices that LOADs take."""
        indices = self.compiled.indices
        memory = np.zeros(sum(count for _, count in indices.values()), np.int32)
        for name, (first, count) in indices.items():
            values = arrays[name].reshape(-1)
            limit = self.compiled.inputs[name].limit
            memory[first : first + count] = np.where(values < 0, values + limit, values)
        return memory

    def _slot(self, port: Port) -> npt.NDArray[np.float32]:
        base = self.windows[port.window][0] + port.offset
        size = 4 * int(np.prod(port.shape))
        return self.machine.dram[base : base + size].view(np.float32)

    def _place(self, port: Port, array: Array) -> None:
        self._slot(port)[...] = array.reshape(-1)

    def _read(self, port: Port) -> Array:
        return self._slot(port).reshape(port.shape).astype(DTYPES[port.dtype])


def _input_error(code: str, what: str, given: str, allowed: str) -> UsageError:
    return UsageError(
        code, what, where="inputs", given=given, allowed=allowed, hint="see the graph's inputs"
    )


__all__ = ["CompiledGraph", "GraphRunner"]
