"""Between two steps of the cadence large tensors have bounds alone: events are the same."""

import math
from itertools import product
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gradlab
from gradlab.probes import GradientNorms, Headroom
from gradlab.probes.attach import Probes

EVENT = 3
ROWS, WIDTH = 512, 64  # as many entries as a bound needs


class Spoils(nn.Module):
    """Passes on what it is given, and at one step an entry, or the gradient's, is another."""

    def __init__(self) -> None:
        super().__init__()
        self.value = self.gradient = 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        if self.value:
            x = torch.cat([x[:-1], x[-1:] * 0 + self.value])
        if self.gradient:
            x.register_hook(lambda g: torch.cat([g[:5], g[5:] * 0 + self.gradient]))
        return x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = (
            nn.Linear(8, WIDTH),
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 8),
        )
        self.first, self.second = Spoils(), Spoils()
        self.wide = nn.Linear(8, WIDTH)

    def forward(self, x: Tensor, half: bool) -> Tensor:
        y = self.first(self.fc1(x))
        with torch.autocast("cpu", torch.float16, enabled=half):
            y = self.fc2(self.second(self.norm(y)))
            return self.wide(y)


def record(every: int, half_from: int, spoiled: str, way: str, value: float, steps: int) -> Probes:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    probes = [GradientNorms(), Headroom(count=1)]
    with (
        gradlab.emulated_fp16(),
        gradlab.attach(model, optimizer, probes=probes, every=every) as recorded,
    ):
        for step in range(steps):
            for spoils in (model.first, model.second):
                spoils.value = spoils.gradient = 0.0
            if step == EVENT:
                setattr(getattr(model, spoiled), way, value)
            optimizer.zero_grad()
            model(torch.randn(ROWS, 8), half=step >= half_from).float().square().mean().backward()
            optimizer.step()
    return recorded


def told(probes: Probes) -> dict[str, Any]:
    return {name: probes.table(name).to_dict("list") for name in ("overflows", "faults")}


CASES = list(
    product(
        (EVENT, 99),  # FP16 from then on, or never
        ("first", "second"),
        ("value", "gradient"),
        (math.inf, -math.inf, math.nan, 1e6, 3e38),
    )
)


def is_long(case: tuple[object, ...]) -> bool:
    """Half of them: any two settings meet in the others, too."""
    half_from, spoiled, way, value = case
    places = (half_from == EVENT, spoiled == "first", way == "value", value in (math.inf, 1e6))
    return sum(places) % 2 == 1


@pytest.mark.parametrize(
    ("half_from", "spoiled", "way", "value"),
    [pytest.param(*case, marks=pytest.mark.long if is_long(case) else []) for case in CASES],
)
def test_events_are_those_of_every_step_looked_at(
    half_from: int, spoiled: str, way: str, value: float
) -> None:
    case = (half_from, spoiled, way, value, EVENT + 1)
    found, whole = record(100, *case), record(1, *case)
    assert repr(told(found)) == repr(told(whole))
    rows, every = found.table("headroom"), whole.table("headroom")
    key = ["step", "site", "direction"]
    measured = ["max_abs", "headroom_bits", "nonfinite"]
    both = rows.merge(every, on=key, how="left", suffixes=("", "_whole"))
    assert len(both) == len(rows)
    lost = both["nonfinite"] != 0
    for name in measured[:2]:  # over the finite entries, off cadence counted where there are others
        pd.testing.assert_series_equal(
            both.loc[~lost, name], both.loc[~lost, f"{name}_whole"], check_names=False
        )
    assert both["nonfinite"].equals(both["nonfinite_whole"])
    if found.table("overflows").size or found.table("faults").size:
        missing = every[every["step"] == EVENT].merge(rows, on=key, how="left", indicator=True)
        left_out = missing[missing["_merge"] == "left_only"]
        assert not left_out["nonfinite_x"].any()
        assert (left_out["max_abs_x"] < 65520).all()


def test_once_fp16_was_there_the_steps_before_an_overflow_are_whole() -> None:
    rows = record(100, 1, "first", "value", math.inf, EVENT + 1).table("headroom")
    sites = rows.groupby("step")["site"].agg(lambda names: len(set(names)))
    assert set(rows["step"]) == set(range(EVENT + 1))
    assert sites[EVENT - 1] == sites[EVENT]


def test_a_step_without_events_has_bounds_alone_and_no_rows() -> None:
    rows = record(2, 99, "first", "value", 1.0, 5).table("headroom")
    assert set(rows["step"]) == {0, 2, 4}


def test_at_an_event_what_has_a_bound_alone_has_no_row() -> None:
    rows = record(100, 99, "second", "value", math.inf, EVENT + 1).table("headroom")
    rows = rows[(rows["step"] == EVENT) & (rows["direction"] == "forward")]
    assert set(rows["site"]) == {"second", "fc2", "wide"}
