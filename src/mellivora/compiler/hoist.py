"""Pass `hoist`: bring weight LOADs as far forward in program order as their buffers allow.

CONTROL dispatches in order into queues of finite depth, so a LOAD that stands late in the program
is dispatched late. Placed right behind the last reader of its bytes, LOAD runs ahead over
everything else, layer boundaries included: weights wait for nobody.
"""

from __future__ import annotations

from mellivora.compiler.ir import EngineOp, Item, Loop, Reg, Region, ScalarOp
from mellivora.compiler.sync import engine_ops


def hoist(items: list[Item]) -> list[Item]:
    """Items with `prefetch` operations moved forward, in their order; loops are walked too."""
    after: dict[int, list[EngineOp]] = {}
    last_use: dict[str, list[tuple[int, int, int]]] = {}
    written: dict[Reg, int] = {}
    barrier = -1
    out: list[Item] = []
    for item in items:
        if isinstance(item, EngineOp) and item.prefetch:
            place = max(barrier, *(_last(last_use, region) for region in item.writes))
            place = max(
                place, -1, *(written.get(slot, -1) for slot in item.slots if isinstance(slot, Reg))
            )
            after.setdefault(place, []).append(item)
            barrier = place
            continue
        position = len(out)
        out.append(Loop(item.count, hoist(item.body)) if isinstance(item, Loop) else item)
        if isinstance(item, ScalarOp):
            written[item.rd] = position
        for op in engine_ops([item]):
            for region in (*op.reads, *op.writes):
                _note(last_use, region, position)
    merged: list[Item] = list(after.get(-1, []))
    for position, item in enumerate(out):
        merged.append(item)
        merged.extend(after.get(position, []))
    return merged


def _last(last_use: dict[str, list[tuple[int, int, int]]], region: Region) -> int:
    uses = last_use.get(region.root, ())
    return max((p for s, e, p in uses if s < region.end and region.start < e), default=-1)


def _note(last_use: dict[str, list[tuple[int, int, int]]], region: Region, position: int) -> None:
    """Remember the latest position that touches each byte range."""
    uses = last_use.setdefault(region.root, [])
    uses[:] = [u for u in uses if not (region.start <= u[0] and u[1] <= region.end)]
    uses.append((region.start, region.end, position))
