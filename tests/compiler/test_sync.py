"""Passes hoist, sync and emit on random kernels: proven by the checker, the same values, no token
too many.

The checker reads footprints from the instruction words alone and knows nothing of the regions that
`sync` worked from, so it judges the regions too.
"""

from __future__ import annotations

import copy
import itertools
import random

import numpy as np
import numpy.typing as npt
import pytest
from tests.compiler.random_kernels import CHIP, WINDOWS, RandomKernel

from mellivora.compiler.emit import emit
from mellivora.compiler.hoist import hoist
from mellivora.compiler.ir import EngineOp, Item, Loop, Region
from mellivora.compiler.kernel import Kernel, Tile
from mellivora.compiler.sync import SYNC_NAME, Semaphores, sync
from mellivora.errors import CompileError, IsaError
from mellivora.isa.check import check
from mellivora.isa.modes import Op
from mellivora.sim.expand import expand
from mellivora.sim.functional import Machine

COUNTS = [(0, 0, 0), (1, 1, 1), (3, 2, 1), (0, 3, 5), (7, 0, 2)]
SEEDS = range(60)


def code_of(items: list[Item]) -> npt.NDArray[np.uint64]:
    code, _ = emit(items, [("start", "control")])
    return code


def prove(items: list[Item], counts: tuple[int, ...]) -> None:
    """Raises IsaError if some schedule of the items is wrong."""
    check([expand(code_of(items), counts)], CHIP, WINDOWS)


def prove_all(items: list[Item]) -> None:
    for counts in COUNTS:
        prove(items, counts)


def compiled(kernel: RandomKernel) -> list[Item]:
    return sync(hoist(copy.deepcopy(kernel.kernel.items)))


def memory_after(items: list[Item], counts: tuple[int, ...]) -> list[npt.NDArray[np.uint8]]:
    """All memories after the items ran in program order, from the same random DRAM."""
    dram = np.random.default_rng(0).integers(0, 128, 8192, np.uint8)
    machine = Machine(CHIP, dram=dram, windows=[(0, 4096), (4096, 4096)])
    machine.load(code_of(items))
    machine.run(counts)
    return [machine.dram, machine.cores[0].scratchpad, machine.cores[0].accumulators]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_kernels_are_proven_at_any_loop_count(seed: int) -> None:
    prove_all(compiled(RandomKernel(seed)))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_passes_keep_what_a_kernel_computes(seed: int) -> None:
    kernel = RandomKernel(seed)
    for counts in COUNTS:
        before = memory_after(kernel.kernel.items, counts)
        after = memory_after(compiled(kernel), counts)
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)), counts


@pytest.mark.nightly
def test_many_more_random_kernels() -> None:
    for seed in range(1000, 1500):
        kernel = RandomKernel(seed, size=random.Random(seed).randint(5, 80))
        items = compiled(kernel)
        for counts in COUNTS:
            prove(items, counts)
            before, after = (memory_after(x, counts) for x in (kernel.kernel.items, items))
            assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)), seed


def test_without_sync_the_checker_objects() -> None:
    for seed in SEEDS:
        with pytest.raises(IsaError):
            prove(RandomKernel(seed).kernel.items, (1, 1, 1))


