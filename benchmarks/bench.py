"""Speed of the simulation beside PyTorch's, and the chip's own efficiency, with their targets.

    python benchmarks/bench.py                 everything; writes benchmarks/results/DATE-all.json
    python benchmarks/bench.py --rounds 5 --only decode,prefill

Every figure of speed is a ratio of two runs on this machine that took turns: ours, the peer's,
ours, the peer's, each a process of its own. A pair's ratio is of neighbours in time; the median
pair counts. The load of the machine is noted with each; on a busy one ratios are the figures to
trust. The peer is PyTorch eager in BF16 (peer_torch.py), with one thread or two, the faster.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
THREADS = 2


@dataclass
class Row:
    """A line of the table. target: what must be reached, aim: what is hoped for."""

    what: str
    figure: str
    target: str = ""
    met: bool | None = None
    aim: str = ""


class Bench:
    """Runs the parts; `facts` is what is written, `rows` what is printed."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.rows: list[Row] = []
        self.facts: dict[str, Any] = {}

    # ------------------------------------------------------------------ processes

    def python(self, script: str, *words: str) -> dict[str, Any]:
        """The object that a benchmark script prints, with the load when it started."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
        load = os.getloadavg()[0]
        print(f"  {script} {' '.join(words)}", file=sys.stderr)
        done = subprocess.run(
            [sys.executable, str(HERE / script), *words],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return {**json.loads(done.stdout.splitlines()[-1]), "load": load}

    def ours(self, *words: str) -> dict[str, Any]:
        return self.python("ours.py", *words)

    def peer(self, rate: Callable[[Any], float], *words: str) -> dict[str, Any]:
        """The peer at its best: with one thread or with all, whichever is faster this time.

        Its threads wait for each other at every operation; where a neighbour takes a core, two are
        many times slower than one, and a ratio to that would flatter us.
        """
        runs = [
            self.python("peer_torch.py", *words, "--json", "--threads", str(threads))
            for threads in (1, THREADS)
        ]
        best = max(runs, key=rate)
        return {**best, "rate_by_threads": {run["threads"]: rate(run) for run in runs}}

    def pairs(
        self, name: str, ours: dict[str, list[str]], peer: list[str], rate: Callable[[Any], float]
    ) -> dict[str, float]:
        """Ours (by variant) and the peer in turn; the median over rounds of each ratio of rates."""
        ratios: dict[str, list[float]] = {variant: [] for variant in ours}
        rounds: list[dict[str, Any]] = []
        for _ in range(self.rounds):
            runs = {variant: self.ours(*words) for variant, words in ours.items()}
            runs["peer"] = self.peer(rate, *peer)
            rounds.append(runs)
            for variant in ours:
                ratios[variant].append(rate(runs[variant]) / rate(runs["peer"]))
        medians = {variant: statistics.median(values) for variant, values in ratios.items()}
        rates = {
            variant: statistics.median(rate(runs[variant]) for runs in rounds)
            for variant in [*ours, "peer"]
        }
        facts = {"ratio_median": medians, "ratios": ratios, "rate_median": rates, "rounds": rounds}
        self.facts[name] = facts
        return medians

    # ------------------------------------------------------------------ parts

    def decode(self) -> None:
        """Functional decode of SmolLM2 at context 512, and what memory allows."""
        words = {a: ["decode", "--activations", a] for a in ("mxint8", "x2")}
        medians = self.pairs("decode", words, ["decode"], lambda run: run["tokens_per_s"])
        rates = self.facts["decode"]["rate_median"]
        for variant, ratio in medians.items():
            figure = f"{ratio:.2f} x  ({rates[variant]:.1f} against {rates['peer']:.1f} tokens/s)"
            what = f"decode, context 512, {variant}"
            self.rows.append(Row(what, figure, ">= 1.0 x", ratio >= 1.0, "3 x"))
        limit = self.ours("bandwidth")
        last = [runs["mxint8"]["weights_bytes_per_s"] for runs in self.facts["decode"]["rounds"]]
        read, limit_read = statistics.median(last), limit["read_bytes_per_s"]
        self.facts["bandwidth"] = limit
        self.rows.append(
            Row(
                "weights read in decode, mxint8",
                f"{read / 1e9:.1f} of {limit_read / 1e9:.1f} GB/s of a plain read",
                aim=f"limit {limit_read / read:.1f} times faster",
            )
        )

    def prefill(self) -> None:
        words = {a: ["prefill", "--activations", a] for a in ("mxint8", "x2")}
        medians = self.pairs("prefill", words, ["prefill"], lambda run: 1 / run["prefill_s_median"])
        rates = self.facts["prefill"]["rate_median"]
        for variant, ratio in medians.items():
            figure = f"{ratio:.2f} x  ({1 / rates[variant]:.2f} against {1 / rates['peer']:.2f} s)"
            self.rows.append(Row(f"prefill of 512, {variant}", figure, ">= 0.3 x", ratio >= 0.3))

    def compile(self) -> None:
        runs = [self.ours("compile") for _ in range(self.rounds)]
        cold, cached = (
            statistics.median(run[name] for run in runs) for name in ("cold_s", "cached_s")
        )
        self.facts["compile"] = {"cold_s": cold, "cached_s": cached, "rounds": runs}
        self.rows.append(Row("compile SmolLM2, cold", f"{cold:.2f} s", "< 10 s", cold < 10))
        self.rows.append(Row("compile SmolLM2, cached", f"{cached:.2f} s"))

    def timing(self) -> None:
        runs = [self.ours("timing") for _ in range(self.rounds)]
        step = statistics.median(run["step_s_median"] for run in runs)
        self.facts["timing"] = {"step_s": step, "rounds": runs}
        self.rows.append(Row("timing a decode step", f"{step:.3f} s", "< 0.2 s", step < 0.2))

    def help(self) -> None:
        """`mellivora --help`: what its script does, in a fresh process."""
        program = [sys.executable, "-c", "from mellivora.cli import main; raise SystemExit(main())"]
        times_s = []
        for _ in range(4 * self.rounds):
            start_s = time.perf_counter()
            subprocess.run([*program, "--help"], check=True, stdout=subprocess.DEVNULL)
            times_s.append(time.perf_counter() - start_s)
        median = statistics.median(times_s)
        self.facts["help"] = {"start_s": median, "times_s": times_s}
        self.rows.append(Row("mellivora --help", f"{median:.3f} s", "< 0.3 s", median < 0.3))

    def roofs(self) -> None:
        """The chip's own efficiency: no host time in it."""
        wanted = (("smollm2", "q4_1", 0.50, 0.50), ("qwen3-8b", "mxint8", 0.85, 0.80))
        for model, weights, dram, matrix in (*wanted, ("qwen3-8b", "q4_0", 0.85, 0.80)):
            run = self.ours("roofs", "--model", model, "--weights", weights)
            self.facts[f"roofs {model} {weights}"] = run
            for phase, key, target in (
                ("decode", "dram_fraction", dram),
                ("prefill", "matrix_fraction_linear", matrix),
            ):
                fraction, rate = run[phase][key], run[phase]["tokens_per_s"]
                where = "of DRAM" if phase == "decode" else "of MATRIX on linear layers"
                figure = f"{fraction:.1%} {where}; {rate:,.0f} tokens/s"
                what = f"{phase}, {model} {weights} on m1"
                self.rows.append(Row(what, figure, f">= {target:.0%}", fraction >= target))
                costs = sorted(run[phase]["share_of_cycles"].items(), key=lambda kv: -kv[1])[:4]
                told = ", ".join(f"{kind} {share:.0%}" for kind, share in costs)
                self.rows.append(Row("    its time", told))


