"""The second law on a real model: SmolLM2-135M, a short prompt, cores and presets and decode."""

from __future__ import annotations

import numpy as np
import pytest
from tests.compiler.poisoned import chip, engine, same, score

from mellivora.frontends.llm import load_model

IDS = np.random.default_rng(2).integers(0, 49_152, 20).tolist()
CHIPS = {
    **{f"m1x{n}": chip("m1", cores=n) for n in (1, 2, 4)},
    "micro": chip("micro"),
    "micro-roomy": chip("micro", sram_bytes=256 * 1024),
    # Eight columns; nano's own 64 KiB are less than one head's tiles and one row of this model.
    "nano-roomy": chip("nano", sram_bytes=256 * 1024),
}


@pytest.mark.parametrize(
    ("activations", "names"),
    [
        ("mxint8", ["m1x1", "m1x2", "m1x4", "micro"]),
        ("x2", ["m1x2"]),
        pytest.param("mxint8", ["nano-roomy"], marks=pytest.mark.nightly),
        pytest.param("x2", ["m1x1", "m1x4", "micro-roomy"], marks=pytest.mark.nightly),
        pytest.param("x3", ["m1x2", "nano-roomy"], marks=pytest.mark.nightly),
    ],
)
def test_logits_do_not_depend_on_cores_or_preset(activations: str, names: list[str]) -> None:
    graph = load_model("smollm2").graph
    options = {"activations": activations, "max_batch": 2, "context": 256}
    reference = engine(graph, chip("m1"), threads=2, **options)
    wanted = score(reference, 0, IDS)
    reference.prefill(1, IDS[:-1])
    assert same(reference.decode([(1, IDS[-1], 19)])[0], wanted[19])
    for name in names:
        machine = engine(graph, CHIPS[name], threads=2, **options)
        assert same(score(machine, 0, IDS[:7]), wanted[:7]), name
        assert same(machine.prefill(0, IDS[7:19], start=7), wanted[18]), name
        machine.prefill(1, IDS[:8])
        rows = machine.decode([(1, IDS[8], 8), (0, IDS[19], 19)])
        assert same(rows, wanted[[8, 19]]), name