def edges(block: list[Item]) -> list[tuple[EngineOp, EngineOp, int]]:
    """(source, target, semaphore) of one level: the k-th wait takes the k-th post."""
    posts: dict[int, list[EngineOp]] = {}
    waits: dict[int, list[EngineOp]] = {}
    for op in (item for item in block if isinstance(item, EngineOp)):
        for semaphore in op.posts:
            posts.setdefault(semaphore, []).append(op)
        for semaphore in op.waits:
            waits.setdefault(semaphore, []).append(op)
    return [
        (source, target, semaphore)
        for semaphore in posts
        for source, target in zip(posts[semaphore], waits.get(semaphore, []), strict=False)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_no_token_is_too_many_in_straight_code(seed: int) -> None:
    """Take any one pair of post and wait away: the checker finds the race that it prevented."""
    items = sync(RandomKernel(seed, loops=False, size=16).kernel.items)
    prove(items, COUNTS[0])
    found = edges(items)
    assert len(found) > 2
    for source, target, semaphore in found:
        source.posts.remove(semaphore)
        target.waits.remove(semaphore)
        with pytest.raises(IsaError) as caught:
            prove(items, COUNTS[0])
        assert caught.value.code in ("MV0622", "MV0623", "MV0624"), str(caught.value)
        # Order on one operation does not matter, among equals of the same semaphore neither.
        source.posts.append(semaphore)
        target.waits.append(semaphore)
    prove(items, COUNTS[0])


@pytest.mark.parametrize("seed", range(20))
def test_half_a_pair_stands_still_or_is_left_over(seed: int) -> None:
    items = compiled(RandomKernel(seed))
    flat = [op for op in _operations(items) if op.posts or op.waits]
    for op in flat[::3]:
        kept = list(op.posts), list(op.waits)
        del (op.posts or op.waits)[-1]
        with pytest.raises(IsaError):
            prove_all(items)
        op.posts[:], op.waits[:] = kept


def _operations(items: list[Item]) -> list[EngineOp]:
    nested = (_operations(i.body) if isinstance(i, Loop) else [i] for i in items)
    return [op for op in itertools.chain.from_iterable(nested) if isinstance(op, EngineOp)]


def double_buffer() -> list[Item]:
    """LOAD fills two buffers in turn, VECTOR adds each to a sum, STORE writes the sum away."""
    k = Kernel(CHIP)
    buffers = [k.alloc(name, 32) for name in ("even", "odd", "sum")]
    even, odd, total = (Tile(buffer.at(), 32) for buffer in buffers)
    k.dma("load", buffers[2].at(), window=0, offset=0, n=(32,))
    with k.loop(k.parameter(0)):
        for buffer, tile in zip(buffers, (even, odd), strict=False):
            k.dma("load", buffer.at(), window=0, offset=1, n=(32,))
            k.vew(total, total, rows=1, cols=8, op1=Op.ADD, b=tile)
        far = Region("io", 0, 32)
        k.dma("store", buffers[2].at(), window=1, offset=0, n=(32,), far=far)
    return k.items


def test_tokens_that_loops_carry_are_needed() -> None:
    """LOAD waits for VECTOR of the iteration before, VECTOR for STORE: each of them is missed."""
    items = sync(double_buffer())
    for count in (0, 1, 2, 9):
        prove(items, (count,))
    at = next(i for i, item in enumerate(items) if isinstance(item, Loop))
    loop, before, after = items[at], items[:at], items[at + 1 :]
    assert isinstance(loop, Loop)
    found = edges(loop.body)
    assert len(found) == 6  # two of LOAD to VECTOR, one to STORE, three back into the next round
    primed = {semaphore for op in _operations(before) for semaphore in op.posts}
    carried = [edge for edge in found if edge[2] in primed]
    assert len(carried) == 3
    for source, target, semaphore in found:
        touched = [source.posts, target.waits]
        if semaphore in primed:
            touched += [op.posts for op in _operations(before) if semaphore in op.posts][:1]
            touched += [op.waits for op in _operations(after) if semaphore in op.waits][:1]
        for tokens in touched:
            tokens.remove(semaphore)
        with pytest.raises(IsaError) as caught:
            prove(items, (9,))
        assert caught.value.code in ("MV0622", "MV0623"), str(caught.value)
        for tokens in touched:
            tokens.append(semaphore)
    prove(items, (9,))


def test_many_tokens_on_one_operation_spill_into_syncs() -> None:
    """A word has two waits and two posts; here every other engine must come to one VECTOR."""
    items = compiled(RandomKernel(0))
    op = next(op for op in _operations(items) if op.name == "vew")
    sources = [EngineOp(SYNC_NAME[engine], []) for engine in (1, 2, 3) for _ in range(2)]
    for semaphore, source in enumerate(sources, 50):
        source.posts.append(semaphore)
        op.waits.append(semaphore)
    prove([*sources, *items], (1, 1, 1))


def test_more_semaphores_than_a_core_has_are_refused() -> None:
    """One for each level, direction and pair of engines; semaphore 0 means none, so 63 in all."""
    semaphores = Semaphores()
    keys = [(level, carried, 1, 4) for level in range(32) for carried in (False, True)]
    assert [semaphores.get(*key) for key in keys[:63]] == list(range(1, 64))
    assert semaphores.get(*keys[0]) == 1
    with pytest.raises(CompileError) as caught:
        semaphores.get(*keys[63])
    assert caught.value.code == "MV0401"
