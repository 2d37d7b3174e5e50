"""What a chip is: `ChipSpec`, its checks and every figure that follows from it.

One class, frozen; every quantity carries its unit in its name. A field is declared once, with its
rule (`spec.rules`); reading, checking and printing follow from the rules. All derived figures (peak
rates, memory totals, TPP) are properties here and are computed nowhere else.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Self, get_type_hints

from mellivora.errors import SpecError
from mellivora.spec.rules import Choice, Choices, Fault, Flag, Real, Rule, Text, Whole, show

BLOCK_TERMS = 32
"""Terms of one MATRIX dot product, and the length along k of every block format's block."""

OPERAND_FORMATS = (
    *("mxint8", "x2", "x3", "mxfp6", "mxfp4"),
    *("int8", "uint8", "int4", "q8_0", "q4_0", "q4_1"),
)
"""The formats MATRIX may take (f32, f16 and bf16 tensors become mxint8, x2 or x3 first)."""

INTEGER_FORMATS = ("int8", "uint8", "int4")
"""Those that need no FP32 arithmetic: integer operands, INT32 accumulators."""

DRAM_KINDS = ("LPDDR5X", "GDDR7", "DDR5", "HBM3", "none")

PASSES = {1: 1, 2: 4, 3: 8}
"""MATRIX passes of a product whose two operands both have this many 8-bit slices."""

