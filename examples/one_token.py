"""One token through the whole stack, with the real values at each step. docs/tour.md quotes it.

    python examples/one_token.py                  prints every step
    python examples/one_token.py --update PAGE    writes the steps into a page that quotes them

The model is the small one inside the package, the chip is `nano`: one core of 8 columns. The decode
program is run by the definitions of its instructions in Python (`isa.meaning`), one at a time, so
that the memories can be read in between; at the end the native simulator must give the same bits.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

import mellivora
from mellivora import numerics
from mellivora.frontends.llm import load_model
from mellivora.graph.interpret import Interpreter
from mellivora.graph.kv_cache import KVCache
from mellivora.isa import meaning
from mellivora.isa.assembler import disassemble
from mellivora.isa.control import words_of
from mellivora.isa.encoding import ACCUMULATOR_BASE, R_CONFIG, R_OPCODE, R_PC, R_SLOT, pack
from mellivora.isa.latency import MATRIX_FILL_CYCLES
from mellivora.isa.modes import B_DWORDS, BFormat, Func, passes
from mellivora.isa.table import BY_NAME, BY_OPCODE
from mellivora.runtime.measure import Phase
from mellivora.runtime.sampling import Sampling, sample
from mellivora.sim.expand import expand

PROMPT = "KING RICHARD III:\nSay, I"
BLOCK = re.compile(r"(<!-- one_token: (\w+) -->\n```text\n)(.*?)(```\n)", re.DOTALL)


class Step:
    """A decode step of the prompt's last token, stopped wherever a reader wants to look."""

    def __init__(self) -> None:
        self.llm = mellivora.LLM(load_model("tiny"), "nano", max_batch=1, context=64)
        self.engine = self.llm.engine
        self.device = self.engine.device
        self.ids = self.llm.encode(PROMPT)
        self.position = len(self.ids) - 1
        self.engine.prefill(0, self.ids[:-1])  # the tokens before fill the KV cache
        self.settings = self.engine.decode_settings([(0, self.ids[-1], self.position)])
        self.entry = self.device.program.entries["decode"]
        self.words = words_of(self.entry.code)
        self.rows = expand(self.entry.code, self.device.parameters("decode", self.settings)[0])
        self.labels = [self.entry.label(int(pc)) for pc in self.rows[:, R_PC]]
        self.core = self.device.machine.cores[0]
        self.buffers = {name: at for name, at, _ in self.llm.executable.buffers["decode"]}
        self.at = self.matmul = 0

    def find(self, name: str, label: str, also: Callable[[list[int]], bool] | None = None) -> int:
        """Index of the first operation of this name and label, from here on."""
        for i in range(self.at, len(self.rows)):
            slots = self.rows[i, R_SLOT:R_CONFIG].tolist()
            here = self.rows[i, R_OPCODE] == BY_NAME[name].opcode and self.labels[i] == label
            if here and (also is None or also(slots)):
                return i
        raise LookupError(f"no {name} in {label}")

    def after(self, index: int) -> None:
        """Run up to and with operation `index`."""
        for i in range(self.at, index + 1):
            slots = self.rows[i, R_SLOT:R_CONFIG].tolist()
            row = BY_OPCODE[int(self.rows[i, R_OPCODE])]
            with np.errstate(all="ignore"):
                if row.name == "exch":  # with one core: a copy
                    meaning.exchange([self.core], [slots])
                elif row.meaning is not None:
                    row.meaning(self.core, slots, self.rows[i, R_CONFIG : R_CONFIG + 8].tolist())
        self.at = index + 1

    def slots(self, index: int) -> dict[str, int]:
        """Slots and configuration of an operation by name, as the engine sees them."""
        row = BY_OPCODE[int(self.rows[index, R_OPCODE])]
        values = self.rows[index, R_SLOT : R_SLOT + len(row.slots)].tolist()
        named = dict(zip(row.slots, values, strict=True))
        config = self.rows[index, R_CONFIG : R_CONFIG + len(row.config)].tolist()
        return named | {f"cfg.{name}": v for name, v in zip(row.config, config, strict=True)}

    def f32(self, buffer: str, count: int) -> np.ndarray:
        """The first FP32 values of a buffer of the scratchpad."""
        return self.core.tile(self.buffers[buffer], 1, count, 0)[0].copy()

    def param(self, name: str) -> np.ndarray:
        """A parameter of the checkpoint as FP32."""
        return np.asarray(self.llm.model.graph.params[name], np.float32)

    def shown(self, index: int) -> str:
        """An operation as its word says it: address in the program, text."""
        pc = int(self.rows[index, R_PC])
        return f"pc {pc:<4d} {disassemble(self.words[pc])}"


