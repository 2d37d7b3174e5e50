"""A transformers BERT as torch.onnx writes it, against PyTorch itself."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from mellivora.frontends.onnx import load_onnx
from mellivora.graph import interpret

NAMES = ["ids", "mask", "types"]


class Encoder(torch.nn.Module):
    """Hidden states and pooled output of a two-layer BERT with random weights."""

    def __init__(self, attention: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=101,
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            max_position_embeddings=64,
            attn_implementation=attention,
        )
        self.bert = BertModel(config)

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.bert(input_ids=ids, attention_mask=mask, token_type_ids=types)
        return y[0], y[1]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_bert(attention: str, dynamic: bool) -> None:
    model = Encoder(attention).eval()
    ids = torch.randint(0, 101, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 5:] = 0
    types = (torch.arange(18).reshape(2, 9) // 4) % 2
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of itself and of traced branches
        torch.onnx.export(
            model,
            (ids, mask, types),
            file,
            dynamo=False,
            opset_version=17,
            input_names=NAMES,
            output_names=["hidden", "pooled"],
            dynamic_axes={name: {0: "batch", 1: "length"} for name in NAMES} if dynamic else None,
        )
    graph = load_onnx(file.getvalue(), dims={"batch": 2, "length": 9} if dynamic else None)
    feed = {"ids": ids.numpy(), "mask": mask.numpy(), "types": types.numpy()}
    got = interpret(graph, feed)
    with torch.no_grad():
        wanted = model(ids, mask, types)
    for name, want in zip(("hidden", "pooled"), wanted, strict=True):
        # As in test_networks.py: 17 layers, 96 terms, FP32 on both sides.
        bound = 4 * 17 * 96**0.5 * 2.0**-24 * want.abs().max().item()
        assert np.abs(got[name] - want.numpy()).max() <= bound
