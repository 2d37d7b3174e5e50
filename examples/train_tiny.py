"""Train `tiny`, the small language model that lives in this repository.

    python examples/train_tiny.py tinyshakespeare.txt --out src/mellivora/models/tiny

`tiny` is a Llama of 289,440 parameters with everything a large one has (grouped-query attention,
RoPE, SwiGLU, RMSNorm, tied embeddings) in sizes that still run as RTL: every dimension is a
multiple of 32, the block of the block-scaled formats. It needs a text of about a megabyte and about
ten minutes of one core.

The first 90 % of the text train the tokenizer and the model; the last 10 % are never seen and give
the held-out loss. One thread and fixed seeds: the same machine and library versions give the same
file again. The result is a Hugging Face folder: config.json, model.safetensors, tokenizer.json and
tokenizer_config.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

TRAINING_SHARE = 0.9
CONTEXT_TOKENS = 512
SHORT_TOKENS = 128
END_OF_TEXT = "<|endoftext|>"

CONFIG = LlamaConfig(
    vocab_size=512,
    hidden_size=96,
    intermediate_size=192,
    num_hidden_layers=3,
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=32,
    max_position_embeddings=CONTEXT_TOKENS,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    initializer_range=0.05,  # half of 1/sqrt(hidden): the usual 0.02 is made for wider models
    tie_word_embeddings=True,
    bos_token_id=0,
    eos_token_id=0,
)


def train_tokenizer(text: str, vocab_tokens: int) -> Tokenizer:
    """Byte-level BPE over printable ASCII; any other character becomes `END_OF_TEXT`, id 0."""
    tokenizer = Tokenizer(models.BPE(unk_token=END_OF_TEXT))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # The byte-level alphabet writes tab, newline and space as U+0109, U+010A and U+0120.
    alphabet = [chr(code) for code in range(0x21, 0x7F)] + ["\u0109", "\u010a", "\u0120"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_tokens,
        special_tokens=[AddedToken(END_OF_TEXT, special=True)],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss in nats of windows `ids` int64 [batch, length]."""
    logits = model(input_ids=ids, use_cache=False).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, ids: torch.Tensor, length: int) -> float:
    """Mean loss in nats a token over all whole windows of `length` in `ids` int64 [tokens]."""
    windows = ids[: len(ids) // length * length].view(-1, length)
    losses = [loss_of(model, batch) * len(batch) for batch in windows.split(8)]
    return float(sum(losses)) / len(windows)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Write the folder. Weights are BF16, rounded to nearest even; the tied head is stored once."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": CONFIG.vocab_size,
        "hidden_size": CONFIG.hidden_size,
        "intermediate_size": CONFIG.intermediate_size,
        "num_hidden_layers": CONFIG.num_hidden_layers,
        "num_attention_heads": CONFIG.num_attention_heads,
        "num_key_value_heads": CONFIG.num_key_value_heads,
        "head_dim": CONFIG.head_dim,
        "max_position_embeddings": CONFIG.max_position_embeddings,
        "hidden_act": "silu",
        "rms_norm_eps": CONFIG.rms_norm_eps,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT_TOKENS,
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n")
    tokenizer.save(str(out / "tokenizer.json"))


def train(
    ids: torch.Tensor,
    *,
    steps: int,
    tokens_per_step: int,
    learning_rate: float,
    seed: int,
    checkpoint: Callable[[int, int, LlamaForCausalLM, float], None],
) -> LlamaForCausalLM:
    """Train on `ids` int64 [tokens]; every 250 steps call `checkpoint(step, length, model, loss)`.

    The first 70 % of the steps see short windows, which cost half as much a token; the rest see the
    whole context, without which the model fails beyond the short window.
    """
    torch.manual_seed(seed)
    offsets = torch.Generator().manual_seed(seed)
    model = LlamaForCausalLM(CONFIG)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    warmup = max(1, steps // 40)
    smooth = math.log(CONFIG.vocab_size)
    for step in range(steps):
        progress = max(0.0, (step - warmup) / max(1, steps - warmup))
        rate = learning_rate * min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        length = SHORT_TOKENS if step < 0.7 * steps else CONTEXT_TOKENS
        starts = torch.randint(len(ids) - length, (tokens_per_step // length,), generator=offsets)
        loss = loss_of(model, ids[starts[:, None] + torch.arange(length)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        smooth += 0.02 * (loss.item() - smooth)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            checkpoint(step + 1, length, model, smooth)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", type=Path, help="training text, UTF-8, about a megabyte")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=3800)
    parser.add_argument("--tokens-per-step", type=int, default=4096)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    text = options.text.read_text(encoding="utf-8")
    cut = int(len(text) * TRAINING_SHARE)
    tokenizer = train_tokenizer(text[:cut], CONFIG.vocab_size)
    ids = torch.tensor(tokenizer.encode(text[:cut]).ids)
    held_out = torch.tensor(tokenizer.encode(text[cut:]).ids)
    if len(held_out) < CONTEXT_TOKENS:
        parser.error(
            f"{options.text} is too short: its last tenth has {len(held_out)} tokens, "
            f"the held-out loss needs {CONTEXT_TOKENS}; give 11,000 characters or more"
        )
    chars_per_token = (len(text) - cut) / len(held_out)
    print(
        f"{len(ids):,} training tokens, {len(held_out):,} held out, "
        f"{chars_per_token:.2f} characters each"
    )

    start_s = time.process_time()

    def checkpoint(step: int, length: int, model: LlamaForCausalLM, loss: float) -> None:
        save(model, tokenizer, options.out)
        spent_s = time.process_time() - start_s
        unseen = held_out_loss(model, held_out, length)
        print(
            f"step {step:5d}  {spent_s:4.0f} s  loss {loss:.4f}  held-out {unseen:.4f}", flush=True
        )

    train(
        ids,
        steps=options.steps,
        tokens_per_step=options.tokens_per_step,
        learning_rate=options.learning_rate,
        seed=options.seed,
        checkpoint=checkpoint,
    )
    stored = LlamaForCausalLM.from_pretrained(options.out, dtype=torch.float32).eval()
    loss = held_out_loss(stored, held_out, CONTEXT_TOKENS)
    print(
        f"{sum(p.numel() for p in stored.parameters()):,} parameters; held-out loss of the stored "
        f"weights {loss:.4f} nats a token (perplexity {math.exp(loss):.2f}), "
        f"{loss / chars_per_token:.4f} nats a character"
    )


if __name__ == "__main__":
    main()
