"""`mellivora run MODEL.onnx`: a graph's tensors, worked out on the simulated chip."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mellivora.commands._models import check_output
from mellivora.commands._progress import Progress
from mellivora.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mellivora.compiler.generic import Port
    from mellivora.graph.ir import Graph

    Array = npt.NDArray[Any]

SHOWN = 4
"""Values of an output that are printed."""


def run_graph(args: argparse.Namespace) -> dict[str, Any]:
    """Run once with given or random inputs; print what came out, and what it took on the chip.

    Returns model, chip, inputs, outputs (dtype, shape, summary), cycles, seconds, engines, host.
    """
    from mellivora.frontends.onnx import load_onnx
    from mellivora.runtime.graph import GraphRunner
    from mellivora.runtime.llm import chip_of

    trace, save = check_output(args.trace), check_output(args.save)
    progress = Progress()
    given = {name: _read(name, path) for name, path in _pairs(args.input, "--input")}
    dims = {name: _size(name, text) for name, text in _pairs(args.dim, "--dim")}
    progress.say("reading the model")
    graph = load_onnx(args.model)
    _refuse(args)
    dims |= {n: size for n, size in _dims_of(graph, given).items() if n not in dims}
    graph = load_onnx(args.model, dims=dims)  # known sizes fold more of it
    chip = chip_of(args.chip, args.cores)
    progress.say("compiling")
    started = time.perf_counter()
    runner = GraphRunner(
        graph, chip, dims=dims, slices=args.slices, dump_after=args.dump_after, dump=print
    )
    compiled_s = time.perf_counter() - started
    ports = runner.compiled.inputs
    if odd := sorted(set(given) - set(ports)):
        raise UsageError(
            "MV0838",
            "the model has no such input",
            given=" ".join(odd),
            allowed=" ".join(ports),
            hint="name one of the model's inputs",
        )
    feed = _feed(ports, given, args.seed)
    progress.say("preparing the device")
    runner.prepare()
    progress.say("running")
    outputs = runner.run(feed)
    stats = runner.stats
    assert stats is not None
    progress.say("timing")
    result = runner.timing(feed)
    progress.clear()
    facts: dict[str, Any] = {
        "model": graph.name,
        "kind": "graph",
        "source": args.model,
        "chip": chip.values(),
        "fingerprint": chip.fingerprint(),
        "slices": args.slices,
        "inputs": {
            name: {**_kind(port), "from": "file" if name in given else "random"}
            for name, port in ports.items()
        },
        "outputs": {
            name: {**_kind(port), **_summary(outputs[name])}
            for name, port in runner.compiled.outputs.items()
        },
        "operations": len(graph.nodes),
        "off_chip_operators": [],
        "cycles": result.cycles,
        "seconds": result.seconds,
        "engine_operations": stats.engine_ops,
        "macs": stats.macs,
        "host": {"compile_seconds": compiled_s, "run_seconds": stats.seconds},
    }
    _print(facts)
    if save:
        import numpy as np

        with save.open("wb") as file:
            np.savez(file, allow_pickle=False, **outputs)
        print(f"wrote {save}")
    if trace:
        from mellivora.compiler.generic.compile import ENTRY
        from mellivora.sim.trace import write_trace

        symbols = runner.compiled.program.entries[ENTRY].symbols
        write_trace(trace, result, symbols=symbols)
        print(f"wrote {trace}")
    return facts


def _refuse(args: argparse.Namespace) -> None:
    """What only language models take."""
    if args.prompt is not None or args.report:
        raise UsageError(
            "MV0837",
            "an ONNX graph takes tensors, and writes no report",
            given=repr(args.prompt) if args.prompt is not None else "--report",
            allowed="--input NAME=FILE.npy, --dim NAME=N, --slices, --save, --trace",
            hint="leave it out",
        )


def _pairs(texts: list[str], option: str) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    if odd := [text for text, (name, sign, value) in zip(texts, pairs, strict=True) if not
               (name and sign and value)]:  # fmt: skip
        raise UsageError(
            "MV0839",
            "the option takes a name and a value",
            where=option,
            given=odd[0],
            allowed="NAME=VALUE",
            hint=f"for instance {option} image=" + ("image.npy" if option == "--input" else "1"),
        )
    return [(name, value) for name, _, value in pairs]


def _size(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(
            "MV0840",
            "a dimension has no such size",
            where=f"--dim {name}",
            given=text,
            allowed="1 or more",
            hint="give a whole number",
        )
    return int(text)


def _read(name: str, path: str) -> Array:
    """An array of a .npy file; nothing in it is run."""
    import numpy as np

    try:
        return np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            "MV0841",
            "an input's values cannot be read",
            where=f"--input {name}",
            given=f"{path}: {error}".splitlines()[0],
            allowed="a .npy file of numbers",
            hint="write it with numpy.save",
        ) from None


def _dims_of(graph: Graph, given: dict[str, Array]) -> dict[str, int]:
    """Sizes of symbols that given arrays show."""
    found: dict[str, int] = {}
    for name in set(given) & set(graph.inputs):
        for dim, size in zip(graph.values[name].shape, given[name].shape, strict=False):
            if isinstance(dim, str):
                found.setdefault(dim, size)
    return found


def _feed(ports: dict[str, Port], given: dict[str, Array], seed: int) -> dict[str, Array]:
    """Given arrays in the model's dtypes; else normal numbers, indices of tables, ones."""
    import numpy as np

    from mellivora.graph.ir import DTYPES

    rng, feed = np.random.default_rng(seed), dict[str, "np.ndarray[Any, Any]"]()
    for name, port in ports.items():
        dtype = DTYPES[port.dtype]
        if name in given:
            array = given[name]
            feed[name] = array.astype(dtype) if np.can_cast(array.dtype, dtype) else array
        elif dtype.kind == "f":
            feed[name] = rng.standard_normal(port.shape).astype(dtype)
        elif port.limit:
            feed[name] = rng.integers(0, port.limit, port.shape).astype(dtype)
        else:
            feed[name] = np.ones(port.shape, dtype)
    return feed