def reals(values: np.ndarray, count: int = 4) -> str:
    return "  ".join(f"{value:+.4f}" for value in values[:count].tolist()) + "  ..."


def steps() -> dict[str, str]:
    """Every step of the page: name -> text."""
    step, out = Step(), {}
    for part in (token, embed, norm, word, product, attention, layers, logits, timing):
        out[part.__name__] = part(step)
    return out


def token(step: Step) -> str:
    pieces = [f"{i}={step.llm.tokenizer.decode([i])!r}" for i in step.ids]
    return (
        f"prompt    {PROMPT!r}\ntokens    {'  '.join(pieces)}\n"
        f"prefill   positions 0 to {step.position - 1}\n"
        f"decode    token {step.ids[-1]} at position {step.position}\n"
        f"program   {len(step.words)} instruction words; this step runs "
        f"{len(step.rows)} engine operations"
    )


def embed(step: Step) -> str:
    convert = step.find("vdeq", "embed")
    row = max(i for i in range(convert) if step.shown(i).split()[2] == "load")
    step.after(convert)
    load, x = step.slots(row), step.f32("x", 96)
    table = step.param("embed")[step.ids[-1]]
    return "\n".join(
        [
            step.shown(row),
            f"        window {load['window']} (tables), byte {32 * load['offset'] + load['fine']}: "
            f"{load['n0']} bytes to scratchpad {load['pad']:#x}",
            step.shown(convert),
            f"x       {reals(x)}",
            f"BF16    {reals(table)}  (row {step.ids[-1]} of the checkpoint's table)",
            f"largest difference over all 96: {np.abs(x - table).max():.1e}",
        ]
    )


def norm(step: Step) -> str:
    first, last = step.find("vred", "layers.0.norm"), step.find("vquant", "layers.0.norm")
    x = step.f32("x", 96)
    step.after(last)
    s = step.slots(last)
    codes = [
        step.core.tile(s["dst"] + j * s["cfg.dst_plane"], 1, 96, 0, (np.int8, np.uint8)[j])[0]
        for j in range(2)
    ]
    scales = step.core.tile(s["dst_scale"], 1, 3, 0, np.uint8)[0]
    whole = 256 * codes[0].astype(np.int64) + codes[1]
    values = whole * np.repeat(numerics.from_e8m0(scales) * np.float32(2.0**-14), 32)
    exact = x / np.sqrt(np.mean(x.astype(np.float64) ** 2) + step.llm.config.norm_eps)
    exact *= step.param("layers.0.attn_norm")
    lines = [step.shown(i) for i in range(first, last + 1) if step.labels[i] == "layers.0.norm"]
    powers = ", ".join(f"2^{int(scale) - 127}" for scale in scales)
    return "\n".join(
        [
            *lines,
            f"slice 0 {codes[0][:8].tolist()} ...  (signed)",
            f"slice 1 {codes[1][:8].tolist()} ...  (unsigned)",
            f"scales  {scales.tolist()}  (E8M0: {powers})",
            f"codes   {reals(values)}  (256 * slice 0 + slice 1, times scale, times 2^-14)",
            f"float64 {reals(exact)}  (RMSNorm of x by its formula)",
            f"largest difference over all 96: {np.abs(values - exact).max():.1e}",
        ]
    )


def word(step: Step) -> str:
    step.matmul = step.find("matmul", "layers.0.qkv")
    pc = int(step.rows[step.matmul, R_PC])
    raw = step.words[pc]
    lines = [f"word      {pack(raw):032x}", f"text      {disassemble(raw)}"]
    lines.append(
        f"opcode    {raw.opcode:#04x}, waits on {raw.wait0}, posts {raw.post0}, {raw.post1}"
    )
    for name, slot in zip(BY_NAME["matmul"].slots, raw.slots, strict=True):
        origin = f"r{slot & 63}" if slot >> 11 else "immediate"
        lines.append(f"{name:9s} {origin:10s} {step.slots(step.matmul)[name]}")
    config = {k[4:]: v for k, v in step.slots(step.matmul).items() if k.startswith("cfg.")}
    lines.append("from mcfg " + "  ".join(f"{k} {v}" for k, v in list(config.items())[:6]))
    return "\n".join(lines)


