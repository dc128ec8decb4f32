"""Loops that fill in `.grad` by themselves: their rows are those of a loop that calls backward."""

from collections.abc import Mapping

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

import gradlab


def trained(
    *, fills: bool, scaled: bool = False, unscales: bool = False, clears: str = "none"
) -> Mapping[str, pd.DataFrame]:
    """Three steps of a small model, its gradients from autograd.grad or from backward."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = GradScaler("cpu", init_scale=64.0) if scaled else None
    with gradlab.attach(model, optimizer, scaler=scaler) as probes:
        for _ in range(3):
            if clears == "zeros":
                optimizer.zero_grad(set_to_none=False)
            elif clears == "none" or not fills:
                optimizer.zero_grad()
            loss = model(torch.randn(5, 3)).square().mean()
            loss = loss if scaler is None else scaler.scale(loss)
            fill(model, loss) if fills else loss.backward()
            if scaler is None:
                optimizer.step()
                continue
            if unscales:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    return {name: probes.table(name) for name in ("grad_norms", "steps")}


def fill(model: nn.Module, loss: Tensor) -> None:
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


@pytest.mark.parametrize("clears", ["none", "zeros", "never"])
@pytest.mark.parametrize(("scaled", "unscales"), [(False, False), (True, False), (True, True)])
def test_they_have_the_rows_of_a_plain_loop(scaled: bool, unscales: bool, clears: str) -> None:
    plain = trained(fills=False, scaled=scaled, unscales=unscales)
    filled = trained(fills=True, scaled=scaled, unscales=unscales, clears=clears)
    order = ["step", "param"]
    tables = [t["grad_norms"].sort_values(order, ignore_index=True) for t in (plain, filled)]
    assert len(tables[1]) == 12
    pd.testing.assert_frame_equal(*tables)
    pd.testing.assert_series_equal(plain["steps"]["grad_norm"], filled["steps"]["grad_norm"])


def test_one_that_is_not_finite_is_found_off_the_cadence() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer, every=10) as probes:
        for step in range(4):
            optimizer.zero_grad()
            loss = model(torch.randn(5, 3)).sum()
            fill(model, loss)
            if step == 3 and model.bias.grad is not None:
                model.bias.grad.fill_(torch.inf)
            optimizer.step()
    rows = probes.table("grad_norms")
    assert rows.loc[rows["nonfinite"] > 0, ["step", "param"]].to_numpy().tolist() == [[3, "bias"]]


def test_a_closure_has_its_last_pass_recorded_not_what_was_there_before() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=1)
    norms = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(torch.ones(2, 3)).square().mean()
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        return loss

    with gradlab.attach(model, optimizer) as probes:
        for _ in range(3):
            optimizer.step(closure)
    assert len(probes.table("grad_norms")) == 6
    found = probes.table("steps")["grad_norm"].tolist()
    assert found == pytest.approx(norms[-len(found) :], rel=1e-5)
