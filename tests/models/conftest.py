"""A tiny model whose every parameter matters, for the tests of the model's parts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gradlab.config import ModelConfig
from gradlab.models.build import build_model
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
