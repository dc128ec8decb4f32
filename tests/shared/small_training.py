"""A small model, its loop, and what probes could leave behind on it."""

from typing import Any

import torch
from torch import nn

from gradlab.probes import GradientNorms, Headroom, LearnedScales, OptimizerHealth


def make() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(3, 4)).square().sum().backward()
        optimizer.step()


def hooks_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """Everything that could be left behind."""
    found: list[Any] = []
    for module in model.modules():
        found += module._forward_hooks.values()
        found += module._forward_pre_hooks.values()
        found += module._backward_hooks.values()
    for parameter in model.parameters():
        found += (parameter._backward_hooks or {}).values()
        found += (parameter._post_accumulate_grad_hooks or {}).values()
    found += optimizer._optimizer_step_pre_hooks.values()
    found += optimizer._optimizer_step_post_hooks.values()
    return found


ALL = (GradientNorms, LearnedScales, Headroom, OptimizerHealth)
