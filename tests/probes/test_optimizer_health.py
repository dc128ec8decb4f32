"""OptimizerHealth under optimizers that keep their state in other ways than torch's."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import gradlab
from gradlab.probes import OptimizerHealth


class CountsElsewhere(torch.optim.Optimizer):
    """Adam's second moment, with the number of steps in the group, or nowhere."""

    def __init__(self, parameters: Any, **counted: int) -> None:
        super().__init__(parameters, {"lr": 0.1, "betas": (0.9, 0.5), "eps": 1.0, **counted})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            if "step" in group:
                group["step"] += 1
            for parameter in group["params"]:
                self.state[parameter]["exp_avg_sq"] = torch.tensor([[0.4, 0.6]])


def eps_frac(model: nn.Module, optimizer: torch.optim.Optimizer, gradient: float) -> float:
    with gradlab.attach(model, optimizer, probes=[OptimizerHealth()]) as attached:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
    (found,) = attached.table("optimizer")["eps_frac"]
    return float(found)


@pytest.mark.parametrize(("counted", "expected"), [({"step": 0}, 0.5), ({}, math.nan)])
def test_steps_that_the_state_does_not_count(counted: dict[str, int], expected: float) -> None:
    model = nn.Linear(2, 1, bias=False)
    optimizer = CountsElsewhere(model.parameters(), **counted)
    assert eps_frac(model, optimizer, 1.0) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("gradient", "expected"), [(1e-6, 1.0), (1.0, 0.0)])
def test_a_state_in_fp16_whose_numbers_epsilon_squared_is_none_of(
    gradient: float, expected: float
) -> None:
    model = nn.Linear(2, 1, bias=False).half()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)
    assert eps_frac(model, optimizer, gradient) == expected
