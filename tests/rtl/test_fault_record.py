"""Of several faults the oldest is recorded; the first cycle with one counts, later ones do not."""

import numpy as np
import pytest
from tests.rtl.bench_front import layout_words

from mellivora.isa.encoding import CONTROL, LOAD
from mellivora.rtl.control import CONTROL_FAULT
from mellivora.rtl.fault_record import RECORD, WATCHDOG_FAULT, WORKERS, FaultRecord
from mellivora.rtl.in_flight import PLACE
from mellivora.rtl.interfaces import FAULT
from mellivora.rtl.simulate import build


@pytest.fixture(scope="module")
def sim():
    return build(FaultRecord())


def shot(rng, *, rate, watchdog=False, drained=False, control=False):
    """Random faults of one cycle, and the record they must leave."""

    def fault():
        highest = {"cause": 10, "pc": 1 << 24, "sequence": 1 << 32}
        numbers = {name: int(rng.integers(1, high)) for name, high in highest.items()}
        return {"valid": int(rng.random() < rate), **numbers}

    engines, overflow = ([fault() for _ in range(WORKERS)] for _ in range(2))
    oldest = [{k: v for k, v in fault().items() if k in ("pc", "sequence")} for _ in range(WORKERS)]
    pending = int(rng.integers(0, 16))
    own = {
        "valid": int(control),
        "cause": int(rng.integers(1, 10)),
        "pc": int(rng.integers(1 << 32)),
    }
    inputs = {
        "engines": layout_words(FAULT, engines), "overflow": layout_words(FAULT, overflow),
        "control": layout_words(CONTROL_FAULT, [own]), "oldest": layout_words(PLACE, oldest),
        "pending": pending, "watchdog": watchdog, "drained": drained,
    }  # fmt: skip
    first = [(o if o["valid"] else f, e) for e, (o, f) in enumerate(zip(overflow, engines))]
    first = [(f["sequence"], f["cause"], f["pc"], LOAD + e) for f, e in first if f["valid"]]
    if not first and watchdog:
        first = [(o["sequence"], WATCHDOG_FAULT, o["pc"], LOAD + e)
                 for e, o in enumerate(oldest) if pending >> e & 1]  # fmt: skip
    if not first and control and drained:
        first = [(0, own["cause"], own["pc"], CONTROL)]
    record = {}
    if first:
        _, cause, pc, engine = min(first)
        record = {"valid": 1, "cause": cause, "pc": pc, "engine": engine}
    return inputs, layout_words(RECORD, [record])


def sequence_of(shots):
    names = shots[0][0]
    return {name: np.array([one[0][name] for one in shots]) for name in names}


def test_the_oldest_of_one_cycle(sim, rng):
    """Each shot after a clear of its own."""
    shots = [
        shot(rng, rate=float(rng.choice([0, 0.1, 0.5])), watchdog=rng.random() < 0.5,
             drained=rng.random() < 0.5, control=rng.random() < 0.5)
        for _ in range(4000)
    ]  # fmt: skip
    inputs = {name: np.repeat(rows, 2, axis=0) for name, rows in sequence_of(shots).items()}
    clear = np.arange(2 * len(shots)) % 2 == 0
    shown = sim.run(clear=clear, **inputs)["record"]
    np.testing.assert_array_equal(shown[2::2], [wanted for _, wanted in shots[:-1]])
    assert len({tuple(w) for w in shown}) > 1000


def test_only_the_first_counts(sim, rng):
    shots = [shot(rng, rate=0.0), shot(rng, rate=0.5), *(shot(rng, rate=0.5) for _ in range(20))]
    shown = sim.run(clear=0, **sequence_of(shots))["record"]
    assert not shown[:2].any()
    assert shots[1][1].any()
    np.testing.assert_array_equal(shown[2:], [shots[1][1]] * 20)
