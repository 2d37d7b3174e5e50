"""Beats to codes and scales: `numerics.mx_slices` by blocks and by rows, and the narrow types."""

import numpy as np
import pytest

from mellivora import numerics
from mellivora.isa.modes import Store
from mellivora.rtl import simulate
from mellivora.rtl.beat_quantise import BeatQuantise, quantise_stages
from mellivora.rtl.vector_control import TOKEN
from mellivora.spec import load_chip

NANO = load_chip("nano")


@pytest.fixture(scope="module", params=[8, pytest.param(64, marks=pytest.mark.nightly)])
def lanes_and_simulation(request):
    lanes = request.param
    return lanes, simulate.build(BeatQuantise(NANO.replace(lanes=lanes)))


def beats_of(rows, lanes, wide):
    """Inputs of beats back to back; wide: each row twice. [(row, first column)] of each beat."""
    x, tokens, inside, places = [], [], [], []
    for r, row in enumerate(rows):
        for second in (0, 1) if wide else (0,):
            for at in range(0, len(row), lanes):
                part = row[at : at + lanes]
                full = np.full(lanes, 0x7F800000, np.uint32)  # outside, so it must not count
                full[: len(part)] = part
                last = at + lanes >= len(row)
                block_last = last or (at + lanes) % 32 == 0
                fields = {"valid": 1, "row_last": last, "block_last": block_last, "second": second}
                x.append(full)
                tokens.append(TOKEN.const(fields).as_value().value)
                inside.append(np.arange(lanes) < len(part))
                places.append((r, at) if second or not wide else None)
    return np.array(x), np.array(tokens), np.array(inside), places


def run(sim, lanes, rows, target, wide):
    x, tokens, inside, places = beats_of(rows, lanes, wide)
    stages = quantise_stages(lanes)

    def padded(array):
        return np.pad(array, ((0, stages), *((0, 0),) * (array.ndim - 1)))

    got = sim.run(
        enable=1,
        target=target,
        wide=int(wide),
        token=padded(tokens),
        inside=simulate.pack(padded(inside), 1),
        x=simulate.pack(padded(x), 32),
    )
    return {name: port[stages:] for name, port in got.items()}, places


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("slices", [1, 2, 3])
@pytest.mark.parametrize("cols", [32, 64, 96, 160])
def test_slices(slices, cols, wide, lanes_and_simulation, rng, corners, same_bits):
    lanes, sim = lanes_and_simulation
    cols -= 5 * wide
    spread = np.exp2(rng.integers(-20, 20, (30, cols)))
    rows = (rng.normal(0, 1, (30, cols)) * spread).astype(np.float32).view(np.uint32)
    rows[::4] = rng.choice(corners, rows[::4].shape)
    codes, scales = numerics.mx_slices(
        rows.view(np.float32), slices=slices, block=cols if wide else 32
    )
    got, places = run(sim, lanes, rows, slices, wide)
    planes = simulate.unpack(got["codes"], 8, 3 * lanes).reshape(-1, 3, lanes)
    shown = got["scales"].reshape(len(planes), -1)[:, 0]
    for i, place in enumerate(places):
        if place is None:
            continue
        r, at = place
        count = min(lanes, cols - at)
        for j in range(slices):
            same_bits(planes[i, j, :count], codes[j].view(np.uint8)[r, at : at + count])
        assert shown[i] & 255 == scales[r, 0 if wide else at // 32]
        if lanes == 64 and not wide and count > 32:
            assert shown[i] >> 8 & 255 == scales[r, at // 32 + 1]


@pytest.mark.parametrize("target", [Store.F16, Store.BF16, Store.INT8])
def test_narrow(target, lanes_and_simulation, rng, corners, same_bits):
    lanes, sim = lanes_and_simulation
    rows = rng.choice(corners, (4, 4 * lanes))
    got, places = run(sim, lanes, rows, target, False)
    words = simulate.unpack(got["narrow"], 16, lanes)
    convert = {
        Store.F16: numerics.f32_to_f16_bits,
        Store.BF16: numerics.f32_to_bf16_bits,
        Store.INT8: lambda x: numerics.f32_to_int8(x).view(np.uint8),
    }[target]
    mask = 255 if target == Store.INT8 else 65535
    for i, (r, at) in enumerate(places):
        same_bits(words[i] & mask, convert(rows[r, at : at + lanes].view(np.float32)))
