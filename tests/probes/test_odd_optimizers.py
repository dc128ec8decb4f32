"""Optimizers with groups or parameters that torch's own do not have."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradlab
from gradlab.probes import OptimizerHealth
from gradlab.runs.reader import Run


class Plain(torch.optim.Optimizer):
    """Plain descent, whatever is in its groups; keeps a second moment as Adam does."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, options)

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] |= {"step": 1, "exp_avg_sq": torch.ones_like(parameter)}
                parameter.data -= 0.1 * parameter.grad


def recorded(optimizer: torch.optim.Optimizer, model: nn.Module) -> Run:
    with gradlab.attach(model, optimizer, probes=[OptimizerHealth()]) as probes:
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    return probes.run()


@pytest.mark.parametrize(
    ("options", "lr"),
    [
        ({}, None),
        ({"lr": None}, None),
        ({"lr": "auto"}, None),
        ({"lr": np.float32(0.5)}, 0.5),
        ({"lr": torch.tensor(0.5)}, 0.5),
        ({"lr": 1}, 1.0),
    ],
)
def test_a_learning_rate_of_any_kind(options: dict[str, Any], lr: float | None) -> None:
    model = nn.Linear(2, 1)
    (found,) = recorded(Plain(model.parameters(), **options), model).table("steps")["lr"]
    assert math.isnan(found) if lr is None else found == lr


@pytest.mark.parametrize(
    ("eps", "betas"), [((1e-30, 1e-3), (0.9, 0.99, 0.9)), (None, (0.9, 0.99)), (1e-8, None)]
)
def test_an_epsilon_or_betas_that_are_not_adams(eps: Any, betas: Any) -> None:
    model = nn.Linear(2, 1)
    run = recorded(Plain(model.parameters(), lr=0.1, eps=eps, betas=betas), model)
    assert run.table("optimizer").eps_frac.isna().all()


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1 + 1j, 2 + 1j, 3 + 1j, 1e-9j]))

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight.imag * torch.tensor([1.0, 1.0, 0.0, 0.0])).sum() * x


def test_complex_parameters_count_by_their_parts() -> None:
    model = Complex()
    run = recorded(torch.optim.Adam(model.parameters(), lr=0.1), model)
    assert run.table("optimizer").eps_frac.tolist() == [6 / 8]  # of two imaginary ones v is not 0
    with gradlab.attach(model, torch.optim.Adam(model.parameters())):
        model(torch.ones(1)).sum().backward()