def _kind(port: Port) -> dict[str, Any]:
    return {"dtype": port.dtype, "shape": list(port.shape)}


def _summary(array: Array) -> dict[str, Any]:
    """Least, largest, mean, deviation, and the first values."""
    import numpy as np

    if not array.size:
        return {"values": []}
    wide = array.astype(np.float64)
    with np.errstate(invalid="ignore"):
        numbers = {
            "min": float(wide.min()),
            "max": float(wide.max()),
            "mean": float(wide.mean()),
            "std": float(wide.std()),
        }
    finite = {key: value if np.isfinite(value) else None for key, value in numbers.items()}
    first = [v if np.isfinite(v) else None for v in wide.reshape(-1)[:SHOWN].tolist()]
    return {**finite, "values": first}


def _print(facts: dict[str, Any]) -> None:
    from mellivora.commands._table import scaled

    print(f"{facts['model']}: {facts['operations']} operations, all on the chip")
    for kind in ("inputs", "outputs"):
        print(kind)
        for name, one in facts[kind].items():
            text = f"  {name}: {one['dtype']}{one['shape']}"
            if kind == "inputs":
                print(f"{text}  {one['from']}")
            elif one["values"]:
                number = {k: "-" if one[k] is None else f"{one[k]:.6g}" for k in one if k in
                          ("min", "max", "mean", "std")}  # fmt: skip
                print(text + "  " + "  ".join(f"{k} {v}" for k, v in number.items()))
                print("    " + "  ".join("-" if v is None else f"{v:.6g}" for v in one["values"]))
            else:
                print(f"{text}  empty")
    host, chip = facts["host"], facts["chip"]
    print(
        f"on the chip ({chip['name']}, {chip['cores']} cores, {facts['slices']} slices; simulated)"
    )
    rate = 1 / facts["seconds"] if facts["seconds"] else 0.0
    print(f"  {facts['cycles']:,} cycles, {scaled(facts['seconds'], 's')}, {rate:,.1f} runs/s")
    print(f"on this host  compile {host['compile_seconds']:.2f} s, run {host['run_seconds']:.2f} s")