DID_YOU_MEAN = "did you mean {}?"
_OPERAND_BITS = {"x2": 16, "x3": 24, "mxfp6": 6, "mxfp4": 4, "int4": 4, "q4_0": 4, "q4_1": 4}
_OPERAND_SLICES = {"x2": 2, "x3": 3}
_TERM_LIMIT = 1 << 20  # the DRAM arbiter counts in num/den; both must stay far below 2^31

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class ChipError(SpecError):
    """A chip description is wrong. `faults` has all that is wrong with it, not the first only."""

    faults: tuple[Fault, ...]

    def __init__(self, faults: Sequence[Fault], *, where: str) -> None:
        self.faults = tuple(faults)
        hint = "correct the description; `mellivora chip m1` prints one that is right"
        if len(faults) == 1:
            (one,) = faults
            place = ": ".join(part for part in (where, one.path) if part)
            super().__init__(
                one.code, one.what, where=place, given=one.given, allowed=one.allowed, hint=hint
            )
            return
        lines = "".join(f"\n           {fault.line()}" for fault in faults)
        what = f"the chip description has {len(faults)} faults"
        super().__init__("MV0100", what, where=where, given=lines.strip(), hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipSpec:
    """A chip. Raises ChipError with all faults at once if the values are wrong or contradict.

    `m1.replace(cores=4)` gives a checked variant; `load_chip("m1")` reads a preset or a TOML file.
    """

    name: Annotated[str, Text("", "name of the chip", 64, word=True)]
    description: Annotated[str, Text("", "what the chip is for", 200)] = ""

    process_nm: Annotated[int, Whole("die", "class of the logic process, nm", 1, 250)]
    clock_mhz: Annotated[int, Whole("die", "clock of everything on chip, MHz", 1, 5000)]
    max_die_mm2: Annotated[float, Real("die", "largest die allowed, mm2 (858: reticle)", 1, 858)]
    tdp_watts: Annotated[float | None, Real("die", "power limit, W", 0.1, 2000, True)] = None

    cores: Annotated[int, Whole("core", "cores on the chip", 1, 256)]
    columns: Annotated[
        int, Whole("core", "MATRIX columns, each a 32-term dot product", 8, 4096, power_of_two=True)
    ]
    lanes: Annotated[int, Whole("core", "VECTOR FP32 lanes", 8, 1024, power_of_two=True)]
    sram_bytes: Annotated[int, Whole("core", "scratchpad of a core, bytes", 4096, 64 * MIB, 4096)]
    sram_banks: Annotated[int, Whole("core", "scratchpad banks", 1, 256, power_of_two=True)]
    accumulator_rows: Annotated[
        int, Whole("core", "accumulator rows, each of `columns` 32-bit entries", 1, 65536)
    ]
    queue_depth: Annotated[int, Whole("core", "instructions each engine's queue holds", 2, 1024)]
    outstanding_transfers: Annotated[
        int, Whole("core", "transfers a LOAD or STORE queue has in flight", 2, 64)
    ]
    semaphores: Annotated[int, Whole("core", "counting semaphores", 8, 256)] = 64
    scalar_registers: Annotated[int, Whole("core", "scalar registers", 8, 256)] = 64
    loop_levels: Annotated[int, Whole("core", "nested hardware loops", 2, 8)] = 4
    windows: Annotated[int, Whole("core", "DRAM windows (base, limit) a program has", 4, 256)] = 16
    has_fp_vector: Annotated[bool, Flag("core", "VECTOR computes in FP32, not INT32 alone")]
    formats: Annotated[
        tuple[str, ...], Choices("core", "operand formats of MATRIX", OPERAND_FORMATS)
    ]
    core_port_bytes_per_cycle: Annotated[
        int, Whole("core", "LOAD port and STORE port of a core, bytes a cycle each", 16, 4096)
    ]

    dram_kind: Annotated[str, Choice("dram", "kind of memory", DRAM_KINDS)]
    dram_gbps: Annotated[
        float, Real("dram", "rate of all memory together, GB/s (1e9 bytes a second)", 0, 20000)
    ]
    dram_bytes: Annotated[int, Whole("dram", "capacity, bytes", 0, 4096 * GIB)]
    dram_latency_cycles: Annotated[
        int, Whole("dram", "request to first word, cycles of the chip's clock", 0, 100000)
    ]
    dram_burst_bytes: Annotated[
        int, Whole("dram", "unit of arbitration, bytes", 16, 512, power_of_two=True)
    ] = 64

    exchange_latency_cycles: Annotated[
        int, Whole("exchange", "collectives between cores: first word, cycles", 1, 100000)
    ]
    exchange_bytes_per_cycle: Annotated[
        int, Whole("exchange", "collectives between cores: bytes a cycle into a core", 1, 4096)
    ]

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in rules()}
        faults = value_faults(values)
        if not faults:
            for name, rule in rules().items():
                object.__setattr__(self, name, rule.normal(values[name]))
            faults = self._contradictions()
        if faults:
            named = values["name"] if isinstance(values["name"], str) else ""
            raise ChipError(faults, where=f"chip {named}".strip())

    def _contradictions(self) -> list[Fault]:
        """Faults of values that are each in range but cannot be true together."""
        faults: list[Fault] = []

        def refuse(code: str, name: str, what: str, allowed: str) -> None:
            given = show(getattr(self, name))
            faults.append(
                Fault(code=code, what=what, path=path_of(name), given=given, allowed=allowed)
            )

        memory = ("dram_gbps", "dram_bytes", "dram_latency_cycles")
        for name in memory:
            value: float = getattr(self, name)
            if self.dram_kind == "none" and value:
                refuse("MV0110", name, 'dram.dram_kind is "none", so there is nothing to size', "0")
            if self.dram_kind != "none" and not value:
                refuse("MV0111", name, "a chip with DRAM must size it", "more than 0")
        burst_bytes = self.dram_burst_bytes
        if self.core_port_bytes_per_cycle % burst_bytes:
            allowed = f"a multiple of dram.dram_burst_bytes = {burst_bytes}"
            what = "a core port moves whole bursts"
            refuse("MV0112", "core_port_bytes_per_cycle", what, allowed)
        if self.dram_bytes % burst_bytes:
            allowed = f"a multiple of dram.dram_burst_bytes = {burst_bytes}"
            refuse("MV0113", "dram_bytes", "DRAM holds whole bursts", allowed)
        if self.sram_bytes % (self.sram_banks * BLOCK_TERMS):
            what = "every bank holds the same number of 32-byte words"
            refuse("MV0114", "sram_banks", what, f"a divisor of {self.sram_bytes // BLOCK_TERMS}")
        tile_bytes = self.columns * (BLOCK_TERMS + 2)  # 32 bytes and a 2-byte scale a column
        if self.sram_bytes < 2 * tile_bytes:
            what = "the scratchpad must hold two weight tiles (32 terms and a scale a column)"
            refuse("MV0115", "sram_bytes", what, f"{2 * tile_bytes} or more")
        scaled = [word for word in self.formats if word not in INTEGER_FORMATS]
        if scaled and not self.has_fp_vector:
            what = "block-scaled formats need FP32, and core.has_fp_vector is false"
            refuse("MV0116", "formats", what, "some of " + ", ".join(INTEGER_FORMATS))
        if max(self._bursts_per_cycle.as_integer_ratio()) >= _TERM_LIMIT:
            what = "bursts a cycle must be a fraction num/den the arbiter can count"
            refuse("MV0117", "dram_gbps", what, f"num and den below {_TERM_LIMIT}")
        return faults

    # Derived figures. Rates are peaks; where one depends on a rule outside, the source is named.

    @property
    def peak_macs_per_cycle(self) -> int:
        """Multiply-accumulates of all MATRIX engines in one cycle, one pass of 8-bit slices."""
        return self.cores * self.columns * BLOCK_TERMS

    def peak_ops_per_s(self, slices: int = 1) -> float:
        """Peak operations a second (a multiply-accumulate is 2); both operands have `slices`."""
        if slices not in PASSES:
            raise SpecError(
                "MV0118",
                "no operand has this many slices",
                given=str(slices),
                allowed="1, 2 or 3",
                hint="use 1 for every format but x2 and x3",
            )
        return 2.0 * self.peak_macs_per_cycle * self.clock_mhz * 1e6 / PASSES[slices]

    @property
    def _bursts_per_cycle(self) -> Fraction:
        # Exact: the decimal the user wrote, not the nearest binary float.
        bytes_per_cycle = Fraction(repr(self.dram_gbps)) * 1000 / self.clock_mhz
        return bytes_per_cycle / self.dram_burst_bytes

    @property
    def dram_bursts_num(self) -> int:
        """Numerator of the exact DRAM rate in bursts per cycle, in lowest terms; 0 without DRAM."""
        return self._bursts_per_cycle.numerator

    @property
    def dram_bursts_den(self) -> int:
        """Denominator of the exact DRAM rate in bursts per cycle, in lowest terms."""
        return self._bursts_per_cycle.denominator

    @property
    def dram_slots(self) -> int:
        """Bursts that DRAM moves in one cycle at most; 0 without DRAM."""
        return -(-self.dram_bursts_num // self.dram_bursts_den)

    @property
    def core_port_bursts(self) -> int:
        """Bursts a cycle between DRAM and one core, each way, at most."""
        return self.core_port_bytes_per_cycle // self.dram_burst_bytes

    @property
    def dram_bytes_per_cycle(self) -> float:
        """DRAM bytes a cycle for the whole chip, for print; `dram_bursts_num`/`_den` are exact."""
        return float(self._bursts_per_cycle * self.dram_burst_bytes)

    @property
    def sram_total_bytes(self) -> int:
        """Scratchpad of all cores, bytes."""
        return self.cores * self.sram_bytes

    @property
    def accumulator_bytes(self) -> int:
        """Accumulators of one core, bytes (4 an entry)."""
        return self.accumulator_rows * self.columns * 4

    @property
    def tpp(self) -> float:
        """Total processing performance: 2 x MacTOPS x bit length, of the format with the most.

        The definition is that of United States export rule 3A090 (read from quotations of the
        official text; check against the eCFR before relying on it). x2 and x3 count as 16 and 24
        bits in 4 and 8 passes, so plain 8-bit formats always give the most.
        """

        def processing(word: str) -> float:
            passes = PASSES[_OPERAND_SLICES.get(word, 1)]
            return self.peak_ops_per_s() / passes / 1e12 * _OPERAND_BITS.get(word, 8)

        return max(processing(word) for word in self.formats)

    @property
    def ops_per_dram_byte(self) -> float | None:
        """Where the roofline bends: peak operations over DRAM bytes; None without DRAM."""
        return self.peak_ops_per_s() / (self.dram_gbps * 1e9) if self.dram_gbps else None

    # Other forms.

    def replace(self, **changes: Any) -> Self:
        """A chip with some fields changed, checked again. Unknown fields: ChipError MV0103."""
        unknown = [
            unknown_key(name, value) for name, value in changes.items() if name not in rules()
        ]
        if unknown:
            raise ChipError(unknown, where=f"chip {self.name}")
        return dataclasses.replace(self, **changes)

    def values(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return {name: getattr(self, name) for name in rules()}

    def fingerprint(self) -> str:
        """SHA-256, in hex, of all that the chip is; its name and description do not count."""
        facts = {
            key: val for key, val in self.values().items() if key not in ("name", "description")
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def text(self) -> str:
        """The chip as TOML; `parse_chip(chip.text()) == chip`."""
        lines: list[str] = []
        section = ""
        for name, rule in rules().items():
            value = getattr(self, name)
            if rule.section != section:
                section = rule.section
                lines += ["", f"[{section}]"]
            if value is not None:
                lines.append(f"{name} = {show(value)}")
        return "\n".join(lines) + "\n"


@functools.cache
def rules() -> dict[str, Rule]:
    """The rule of each field of ChipSpec, in order of declaration."""
    hints = get_type_hints(ChipSpec, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in dataclasses.fields(ChipSpec)}


def path_of(name: str) -> str:
    """Where a field is in the TOML: "section.key"."""
    section = rules()[name].section
    return f"{section}.{name}" if section else name


def value_faults(values: dict[str, Any]) -> list[Fault]:
    """What is wrong with each of the values given, by field name; says nothing of missing ones."""
    found = (rules()[name].fault(path_of(name), value) for name, value in values.items())
    return [fault for fault in found if fault]


def unknown_key(path: str, value: object) -> Fault:
    """The fault of a key that no chip has, with the nearest one that exists."""
    import difflib  # only when something is wrong

    key = path.rpartition(".")[2]
    near = difflib.get_close_matches(key, rules(), n=1, cutoff=0.5)
    allowed = DID_YOU_MEAN.format(path_of(near[0])) if near else "the keys of the presets"
    what = "a chip has no such key"
    return Fault(code="MV0103", what=what, path=path, given=show(value), allowed=allowed)