def product(step: Step) -> str:
    """Column 0 of the first MATMUL, worked out here from the bytes in the scratchpad."""
    s, tile = step.slots(step.matmul), step.core.tile
    step.after(step.matmul - 1)
    f32, n = np.float32, s["n"]
    total, lines = f32(0), []
    for block in range(s["blocks"]):
        at = s["b"] + block * s["cfg.b_block"]
        scale_a = numerics.from_e8m0(tile(s["a_scale"] + block, 1, 1, 0, np.uint8))[0, 0]
        scale_b = numerics.from_e8m0(tile(at + 2 * 32 * n, 1, n, 0, np.uint8))[0, 0]
        for i, j in passes(2, 2):
            a_at = s["a"] + i * s["cfg.a_plane"] + 32 * block
            a = tile(a_at, 1, 32, 0, (np.int8, np.uint8)[i])[0].astype(np.int64)
            b = tile(at + j * 32 * n, 8, 4 * n, 4 * n, (np.int8, np.uint8)[j])
            b = b[:, :4].reshape(32).astype(np.int64)  # column 0: four bytes of each of 8 rows
            dot = int(a @ b)
            sa, sb = (s * f32(2.0 ** -(6 + 8 * x)) for s, x in ((scale_a, i), (scale_b, j)))
            factor = sa * sb  # powers of two: exact
            total = total + f32(dot) * factor  # FP32, each operation rounded
            lines.append(
                f"block {block} pass {i},{j}  dot {dot:+8d}  scale 2^{int(np.log2(factor)):<4d}"
                f" acc {total:+.7f}"
            )
    step.after(step.matmul)
    acc = tile(ACCUMULATOR_BASE + 4 * s["acc_row"] * n, 1, n, 0)[0]
    equal = acc[:1].tobytes() == total.tobytes()
    return "\n".join(
        [*lines, f"accumulators {reals(acc, 8)[:-5]}", f"column 0 has the same bits: {equal}"]
    )


def attention(step: Step) -> str:
    """Layer 0: what goes into the KV cache, and the softmax over the tokens so far."""
    label, at = "layers.0.attention", step.buffers["p"]
    tokens = step.position + 1
    store = step.find("store", "layers.0.rope")
    scores = step.find("vred", label, lambda s: s[3] == 128)
    weights = step.find("vew", label, lambda s: s[0] == at and s[6] >> 6 == int(Func.EXP2))
    stored = step.slots(store)
    step.after(scores - 1)
    raw = step.core.tile(step.slots(scores)["a"], 3, tokens, 512).copy()
    step.after(weights)
    p = step.core.tile(at, 3, 128, 512).copy()
    end = max(i for i in range(len(step.rows)) if step.labels[i] == label)
    step.after(end)
    attended = step.f32("own.out", 96)
    lines = [
        step.shown(store),
        f"        key of position {step.position} to window 3 (KV cache), byte "
        f"{32 * stored['offset'] + stored['fine']}",
        f"q.k     {reals(raw[0], 4)}  (head 0, tokens 0 to 3 of {tokens})",
        step.shown(weights),
    ]
    for head in range(3):
        row = p[head, :tokens] / p[head].sum()
        best = int(row.argmax())
        text = step.llm.tokenizer.decode([step.ids[best]])
        lines.append(f"head {head}  most weight {row[best]:.3f} on token {best} ({text!r})")
    lines.append(f"weights past position {step.position}: largest {p[:, tokens:].max():g}")
    lines.append(f"out     {reals(attended)}  (head 0, normalised)")
    return "\n".join(lines)


