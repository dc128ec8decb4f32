"""A loop may step inside its autocast region, with weights of another type than the region's."""

import pandas as pd
import pytest
import torch
from devices import DEVICES
from torch import nn

import gradlab
from gradlab.probes import GradientNorms, Headroom, LearnedScales, OptimizerHealth
from gradlab.probes.headroom.extremes import Extremes
from gradlab.probes.state_health import StateHealth
from gradlab.probes.statistics import details

TYPES = [(torch.bfloat16, torch.float16), (torch.float16, torch.bfloat16)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("weights", "region"), TYPES)
def test_all_of_a_step_inside_the_region(
    device: str, weights: torch.dtype, region: torch.dtype
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].register_buffer("offset", torch.zeros(3))
    model.to(device, weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    chosen = [GradientNorms(), LearnedScales("*"), Headroom(count=1), StateHealth()]
    largest = []
    with gradlab.attach(model, optimizer, probes=[*chosen, OptimizerHealth()]) as probes:
        for step in range(3):
            with torch.autocast(device, region):
                optimizer.zero_grad()
                x = torch.full((3, 4), float("inf") if step == 2 else 1.0, device=device)
                model(x).float().sum().backward()
                grads = [p.grad for p in model.parameters()]
                largest += [g[g.isfinite()].double().abs().sum().item() for g in grads]
                optimizer.step()
    norms = probes.table("grad_norms")
    assert norms["grad_l1"].tolist() == pytest.approx(largest, rel=1e-6)
    headroom = probes.table("headroom")
    types = {str(dtype).removeprefix("torch.") for dtype in (weights, region)}
    assert set(headroom["dtype"]) <= types
    assert headroom["underflow_frac"].notna().all()
    assert probes.table("scales")["value"].notna().all()
    events = pd.concat([probes.table("overflows"), probes.table("faults")])
    assert set(events["step"]) == {2}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "region"), TYPES)
def test_looks_inside_the_region(device: str, dtype: torch.dtype, region: torch.dtype) -> None:
    taken = Extremes()
    with torch.autocast(device, region):
        for number in range(300):  # more than a new buffer holds
            taken.take(torch.tensor([-1.0, number], dtype=dtype, device=device))
        counts = details(torch.tensor([1.0, -float("inf"), 0.0], dtype=dtype, device=device))
    low, high, rows = taken.together()
    as_read = torch.arange(300).to(dtype).tolist()
    assert [[float(low[row]), float(high[row])] for row in rows] == [
        [-1.0, number] for number in as_read
    ]
    assert counts.tolist() == [1, 1, 0, 2, 2]
