"""`events="skipped"`: a step with a gradient that was not finite is looked at afterwards."""

import copy
import gc
import math
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradlab
from gradlab.config import Events
from gradlab.errors import GradlabWarning
from gradlab.runs.reader import Run
from gradlab.settings import OneRun

NEVER = 10**9
BAD = 2
"""The step whose batch is too large."""


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x))
        return out


class Drawing(Plain):
    """Dropout that decides which entries are not finite, and statistics of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(6), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.dropout(self.norm(8 * self.first(x))))
        return out


class Checkpointed(Plain):
    def forward(self, x: Tensor) -> Tensor:
        hidden: Any = checkpoint(self.first, x, use_reentrant=False)
        out: Tensor = self.second(hidden)
        return out


def train(
    make: Callable[[], nn.Module],
    events: Events | None,
    *,
    every: int = NEVER,
    fp16: bool = True,
    passes: int = 1,
    change: Callable[[Tensor], object] = lambda _: None,
) -> tuple[list[float], dict[str, Tensor], Any]:
    """Five steps: losses, what the model then holds, and the probes, if there were any."""
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=fp16)
    losses = []
    with ExitStack() as stack:
        probes = None
        if events is not None:
            attached = gradlab.attach(
                model, optimizer, scaler=scaler, every=every, events=events, window=2
            )
            probes = stack.enter_context(attached)
        for step in range(5):
            optimizer.zero_grad()
            for part in range(passes):
                x = torch.randn(8, 4)
                if step == BAD and part == passes - 1:
                    x[3] = 3e38 if not fp16 else 6e4
                with gradlab.emulated_fp16(), torch.autocast("cpu", torch.float16, enabled=fp16):
                    loss = model(x).float().square().mean()
                    scaler.scale(loss / passes).backward()
                change(x)
                losses.append(loss.item())
            if not fp16 and step == BAD:  # else the parameters are lost
                for group in optimizer.param_groups:
                    group["lr"] = 0.0
            scaler.step(optimizer)
            scaler.update()
            if not fp16 and step == BAD:
                break
    return losses, copy.deepcopy(model.state_dict()), probes.run() if probes else None


def rows(probes: Run, table: str) -> pd.DataFrame:
    if table not in probes.tables:
        return pd.DataFrame()
    found = probes.table(table)
    found = found[found["step"] == BAD].dropna(axis="columns", how="all")
    keys = [name for name in ("param", "site", "name", "direction", "index") if name in found]
    return found.sort_values(keys).reset_index(drop=True) if keys else found


TABLES = ("headroom", "overflows", "faults", "grad_norms", "scales")


class Remembering(Plain):
    """Keeps statistics of its calls in every way that a module can."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("replaced", torch.zeros(4))
        self.register_buffer("written", torch.zeros(4))
        self.register_buffer("kept", torch.zeros(4))  # all that `state_dict` has of the others
        self.attribute, self.in_place, self.calls = torch.zeros(4), torch.zeros(4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.replaced = 0.5 * self.replaced + 1
        self.written.mul_(0.5).add_(1)
        self.attribute = 0.5 * self.attribute + 1
        self.in_place.mul_(0.5).add_(1)
        self.calls += 1
        self.last = super().forward(x)
        with torch.no_grad():
            self.kept.copy_(self.attribute + self.in_place + self.calls)
        return self.last


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("make", [Plain, Drawing, Checkpointed])
def test_a_skipped_step_has_the_rows_of_one_that_was_looked_at(
    make: Callable[[], nn.Module], passes: int
) -> None:
    _, _, exact = train(make, "exact", every=1, passes=passes)
    _, _, skipped = train(make, "skipped", passes=passes)
    assert set(skipped.table("overflows")["step"]) == {BAD}
    for table in TABLES:
        if not len(rows(exact, table)):
            assert not len(rows(skipped, table)), table
            continue
        wanted, found = rows(exact, table), rows(skipped, table)
        both = [name for name in wanted if name in found and name != "underflow_frac"]
        assert set(wanted) - set(found) <= {"underflow_frac"}, table
        pd.testing.assert_frame_equal(found[both], wanted[both], check_dtype=False)
    assert "function" in rows(skipped, "overflows")


@pytest.mark.parametrize("fp16", [True, False])
@pytest.mark.parametrize("make", [Plain, Drawing, Checkpointed, Remembering])
def test_training_does_not_know(make: Callable[[], nn.Module], fp16: bool) -> None:
    bare = train(make, None, fp16=fp16, passes=2)
    watched = train(make, "skipped", fp16=fp16, passes=2)
    torch.testing.assert_close(watched[0], bare[0], rtol=0.0, atol=0.0, equal_nan=True)
    for name, value in bare[1].items():
        assert torch.equal(watched[1][name].nan_to_num(), value.nan_to_num()), name


def test_without_a_loss_scale_the_gradient_tells() -> None:
    _, _, exact = train(Plain, "exact", every=1, fp16=False)
    _, _, skipped = train(Plain, "skipped", fp16=False)
    pd.testing.assert_frame_equal(rows(skipped, "faults"), rows(exact, "faults"))
    assert len(rows(skipped, "faults"))
    assert set(skipped.table("headroom")["step"]) == {0, BAD}


def test_the_cadence_has_its_rows_as_well() -> None:
    _, _, probes = train(Plain, "skipped", every=3)
    assert set(probes.table("grad_norms")["step"]) == {0, BAD, 3}
    assert probes.table("steps")["skipped"].tolist() == [step == BAD for step in range(5)]


def test_on_the_cadence_nothing_is_made_again() -> None:
    calls = []

    class Counting(Plain):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(1)
            return super().forward(x)

    train(Counting, "skipped", every=1)
    on_cadence = len(calls)
    calls.clear()
    train(Counting, "skipped")
    assert len(calls) == on_cadence + 1  # and once more on a copy in both, for the operation


def test_what_cannot_be_made_again_is_said_and_recorded_as_skipped() -> None:
    with pytest.warns(GradlabWarning, match="step 2 could not be made again"):
        _, _, probes = train(Plain, "skipped", change=lambda x: x.zero_())
    assert probes.table("steps")["skipped"].tolist() == [step == BAD for step in range(5)]
    assert not len(rows(probes, "overflows"))


def test_nothing_of_a_step_outlives_it() -> None:
    kept: list[weakref.ref[Tensor]] = []

    def alive(x: Tensor) -> None:
        kept.append(weakref.ref(x))
        gc.collect()
        assert sum(ref() is not None for ref in kept[:-1]) <= 1

    train(Plain, "skipped", change=alive)


def test_the_built_in_loop_looks_again_too() -> None:
    def run(events: Events) -> Run:
        config = OneRun(
            arch="pre-ln",
            size="nano",
            model={"n_layers": 1, "max_seq_len": 8},
            batch_size=2,
            steps=4,
            precision="fp16",
            initial_loss_scale=2.0**24,
            every=NEVER,
            events=events,
        ).config()
        return gradlab.train(config)

    exact, skipped = run("exact"), run("skipped")
    assert exact.table("steps")["skipped"].any()
    for table in ("overflows", "headroom"):
        columns = [name for name in exact.table(table) if name != "underflow_frac"]
        pd.testing.assert_frame_equal(
            skipped.table(table)[columns], exact.table(table)[columns], check_dtype=False
        )
    losses = [run.table("steps")["loss"].tolist() for run in (exact, skipped)]
    assert losses[0] == losses[1]


def test_inspect_says_what_was_not_looked_at() -> None:
    _, _, probes = train(Plain, "skipped")
    assert 'events="skipped"' in str(gradlab.inspect(probes))


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("ends", ["break", "raise", "after backward"])
@pytest.mark.filterwarnings("error")
def test_a_loop_that_stops_where_its_loss_is_nan_has_that_step(told: bool, ends: str) -> None:
    if ends == "raise" and not told:
        pytest.skip("nothing tells of this end: an error may be anything")

    def record(events: Events) -> Run:
        torch.manual_seed(0)
        model = Plain()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        with (
            suppress(ZeroDivisionError),
            gradlab.attach(model, optimizer, every=NEVER, events=events) as probes,
        ):
            for step in range(5):
                x = torch.randn(8, 4)
                if step == BAD:
                    x[0] = math.nan
                optimizer.zero_grad()
                loss = model(x).square().mean()
                if told:
                    probes.loss(loss)
                if ends == "after backward":
                    loss.backward()
                if not math.isfinite(loss.item()):
                    if ends == "raise":
                        raise ZeroDivisionError
                    break
                if ends != "after backward":
                    loss.backward()
                optimizer.step()
        return probes.run()

    exact, skipped = record("exact"), record("skipped")
    for table in ("steps", "faults", "headroom"):
        keys = [name for name in exact.table(table) if name not in ("seconds", "underflow_frac")]
        wanted, found = (rows(run, table) for run in (exact, skipped))
        keys = [name for name in keys if name in wanted]
        pd.testing.assert_frame_equal(found[keys], wanted[keys], check_dtype=False)
        assert len(found), table


@pytest.mark.filterwarnings("error")
def test_a_lost_loss_that_nothing_looked_at_is_recorded() -> None:
    model = Plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with gradlab.attach(model, optimizer, every=NEVER, events="sampled") as probes:
        for value in (1.0, 1.0, math.nan):
            loss = model(torch.full((2, 4), value)).mean()
            probes.loss(loss)
            if not math.isfinite(loss.item()):
                break
            loss.backward()
            optimizer.step()
    assert probes.run().table("steps")["loss"].isna().tolist() == [False, False, True]
