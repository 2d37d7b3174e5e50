"""Whole networks, from ONNX bytes to tensors off the simulated chip, against onnxruntime.

Tolerance, as in tests/onnx: both sides sum in different orders; a product of k terms errs by about
sqrt(k) * u (u = 2**-24) of its largest output, the layers' errors add, times 4 from the typical to
the worst element. Products of three slices keep 22 bits of each block's largest element where FP32
keeps 24: times 4 again. Functions of VECTOR err by less than that (compiler.generic.formulas).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tests.onnx import models
from tests.onnx.test_networks import LIGHT, with_random_weights

from mellivora.frontends.onnx import load_onnx
from mellivora.isa.check import check_program
from mellivora.runtime.graph import GraphRunner
from mellivora.sim.expand import expand
from mellivora.spec import ChipSpec, load_chip

U = 2.0**-24
CHIPS = ("nano", "micro", "m1")


def wanted(data: bytes, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options).run(None, feed)


def on_chip(
    data: bytes, feed: dict[str, np.ndarray], chip: ChipSpec, *, check: bool = False, **dims: int
) -> dict[str, np.ndarray]:
    """Outputs; three runs on the same memory give the same bits."""
    runner = GraphRunner(load_onnx(data, dims=dims), chip)
    first = runner.run(feed, poison=True)
    for _ in range(2):
        again = runner.run(feed)
        for name, array in first.items():
            np.testing.assert_array_equal(again[name], array)
    if check:
        check_program(runner.compiled.program, resolver=expand)
    assert runner.timing().cycles == runner.timing(feed).cycles > 1000
    return first


def close(got: dict[str, np.ndarray], want: list[np.ndarray], *, layers: int, terms: int) -> None:
    for (name, array), reference in zip(got.items(), want, strict=True):
        assert array.shape == reference.shape, name
        bound = 16 * layers * terms**0.5 * U * np.abs(reference).max()
        assert np.abs(array - reference).max() <= bound, name
        assert np.abs(reference).std() > 0


def bert_feed(batch: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    lengths = rng.integers(1, length + 1, batch)
    return {
        "input_ids": rng.integers(0, 101, (batch, length)),
        "attention_mask": (np.arange(length)[None] < lengths[:, None]).astype(np.int64),
        "token_type_ids": rng.integers(0, 2, (batch, length)),
    }


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 13), (3, 64)])
def test_bert(batch: int, length: int) -> None:
    """2 layers of 6 products, 5 normalisations; the longest sum is 4 * 48 = 192 terms."""
    data, feed = models.bert().SerializeToString(), bert_feed(batch, length)
    chip = load_chip("nano")
    got = on_chip(data, feed, chip, check=length < 20, batch=batch, length=length)
    close(got, wanted(data, feed), layers=17, terms=192)


def test_bert_gives_the_same_bits_on_every_chip_and_in_every_batch() -> None:
    data, feed = models.bert().SerializeToString(), bert_feed(3, 13)
    got = on_chip(data, feed, load_chip("nano"), batch=3, length=13)
    others = [load_chip("micro"), load_chip("m1"), replace(load_chip("m1"), cores=3)]
    for chip in others:
        other = on_chip(data, feed, chip, check=chip.cores < 4, batch=3, length=13)
        for name, array in got.items():
            np.testing.assert_array_equal(other[name], array)
    for row in range(3):
        alone = {name: array[row : row + 1] for name, array in feed.items()}
        other = on_chip(data, alone, load_chip("nano"), batch=1, length=13)
        for name, array in got.items():
            np.testing.assert_array_equal(other[name][0], array[row])


def small_resnet(image: int = 64) -> Any:
    """The parts of ResNet-50: a stem, three bottlenecks of which one strides, the head."""
    n = models.Net(7)

    def conv(x: str, channels: int, out: int, kernel: int, stride: int = 1) -> str:
        w = n.normal(out, channels, kernel, kernel, spread=(2 / channels / kernel**2) ** 0.5)
        pad = kernel // 2
        x = n.op("Conv", x, w, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
        parts = [1 + 0.1 * n.rng.standard_normal(out), *(0.1 * n.rng.standard_normal((2, out)))]
        names = [n.const(p.astype(np.float32)) for p in (*parts, 1 + n.rng.random(out))]
        return n.op("BatchNormalization", x, *names, epsilon=1e-5)

    x = n.op("Relu", conv("image", 3, 16, 7, 2))
    x = n.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 16
    for width, stride in ((8, 1), (8, 1), (20, 2)):
        y = n.op("Relu", conv(x, channels, width, 1))
        y = conv(n.op("Relu", conv(y, width, width, 3, stride)), width, 4 * width, 1)
        if channels != 4 * width:
            x = conv(x, channels, 4 * width, 1, stride)
        x, channels = n.op("Relu", n.op("Add", y, x)), 4 * width
    x = n.op("Flatten", n.op("GlobalAveragePool", x))
    x = n.op("Gemm", x, n.normal(10, channels, spread=0.1), n.normal(10), transB=1)
    return n.model([models.f32("image", ["n", 3, image, image])], [x])


@pytest.mark.parametrize("name", CHIPS)
def test_small_resnet(name: str) -> None:
    """12 products, of at most 20 * 9 terms; the bits are nano's on every chip."""
    data = small_resnet().SerializeToString()
    image = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    got = on_chip(data, {"image": image}, load_chip(name), check=name == "micro", n=2)
    close(got, wanted(data, {"image": image}), layers=13, terms=180)
    nano = on_chip(data, {"image": image[:1]}, load_chip("nano"), n=1)
    for output, array in nano.items():
        np.testing.assert_array_equal(array[0], got[output][0])


def test_resnet50() -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    data = models.resnet50().SerializeToString()
    got = on_chip(data, {"image": image}, load_chip("m1"), n=1)
    close(got, wanted(data, {"image": image}), layers=54, terms=512 * 9)


@pytest.mark.nightly
def test_resnet50_of_full_size() -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    data = models.resnet50(224, 1000).SerializeToString()
    got = on_chip(data, {"image": image}, load_chip("m1"), n=1)
    close(got, wanted(data, {"image": image}), layers=54, terms=512 * 9)


QUICK = ("light_squeezenet", "light_shufflenet")


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=() if p.stem in QUICK else pytest.mark.nightly) for p in LIGHT],
    ids=lambda path: path.stem,
)
def test_real_network(path: Path) -> None:
    """The networks of ONNX's backend suite: grouped and depthwise convolution, LRN, joins."""
    data, name, shape = with_random_weights(path)
    image = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    runner = GraphRunner(load_onnx(data), load_chip("m1"))
    layers = sum(node.op in ("conv", "linear") for node in load_onnx(path).nodes)
    got = runner.run({name: image}, poison=True)
    close(got, wanted(data, {name: image}), layers=layers, terms=512 * 9)