def table(rows: list[Row]) -> str:
    """The rows in columns; what a target misses is marked."""
    marks = {None: "", True: "met", False: "MISSED"}
    cells = [("what", "figure", "target", "", "aim or limit")]
    cells += [(r.what, r.figure, r.target, marks[r.met], r.aim) for r in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text("ascii").splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
    }


def main() -> None:
    parts = ("decode", "prefill", "compile", "timing", "help", "roofs")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns of ours and the peer")
    parser.add_argument("--only", help=f"parts, with commas: {', '.join(parts)}")
    parser.add_argument("--no-write", action="store_true", help="print only")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(parts)
    if unknown := sorted(set(chosen) - set(parts)):
        parser.error(f"no such part: {', '.join(unknown)}")
    now = datetime.datetime.now(datetime.UTC)
    bench = Bench(options.rounds)
    before = machine()
    for part in chosen:
        print(f"{part} (load average {os.getloadavg()[0]:.2f})", file=sys.stderr)
        try:
            getattr(bench, part)()
        except (subprocess.CalledProcessError, OSError) as error:  # the other parts still count
            bench.rows.append(Row(part, f"failed: {error}", "to run", met=False))
    print(table(bench.rows))
    loads = f"load average {before['load_average'][0]:.2f} before, {os.getloadavg()[0]:.2f} after"
    print(f"\n{before['cpu']}, {before['cores']} cores, {loads}")
    if not options.no_write:
        RESULTS.mkdir(exist_ok=True)
        name = options.only.replace(",", "-") if options.only else "all"
        path = RESULTS / f"{now:%Y-%m-%d}-{name}.json"
        rows = [vars(row) for row in bench.rows]
        facts = {"date": now.isoformat(timespec="seconds"), "machine": before, "table": rows}
        path.write_text(json.dumps({**facts, **bench.facts}, indent=1) + "\n", "utf-8")
        print(f"written to {path.relative_to(HERE.parent)}")
    sys.exit(any(row.met is False for row in bench.rows))


if __name__ == "__main__":
    main()
