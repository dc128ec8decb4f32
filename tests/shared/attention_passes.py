"""Models and passes for the tests of attention scores."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import gradlab
from gradlab.models.build import build_model
from gradlab.models.presets import model_config
from gradlab.models.transformer import Transformer
from gradlab.probes import AttentionScores, Probe


def model_of(attention: str) -> Transformer:
    shape = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32, "max_seq_len": 8}
    return build_model(model_config("pre-ln", "nano", **shape, attention=attention), seed=0)


def tokens(seed: int = 0, vocab: int = 256) -> Tensor:
    return torch.randint(vocab, (3, 8), generator=torch.Generator().manual_seed(seed))


def activations(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Around(nn.Module):
    """A model of one part."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def record(
    model: nn.Module, *passes: Callable[[], Any], probe: Probe | None = None
) -> pd.DataFrame:
    """The probe's table after one step, of these passes."""
    probe = AttentionScores() if probe is None else probe
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradlab.attach(model, optimizer, probes=[probe]) as probes:
        for one in passes:
            one().float().square().mean().backward()
        optimizer.step()
    assert torch._C._len_torch_function_stack() == 0
    assert hooks_of(model) == 0
    return probes.table(probe.table)


def hooks_of(model: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._forward_hooks_always_called)
        for m in model.modules()
    )
