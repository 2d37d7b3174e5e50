"""The second law: a sequence's logits are the same bits whatever it rides with and on.

One run is the reference: m1 with all its cores, one sequence alone, its whole text prefilled. What
is compared with it differs in batch, cores, preset, chunks, slots, or comes from decode.
"""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from tests.compiler.poisoned import Logits, bits, chip, engine, same, score

from mellivora.frontends.llm import load_model
from mellivora.runtime.engine import Engine
from mellivora.spec import ChipSpec

ACTIVATIONS = ("mxint8", "mxint8-only", "x2", "x3")
LENGTHS = (300, 129, 1, 255, 128, 64, 257, 127)
"""Tokens of the eight sequences: around the tiles of 128 tokens that attention works in."""

CHIPS: dict[str, ChipSpec] = {
    "m1": chip("m1"),
    **{f"m1x{n}": chip("m1", cores=n) for n in (1, 2, 3, 4)},
    "micro": chip("micro"),
    "nano": chip("nano"),
    # With three slices the cache's tiles alone fill nano's 64 KiB. Eight columns too, more room:
    "nano-roomy": chip("nano", sram_bytes=128 * 1024),
}
MAX_BATCH = {("nano", "mxint8"): 4, ("nano", "mxint8-only"): 4, ("nano", "x2"): 2}
"""Sequences at once, where eight do not fit the scratchpad."""
PAIRS = [(n, a) for n in CHIPS for a in ACTIVATIONS if (n, a) != ("nano", "x3")]


def text(sequence: int) -> list[int]:
    """Ids of a sequence, with one more than its length to decode."""
    generator = np.random.default_rng(sequence)
    return generator.integers(0, 512, LENGTHS[sequence] + 1).tolist()


@cache
def on(name: str, activations: str) -> Engine:
    batch = MAX_BATCH.get((name, activations), 8)
    return engine(load_model("tiny").graph, CHIPS[name], activations=activations, max_batch=batch)


@cache
def reference(activations: str, sequence: int) -> Logits:
    """Logits of every token of a sequence, float32 [tokens, vocab]."""
    return score(on("m1", activations), 0, text(sequence))


def test_the_reference_tells_tokens_and_contexts_apart() -> None:
    """Else equality below would prove nothing."""
    for activations in ACTIVATIONS:
        rows = np.concatenate([bits(reference(activations, s)) for s in range(8)])
        assert len(np.unique(rows, axis=0)) == len(rows) == sum(LENGTHS) + 8
    first = [reference(activations, 0) for activations in ACTIVATIONS]
    assert not any(same(first[i], first[j]) for i in range(4) for j in range(i))


def place(machine: Engine, activations: str, order: list[int]) -> None:
    """Prefill sequence order[i] into slot i, checking the last row."""
    for slot, sequence in enumerate(order):
        ids = text(sequence)[:-1]
        last = machine.prefill(slot, ids)
        assert same(last, reference(activations, sequence)[len(ids) - 1]), sequence


def step(machine: Engine, activations: str, order: list[int], batch: list[int]) -> None:
    """Decode the slots of `batch`, in that order, and compare each row."""
    rows = [(slot, text(order[slot])[-1], LENGTHS[order[slot]]) for slot in batch]
    for row, slot in zip(machine.decode(rows), batch, strict=True):
        assert same(row, reference(activations, order[slot])[-1]), (batch, slot)


@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("name", ["m1", "m1x3", "micro"])
def test_any_batch_any_place_in_it(name: str, activations: str) -> None:
    """Batches of 1 to 8 sequences of different contexts, each sequence in each row of the batch."""
    machine, order = on(name, activations), list(range(8))
    place(machine, activations, order)
    for size in range(1, 9):
        for turn in range(8):
            step(machine, activations, order, [(turn + i) % 8 for i in range(size)])
    generator = np.random.default_rng(7)
    for size in generator.integers(1, 9, 8):
        step(machine, activations, order, generator.permutation(8)[:size].tolist())


@pytest.mark.parametrize(("name", "activations"), PAIRS)
def test_any_number_of_cores_any_preset(name: str, activations: str) -> None:
    machine = on(name, activations)
    slots = machine.executable.slots
    for sequence in range(8):
        assert same(score(machine, 0, text(sequence)), reference(activations, sequence))
    for first in range(0, 8, slots):
        order = list(range(first, first + slots))
        place(machine, activations, order)
        step(machine, activations, order, list(range(slots)))


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_decode_gives_prefills_rows(activations: str) -> None:
    """Token by token from nothing, over two boundaries of tiles."""
    machine, ids, wanted = on("m1x4", activations), text(0), reference(activations, 0)
    for position, token in enumerate(ids):
        assert same(machine.decode([(3, token, position)])[0], wanted[position]), position


@pytest.mark.parametrize(
    ("name", "activations"),
    [pair for pair in PAIRS if pair[0] in ("m1", "micro", "nano")] + [("nano-roomy", "x3")],
)
def test_a_prompt_in_any_chunks(name: str, activations: str) -> None:
    machine, ids, wanted = on(name, activations), text(0), reference(activations, 0)
    generator = np.random.default_rng(11)
    cuts = [[1], [127], [128], [129], [1, 2, 3], [127, 129, 255, 257], [100, 101, 299, 300]]
    cuts += [sorted(generator.choice(np.arange(1, 300), n, replace=False)) for n in (2, 5, 9)]
    for cut in cuts:
        edges = [0, *map(int, cut), len(ids)]
        for start, end in itertools.pairwise(edges):
            rows = score(machine, 1, ids[start:end], start=start)
            assert same(rows, wanted[start:end]), (edges, start)


@pytest.mark.parametrize("rows", [1, 127, 128, 129, 256, 300])
def test_prompts_of_any_length(rows: int) -> None:
    """The last row's logits, whether all rows are scored or only that one."""
    for name in ("m1", "m1x2", "micro", "nano"):
        last = on(name, "mxint8").prefill(0, text(0)[:rows])
        assert same(last, reference("mxint8", 0)[rows - 1]), name


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_what_a_slot_held_before_does_not_matter(activations: str) -> None:
    """After longer sequences, and after bytes that are no sequence's at all."""
    machine = on("m1x2", activations)
    base, size = machine.device.windows[3]
    window = machine.device.machine.dram[base : base + size]
    short = [s for s in range(8) if LENGTHS[s] < 200]
    for slot in range(len(short)):
        machine.prefill(slot, text(0))
        machine.prefill(slot, text(0)[:212], start=300)  # to the end of the slot
    place(machine, activations, short)
    step(machine, activations, short, list(range(len(short))))
    # Any codes, and scales up to 2^127: only E8M0's NaN, which no quantiser writes for numbers.
    window[:] = np.random.default_rng(5).integers(0, 255, size, np.uint8)
    place(machine, activations, short)
    step(machine, activations, short, list(range(len(short))))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_of_the_host_do_not_matter(threads: int) -> None:
    machine = engine(load_model("tiny").graph, CHIPS["m1"], threads=threads)
    assert same(score(machine, 0, text(0)), reference("mxint8", 0))
    assert same(machine.decode([(0, text(0)[-1], 300)])[0], reference("mxint8", 0)[-1])
