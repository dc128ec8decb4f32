"""Whatever the cadence, a step with an event has its rows, and no other step has more."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gradlab
from gradlab.analyses.findings import findings
from gradlab.errors import GradlabError
from gradlab.probes import (
    AttentionScores,
    GradientNorms,
    Headroom,
    LearnedScales,
    OptimizerHealth,
    Probe,
    Reading,
    StateHealth,
)

EVENT = 13
CASES = ["overflow", "skipped", "gradient", "activation", "loss", "buffer", "update", "weight"]


class Norm(nn.BatchNorm1d):
    """Also one of LearnedScales'."""


class Hands(torch.autograd.Function):
    """Hands on what it is given, and another gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def record(case: str, steps: int = 25, **options: Any) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Norm(4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, enabled=case in ("overflow", "skipped"))
    every = options.pop("every", 10)
    all_of = [
        GradientNorms(),
        LearnedScales(every=every),
        OptimizerHealth(),
        StateHealth(),
        Headroom(),
    ]
    options = {"probes": all_of, "scaler": scaler} | options
    with (
        gradlab.emulated_fp16(),
        gradlab.attach(model, optimizer, every=every, **options) as probes,
    ):
        for step in range(steps):
            now = step == EVENT
            optimizer.zero_grad()
            x = torch.randn(8, 4)
            with torch.autocast("cpu", torch.float16, enabled=case == "overflow"):
                y = model[0](x * 3e5 if now and case == "overflow" else x)
                if now and case == "activation":
                    y = model[2](model[1](y) * math.inf).nan_to_num(0, 0, 0)
                else:
                    y = model[2](model[1](y))
                y = Hands.apply(y, math.inf if now and case in ("gradient", "skipped") else 1.0)
                loss = model[3](y).float().square().mean()
            probes.loss(loss * math.nan if now and case == "loss" else loss)
            scaler.scale(loss).backward()
            if now and case == "buffer":
                model[1].running_mean[0] = math.nan
            if now and case == "weight":
                with torch.no_grad():
                    model[0].weight[0, 0] = math.nan
            if now and case == "update":
                optimizer.param_groups[0]["lr"] = math.nan
            scaler.step(optimizer)
            scaler.update()
    return probes


@pytest.mark.parametrize("window", [1, 50])
@pytest.mark.parametrize("case", CASES)
def test_a_step_with_an_event_has_its_rows(case: str, window: int) -> None:
    probes = record(case, steps=EVENT + 1, window=window)
    for table in ("grad_norms", "scales", "optimizer", "headroom"):
        steps = set(probes.table(table)["step"])
        assert {0, 10, EVENT} <= steps, table
        led_up = set(range(EVENT)) if table == "headroom" else set()
        assert steps - {0, 10, EVENT} <= led_up


@pytest.mark.parametrize("case", CASES)
def test_the_rows_are_those_of_every_step_recorded(case: str) -> None:
    found, whole = (record(case, every=every) for every in (10, 1))
    for table in ("grad_norms", "scales", "optimizer"):
        rows, expected = found.table(table), whole.table(table)
        kept = expected[expected["step"].isin(set(rows["step"]))].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, kept)
    pd.testing.assert_frame_equal(found.table("overflows"), whole.table("overflows"))
    held = [p.table("faults").query("kind in ('inf', 'nan', 'both')") for p in (found, whole)]
    pd.testing.assert_frame_equal(*(h.reset_index(drop=True) for h in held))
    steps = [p.table("steps").drop(columns="seconds") for p in (found, whole)]
    pd.testing.assert_frame_equal(*steps)


def test_without_an_event_rows_are_at_the_cadence_alone() -> None:
    for every, steps in ((10, {0, 10, 20}), (lambda step: step in (3, 4), {3, 4})):
        probes = record("none", every=every)
        for table in ("grad_norms", "scales", "optimizer", "headroom"):
            assert set(probes.table(table)["step"]) == steps


def test_sampled_events_are_those_of_the_cadence_and_the_run_says_so() -> None:
    probes = record("overflow", events="sampled")
    assert probes.table("overflows").empty
    assert set(probes.table("grad_norms")["step"]) == {0, 10, 20}
    assert probes.table("steps")["grad_norm"].notna().tolist() == [s % 10 == 0 for s in range(25)]
    assert probes.run().info["events"] == "sampled"
    assert record("none").run().info["events"] == "exact"
    with pytest.raises(GradlabError, match=r"unknown events 'all'.* Known: exact, .*sampled"):
        record("none", events="all")


class Counts(Probe):
    """As a user writes it: called on its cadence."""

    table = "counts"
    columns: ClassVar = {"calls": int}

    def __init__(self, every: int) -> None:
        self.every = every
        self.calls: list[int] = []

    def begin(self, step: int) -> None:
        assert self.active
        self.calls.append(step)

    def after_step(self) -> Reading:
        return Reading({"calls": [len(self.calls)]}, {})


class ExactCounts(Counts):
    table = "exact_counts"
    exact = True


def test_a_probe_of_ones_own_is_called_on_its_cadence_unless_it_wants_events() -> None:
    plain, exact = Counts(4), ExactCounts(4)
    probes = record("skipped", probes=[plain, exact])
    assert plain.calls == [0, 4, 8, 12, 16, 20, 24]
    assert exact.calls == list(range(26))[:25] + ([25] if 25 in exact.calls else [])
    assert probes.table("counts")["step"].tolist() == plain.calls
    assert probes.table("exact_counts")["step"].tolist() == [0, 4, 8, 12, EVENT, 16, 20, 24]


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)


def test_scores_of_the_step_are_there() -> None:
    model = nn.Sequential(Attends(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradlab.attach(model, optimizer, probes=[AttentionScores()], every=10) as probes:
        for step in range(15):
            optimizer.zero_grad()
            probes.loss(math.nan if step == 7 else 1.0)
            model(torch.randn(2, 1, 3, 4)).sum().backward()
            optimizer.step()
    assert set(probes.table("scores")["step"]) == {0, 7, 10}


@pytest.mark.parametrize(
    "chosen", [[Headroom], [OptimizerHealth], [LearnedScales], [GradientNorms]]
)
def test_the_total_norm_is_that_of_all_gradients(chosen: list[Callable[[], Probe]]) -> None:
    """Unscaled, before clipping, whatever is recorded; infinite where an entry is not finite."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    truth = []
    probes = [each() for each in chosen]
    with gradlab.attach(model, optimizer, scaler=scaler, probes=probes, every=3) as attached:
        for step in range(5):
            optimizer.zero_grad()
            for _ in range(2):
                scale = math.inf if step == 3 else 1.0
                scaler.scale(model(torch.randn(2, 4)).square().mean() * scale).backward()
            scaler.unscale_(optimizer)
            flat = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
            truth.append(torch.cat(flat).norm().item())
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            scaler.step(optimizer)
            scaler.update()
    found = attached.table("steps")["grad_norm"].tolist()
    assert found[3] == math.inf
    assert found[:3] + found[4:] == pytest.approx(truth[:3] + truth[4:], rel=1e-6)


def test_inspect_says_what_was_not_looked_at() -> None:
    told = [
        [finding.what for finding in findings(record("none", events=events).run())]
        for events in ("sampled", "exact")
    ]
    assert ["not looked at" in heads for heads in told] == [True, False]
