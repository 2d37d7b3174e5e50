"""Small GGUF files, written with the gguf package."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

TOKENS = ["<s>", "</s>", "<|im_end|>", "a", "b", "c", "\u0120", "ab", "abc", "\u0120a"]
MERGES = ["a b", "ab c", "\u0120 a"]


def write_small(path: Path, *, architecture: str = "llama", quantised: bool = True) -> Path:
    """A one-layer Llama of 64 features with a tokenizer of ten tokens, Q8_0 or F32 matrices."""
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1, 1, 1, 1])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {
        "attn_q": (64, 64),
        "attn_k": (32, 64),
        "attn_v": (32, 64),
        "attn_output": (64, 64),
        "ffn_gate": (32, 64),
        "ffn_up": (32, 64),
        "ffn_down": (64, 32),
    }
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    for name, shape in {"token_embd": (10, 64)}.items() | {
        (f"blk.0.{part}", size) for part, size in shapes.items()
    }:
        values = rng.standard_normal(shape).astype(np.float32)
        if quantised:
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, q8_0), raw_dtype=q8_0)
        else:
            writer.add_tensor(f"{name}.weight", values)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", rng.standard_normal(64).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