def layers(step: Step) -> str:
    lines = []
    for index in range(step.llm.config.layers):
        kinds = f"layers.{index}."
        step.after(
            max(
                i
                for i in range(len(step.rows))
                if step.labels[i].startswith(kinds)
                and step.rows[i, R_SLOT] == step.buffers["x"]
                and BY_OPCODE[int(step.rows[i, R_OPCODE])].name == "vew"
            )
        )
        lines.append(f"x after layer {index}  {reals(step.f32('x', 96))}")
    return "\n".join(lines)


def logits(step: Step) -> str:
    step.after(len(step.rows) - 1)
    mine = step.device.read_logits(1)[0]
    native = step.engine.decode([(0, step.ids[-1], step.position)])[0]
    wide = mellivora.LLM(step.llm.model, "m1", max_batch=1, context=64)
    on_m1 = wide.engine.prefill(0, step.ids)
    graph = step.llm.model.graph
    ids = np.array(step.ids, np.int32)
    inputs = {"ids": ids, "positions": np.arange(len(ids), dtype=np.int32)}
    exact = Interpreter(graph).run(inputs, state=KVCache())[graph.outputs[0]][-1]
    lines = ["token     logit    FP32"]
    decode = step.llm.tokenizer.decode
    for i in np.argsort(-mine, kind="stable")[:5].tolist():
        lines.append(f"{decode([i])!r:9s} {mine[i]:+.4f}  {exact[i]:+.3f}")
    drawn = Sampling(temperature=0.8, top_k=5, seed=1)
    first, other = (
        decode([sample(mine, how, seen=step.ids, position=len(step.ids))])
        for how in (Sampling(), drawn)
    )
    two = mellivora.LLM(step.llm.model, "nano", activations="x2", max_batch=1, context=64)
    two_slices = two.engine.prefill(0, step.ids)
    lines += [
        f"greedy: {first!r}   temperature 0.8, top-k 5, seed 1: {other!r}",
        f"same bits as the native simulator: {mine.tobytes() == native.tobytes()}",
        f"same bits as prefill of all tokens on m1 (16 cores of 256 columns): "
        f"{mine.tobytes() == on_m1.tobytes()}",
        "largest difference from the graph in FP32 over all 512 logits: "
        f"{np.abs(mine - exact).max():.0e}",
        f"the same with --activations x2: {np.abs(two_slices - exact).max():.0e}",
    ]
    return "\n".join(lines)


def timing(step: Step) -> str:
    result = step.device.timing("decode", step.settings)
    phase = Phase("decode", step.device.chip, 1)
    phase.add(result, step.entry.symbols)
    i, cost = step.matmul, int(result.operations[0]["cost"][step.matmul])
    fill, load = MATRIX_FILL_CYCLES, B_DWORDS[BFormat.MX8] + 1
    blocks = step.slots(i)["blocks"]
    lines = [
        f"cycles    {result.cycles}  ({1e6 * result.seconds:.1f} us at "
        f"{step.device.chip.clock_mhz} MHz)",
        f"matmul    queued in cycle {int(result.dispatch[0][i])}, "
        f"starts {int(result.start[0][i])}, ends {int(result.end[0][i])}",
        f"          takes {cost} = {fill} to fill the pipeline + {load} for the first weights + "
        f"{blocks} blocks of {(cost - fill - load) // blocks}",
        f"roof      {phase.roofs.limit}: {100 * phase.roofs.fraction:.1f} % of it",
    ]
    for kind in phase.by_kind():
        lines.append(f"{kind.kind:9s} {kind.cycles:7d} cycles")
    for engine, busy in phase.busy_cycles.items():
        causes = phase.stall_cycles[engine]
        cause = max(causes, key=lambda name: causes[name])
        most = f"waits most for {cause}: {int(causes[cause])}"
        lines.append(f"{engine:9s} busy {int(busy):6d}, {most}")
    return "\n".join(lines)


def quoted(page: str, made: dict[str, str]) -> str:
    """The page with every quoted step as it is now."""
    return BLOCK.sub(lambda m: m[1] + made[m[2]] + "\n" + m[4], page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--update", type=Path, metavar="PAGE", help="rewrite the steps of a page")
    args = parser.parse_args()
    made = steps()
    if args.update:
        args.update.write_text(quoted(args.update.read_text("utf-8"), made), "utf-8")
        return
    for name, text in made.items():
        print(f"== {name}\n{text}\n")


if __name__ == "__main__":
    main()
