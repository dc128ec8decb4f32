"""OptimizerHealth under optimizers that keep their state in other ways than torch's."""

import math
from functools import partial
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


@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.Adam, foreach=False),
        partial(torch.optim.Adam, foreach=True),
        partial(torch.optim.Adam, fused=True),
        partial(torch.optim.Adam, amsgrad=True),
        partial(torch.optim.Adam, amsgrad=True, fused=True),
        partial(torch.optim.AdamW, foreach=True, weight_decay=0.0),
        torch.optim.NAdam,
        torch.optim.RAdam,
    ],
)
@pytest.mark.parametrize("steps", [1, 8])
def test_below_epsilon_is_where_it_halves_the_update(make: Any, steps: int) -> None:
    # Each group has an ε of its own; the twin has none to speak of.
    epsilons, sizes = (1e-3, 1e-5), torch.logspace(-7, -1, 19)
    steps = 8 if make is torch.optim.RAdam else steps  # before, it does not divide
    moved = {}
    for twin in (False, True):
        model = nn.ParameterList([torch.zeros(19), torch.zeros(19)])
        groups = [
            {"params": [p], "eps": 1e-30 if twin else eps}
            for p, eps in zip(model, epsilons, strict=True)
        ]
        optimizer = make(groups, lr=1e-2, betas=(0.9, 0.99))
        with gradlab.attach(model, optimizer, probes=[OptimizerHealth()]) as attached:
            for _ in range(steps):
                before = [p.detach().clone() for p in model]
                for p in model:
                    p.grad = sizes.clone()
                optimizer.step()
        moved[twin] = [(p.detach() - b).abs() for p, b in zip(model, before, strict=True)]
        if not twin:
            table = attached.table("optimizer")
            found = table.loc[table["step"] == steps - 1, "eps_frac"].tolist()
    halved = [float((a < b / 2).double().mean()) for a, b in zip(*moved.values(), strict=True)]
    assert found == pytest.approx(halved, abs=1.5 / 19)
    assert 0 < found[1] < found[0] < 1


@pytest.mark.parametrize(("fused", "expected"), [(False, 0.0), (True, 1.0)])
def test_an_epsilon_that_rounds_to_0_has_nothing_below_it(fused: bool, expected: float) -> None:
    model = nn.Linear(2, 1, bias=False).half()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-8, fused=fused)
    assert eps_frac(model, optimizer, 0.0) == expected
