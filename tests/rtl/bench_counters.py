"""What the counters of a core must be, from the timing machine's result of the same run."""

from mellivora.rtl.counters import TRANSFER_NAMES
from mellivora.rtl.front import NAMES
from mellivora.sim.stalls import CAUSES
from mellivora.sim.timing import Role


def check_counters(got, result, halted):
    """Every counter of the engines, on a chip of one core; halted: cycles until HALT was there."""
    cycles = max(result.cycles, halted)
    assert got["cycles"] == cycles
    operations, busy = result.operations[0], result.busy_cycles[0]
    for e, name in enumerate(NAMES):
        mine = operations["engine"] == e
        together = mine & (operations["role"] == Role.COLLECTIVE)
        stalls = dict(zip(CAUSES, result.stall_cycles[0, e].tolist(), strict=True))
        assert got[f"{name}_ended"] == mine.sum()
        joint = got["store_together"] if name == "store" else 0
        assert got[f"{name}_busy"] == busy[e] - operations["cost"][together].sum()
        assert joint == operations["cost"][together].sum()  # one core does not wait for others
        after = cycles - result.cycles  # CONTROL may halt later than the last operation ends
        assert got[f"{name}_empty"] == stalls["dispatch"] + stalls["finished"] + after
        for other in NAMES[2:]:
            assert got.get(f"{name}_waits_{other}", 0) == stalls[other]
        moved = sum(got[f"{name}_waits_{other}"] for other in TRANSFER_NAMES)
        moved += got.get(f"{name}_full", 0)
        named = sum(stalls[c] for c in ("load", "store", "latency", "rendezvous", "bandwidth"))
        assert moved == named
        idle = sum(v for k, v in got.items() if k.startswith(f"{name}_waits_"))
        whole = got[f"{name}_busy"] + joint + got[f"{name}_empty"] + idle
        assert whole + got.get(f"{name}_full", 0) == cycles
