"""Banked memory: random traffic of many ports against an array of bytes, cycle for cycle."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from mellivora.rtl import emit
from mellivora.rtl.banked_memory import EVENT_CYCLES, BankedMemory
from mellivora.rtl.interfaces import READ_CYCLES, WRITE_CYCLES
from mellivora.rtl.secded import CODE_BITS, decode, encode
from mellivora.rtl.sharing import share
from mellivora.rtl.simulate import build, pack, unpack
from mellivora.spec import load_chip

WORD = 8  # bytes of a bank's word: narrow ones compile faster
READS = {"byte": 1, "half": 4, "word": 8, "burst": 16}
WRITES = {"half": 4, "burst": 16}
CYCLES = 3000


def memory(size, banks=8, word=WORD):
    return BankedMemory(size, word, banks=banks, reads=READS, writes=WRITES)


class Around(wiring.Component):
    """Nothing but a memory: inside another component a simulation takes its model."""

    def __init__(self, inner):
        self.inner, self.module_name = inner, f"around_{inner.module_name}"
        super().__init__(inner.signature)

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = share(self.inner)
        for name in self.signature.members:
            port, place = getattr(self, name), getattr(self.inner, name)
            for field in place.signature.members:
                ends = [getattr(place, field), getattr(port, field)]
                m.d.comb += (
                    ends[0].eq(ends[1])
                    if field != "data" or name[0] == "w"
                    else (ends[1].eq(ends[0]))
                )
        return m


@pytest.fixture(params=["hardware", "model"])
def make(request):
    """make(size, ...): a simulation of the hardware, or of the model."""

    def of(size, *more):
        inner = memory(size, *more)
        return build(inner if request.param == "hardware" else Around(inner))

    return of


def traffic(rng, size, cycles=CYCLES, reads=READS, writes=WRITES):
    """{port: rows} of random reads and writes, some close together; no byte has two writers."""
    ops = {}
    base = rng.integers(0, size, cycles)  # half of all addresses lie near it, so that ports meet

    def addresses():
        near = (base + rng.integers(-20, 20, cycles)) % size
        return np.where(rng.random(cycles) < 0.5, near, rng.integers(0, size, cycles))

    for name in reads:
        ops[f"read_{name}__address"] = addresses()
        ops[f"read_{name}__enable"] = rng.random(cycles) < 0.8
    taken = [set() for _ in range(cycles)]
    for name, width in writes.items():
        at, enable = addresses(), rng.random(cycles) < 0.7
        mask = rng.random((cycles, width)) < np.where(rng.random((cycles, 1)) < 0.5, 1.0, 0.6)
        for t in np.flatnonzero(enable):
            touched = (at[t] + np.arange(width)) % size
            mask[t] &= [byte not in taken[t] for byte in touched]
            taken[t].update(touched[mask[t]])
        ops[f"write_{name}__address"], ops[f"write_{name}__enable"] = at, enable
        ops[f"write_{name}__mask"] = mask
        ops[f"write_{name}__data"] = rng.integers(0, 256, (cycles, width))
    return ops


def expected(ops, size, reads=READS, writes=WRITES):
    """{read port: bytes [cycles, width]} in the cycle in which they show; held when not enabled."""
    cycles = len(next(iter(ops.values())))
    content = np.zeros(size, np.int64)
    shown = {name: np.zeros((cycles + READ_CYCLES, width), int) for name, width in reads.items()}
    for t in range(cycles):
        for name, width in writes.items():
            due = t - WRITE_CYCLES
            if due >= 0 and ops[f"write_{name}__enable"][due]:
                mask = ops[f"write_{name}__mask"][due]
                at = (ops[f"write_{name}__address"][due] + np.arange(width)) % size
                content[at[mask]] = ops[f"write_{name}__data"][due][mask]
        for name, width in reads.items():
            at = (ops[f"read_{name}__address"][t] + np.arange(width)) % size
            before = shown[name][t + READ_CYCLES - 1]
            enable = ops[f"read_{name}__enable"][t]
            shown[name][t + READ_CYCLES] = content[at] if enable else before
    return {name: rows[:cycles] for name, rows in shown.items()}


def operands(ops, sim):
    """The arrays as the simulation takes them."""
    rows = {}
    for name, values in ops.items():
        if name.endswith("data"):
            values = pack(values, 8)
        elif name.endswith("mask") and name != "inject__mask":
            values = pack(values, 1)
        rows[name] = values[:, 0] if values.ndim == 2 and sim.inputs[name] <= 32 else values
    return rows


def run(sim, ops, reads=READS):
    """{read port: bytes [cycles, width]} of the hardware."""
    out = sim.run(**operands(ops, sim))
    return {
        name: unpack(out[f"read_{name}__data"].reshape(-1, -(-width // 4)), 8, width)
        for name, width in reads.items()
    }


SHAPES = [
    (2048, 8, WORD),
    (1024 + 256, 4, WORD),
    pytest.param(4096, 2, 32, marks=pytest.mark.nightly),  # the chip's words; half a minute
]


@pytest.mark.parametrize(("size", "banks", "word"), SHAPES)
def test_random_traffic(size, banks, word, make, rng):
    """Every alignment, ports that meet in banks and words, reads one cycle after a write."""
    sim, ops = make(size, banks, word), traffic(rng, size)
    got, want = run(sim, ops), expected(ops, size)
    for name in READS:
        np.testing.assert_array_equal(got[name], want[name], name)


def test_cycles(make, rng):
    """A read one cycle after the write shows the old bytes, one two cycles after it the new."""
    size, sim = 2048, make(2048)
    ops = {name: values[:12] * 0 for name, values in traffic(rng, size, 12).items()}
    ops["write_burst__address"][:] = 253
    ops["write_burst__enable"][4] = 1
    ops["write_burst__mask"] |= True
    ops["write_burst__data"][:] = 1 + np.arange(16)
    ops["read_burst__address"][:] = 253
    ops["read_burst__enable"][[5, 6]] = 1
    got = run(sim, ops)["burst"]
    assert not got[: 6 + READ_CYCLES].any(), "too early"
    np.testing.assert_array_equal(got[4 + WRITE_CYCLES + READ_CYCLES], 1 + np.arange(16))
    np.testing.assert_array_equal(got[-1], 1 + np.arange(16), "an idle port holds its data")


def test_an_address_wraps(make, rng):
    """Bits above the size do nothing: what is written past the end lies at the beginning."""
    size, sim = 2048, make(2048)
    ops = traffic(rng, size)
    want = expected(ops, size)
    for name in ops:
        if name.endswith("address"):
            ops[name] = ops[name] + size * rng.integers(0, 2**31 // size, CYCLES)
    got = run(sim, ops)
    for name in READS:
        np.testing.assert_array_equal(got[name], want[name], name)


ECC_READS, ECC_WRITES = {"word": 4, "odd": 9}, {"word": 8}


def flips_between(ops, rng, size, count):
    """Adds `count` flipped bits, mostly one in a word, to the operands; {cycle: (byte, bits)}.

    Nobody writes the bytes of a word whose bits flip, then or a cycle before.
    """
    cycles, done = len(ops["inject__address"]), {}
    while count:
        t = int(rng.integers(2, cycles))
        word = int(rng.integers(size // WORD)) * WORD
        if t in done or any(done.get(t + d, (word + 1, 0))[0] == word for d in (-1, 1)):
            continue
        bits = rng.choice(WORD * CODE_BITS, min(count, int(rng.choice([1, 1, 1, 2, 3]))), False)
        count -= len(bits)
        flips = np.bincount(bits // CODE_BITS, 1 << bits % CODE_BITS, WORD).astype(np.uint16)
        done[t] = word, flips
        ops["inject__address"][t], ops["inject__enable"][t] = word + rng.integers(WORD), True
        ops["inject__mask"][t] = pack(flips[None].astype(int), CODE_BITS)[0]
        for before in (t - 1, t):
            touched = (ops["write_word__address"][before] + np.arange(WORD)) % size
            ops["write_word__mask"][before] &= touched // WORD != word // WORD
    return done


def test_ecc_under_random_flips(rng):
    """10,000 flips while ports read and write: each read byte and both counts as `decode` says."""
    size, cycles = 1024, 12_000
    sim = build(BankedMemory(size, WORD, banks=4, reads=ECC_READS, writes=ECC_WRITES, ecc=True))
    ops = traffic(rng, size, cycles, ECC_READS, ECC_WRITES)
    ops |= {f"inject__{name}": np.zeros(cycles, int) for name in ("address", "enable")}
    ops["inject__mask"] = np.zeros((cycles, 4), np.uint32)
    flips = flips_between(ops, rng, size, 10_000)

    stored, meaning = encode(np.zeros(size, int)), decode(np.arange(1 << CODE_BITS))
    counts = np.zeros((cycles + EVENT_CYCLES, 2), int)
    want = {name: np.zeros((cycles + READ_CYCLES, width), int) for name, width in ECC_READS.items()}
    for t in range(cycles):
        due = t - WRITE_CYCLES
        if due in flips:
            word, bits = flips[due]
            stored[word : word + WORD] ^= bits
        if due >= 0 and ops["write_word__enable"][due]:
            mask = ops["write_word__mask"][due]
            at = (ops["write_word__address"][due] + np.arange(WORD)) % size
            stored[at[mask]] = encode(ops["write_word__data"][due])[mask]
        for name, width in ECC_READS.items():
            want[name][t + READ_CYCLES] = want[name][t + READ_CYCLES - 1]
            if ops[f"read_{name}__enable"][t]:
                at = (ops[f"read_{name}__address"][t] + np.arange(width)) % size
                data, corrected, uncorrectable = (x[stored[at]] for x in meaning)
                want[name][t + READ_CYCLES] = data
                counts[t + EVENT_CYCLES] += corrected.sum(), uncorrectable.sum()
    out = sim.run(**operands(ops, sim))
    for name, width in ECC_READS.items():
        got = unpack(out[f"read_{name}__data"].reshape(cycles, -1), 8, width)
        np.testing.assert_array_equal(got, want[name][:cycles], name)
    assert counts[:, 0].sum() > 10_000
    assert counts[:, 1].sum() > 500
    np.testing.assert_array_equal(out["corrected"], counts[:cycles, 0])
    np.testing.assert_array_equal(out["uncorrectable"], counts[:cycles, 1])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_port_must_not_meet_a_bank_twice():
    with pytest.raises(AssertionError, match="meets a bank once"):
        BankedMemory(4096, banks=2, reads={"wide": 34}, writes={})
    emit.rtlil(BankedMemory(4096, banks=2, reads={"wide": 33}, writes={}))


def test_names_differ_where_modules_do():
    parts = [
        memory(2048),
        memory(4096),
        memory(2048, banks=16),
        BankedMemory(2048, banks=8, reads=READS, writes={"half": 4}),
        BankedMemory(2048, banks=8, reads=WRITES, writes=READS),
    ]
    assert len({part.module_name for part in parts}) == len(parts)
    for part in parts:
        part._MustUse__used = True  # made for its name


@pytest.mark.parametrize("name", ["nano", "micro", pytest.param("m1", marks=pytest.mark.nightly)])
def test_elaborates_for(name):
    """Accumulators of every chip: a row of banks is two rows of columns."""
    chip = load_chip(name)
    row = 4 * chip.columns
    accumulators = BankedMemory(
        chip.accumulator_rows * row,
        banks=2 * row // 32,
        reads={"matrix": row, "d": max(4, chip.lanes // 8)},
        writes={"matrix": row},
    )
    assert accumulators.depth * accumulators.banks * 32 == chip.accumulator_rows * row
    assert accumulators.module_name in emit.rtlil(accumulators)
