"""A tiny model whose every parameter matters, and a tiny fairseq checkpoint."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gradlab.models.build import build_model
from gradlab.models.config import ModelConfig
from gradlab.models.transformer import Transformer

MakeModel = Callable[..., Transformer]


@pytest.fixture
def make() -> MakeModel:
    """A float64 model whose norms, scales and biases are away from the 1 and 0 that hide them."""

    def make(dtype: torch.dtype = torch.float64, **fields: Any) -> Transformer:
        shape = {
            "d_model": 8,
            "n_layers": 2,
            "n_heads": 2,
            "d_ff": 12,
            "vocab_size": 11,
            "max_seq_len": 7,
        }
        model = build_model(ModelConfig(**{**shape, **fields}), dtype=torch.float64, seed=0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn(
                    parameter.shape, generator=generator, dtype=torch.float64
                )
        return model.to(dtype)

    return make


@pytest.fixture
def tokens() -> Tensor:
    """(3, 7) token ids below 11."""
    return torch.randint(11, (3, 7), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def checkpoint() -> Callable[..., dict[str, Tensor]]:
    """A builder of fairseq checkpoints: 3 layers of width 8 with 2 heads, d_ff 20, 13 tokens."""
    return _checkpoint


def _checkpoint(
    *,
    normalize_before: bool = True,
    scale_heads: bool = False,
    scale_attn: bool = False,
    scale_fc: bool = False,
    scale_resids: bool = False,
    learned_pos: bool = False,
    layernorm_embedding: bool = False,
) -> dict[str, Tensor]:
    """The `model` entry that fairseq saves for a decoder, with random values."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return 0.4 * torch.randn(shape, generator=generator, dtype=torch.float64)

    state: dict[str, Tensor] = {"decoder.version": torch.tensor([3.0])}

    def linear(name: str, rows: int, columns: int) -> None:
        state[f"{name}.weight"] = random(rows, columns)
        state[f"{name}.bias"] = random(rows)

    def norm(name: str, size: int) -> None:
        state[f"{name}.weight"] = 1 + random(size)
        state[f"{name}.bias"] = random(size)

    state["decoder.embed_tokens.weight"] = random(13, 8)
    state["decoder.embed_tokens.weight"][1] = 0  # padding
    if learned_pos:
        state["decoder.embed_positions.weight"] = random(6 + 2, 8)
    else:
        state["decoder.embed_positions._float_tensor"] = torch.zeros(1)
    if layernorm_embedding:
        norm("decoder.layernorm_embedding", 8)
    for i in range(3):
        at = f"decoder.layers.{i}"
        if scale_heads:
            state[f"{at}.c_attn"] = 1 + random(2)
        if scale_resids:
            state[f"{at}.w_resid"] = 1 + random(8)
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            linear(f"{at}.self_attn.{name}", 8, 8)
        if scale_attn:
            norm(f"{at}.attn_ln", 8)
        norm(f"{at}.self_attn_layer_norm", 8)
        if scale_fc:
            norm(f"{at}.ffn_layernorm", 20)
        linear(f"{at}.fc1", 20, 8)
        linear(f"{at}.fc2", 8, 20)
        norm(f"{at}.final_layer_norm", 8)
    if normalize_before:
        norm("decoder.layer_norm", 8)
    state["decoder.output_projection.weight"] = state["decoder.embed_tokens.weight"]
    return state
