import math
from collections.abc import Callable
from contextlib import closing

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from gradlab.config import Events, RecordConfig, RunConfig, ScheduleConfig, StabilityConfig
from gradlab.forecast import Forecast
from gradlab.probes.engine.follower import LoopFollower
from gradlab.probes.engine.recorder import Recorder
from gradlab.probes.gradient_norms import GradientNorms
from gradlab.probes.headroom.probe import Headroom
from gradlab.probes.probe import Probe
from gradlab.probes.subject import subject_of
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run
from gradlab.runs.verdict import NOT_LOOKED_AT
from gradlab.training.judged_run import JudgedRun
from gradlab.training.stability import StabilityMonitor

Make = Callable[..., RunConfig]

# (loss, gradient norm, loss scale, next loss scale): two skips, recovery, then a break at 6.
STEPS = [
    (5.0, 1.0, 8.0, 8.0),
    (math.nan, math.nan, 8.0, 4.0),
    (4.0, math.inf, 4.0, 2.0),
    (3.0, 0.5, 2.0, 2.0),
    (2.5, 0.4, 2.0, 4.0),
    (2.0, 0.3, 4.0, 4.0),
    (2.0, math.nan, 4.0, 2.0),
    (math.nan, math.nan, 2.0, 1.0),
    (math.nan, math.nan, 1.0, 0.5),
    (2.0, 0.3, 0.5, 0.5),
]


class Probed(nn.Module):
    """A weight whose gradient is what it is given, beside an FP16 site of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1, bias=False)
        self.rounded = Rounded()

    def forward(self, x: Tensor, peak: float) -> Tensor:
        self.rounded(torch.tensor([peak]))
        return self.linear(x).sum()


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.half()


def record(config: RunConfig, look_every: int, *probes: Probe) -> tuple[Run, JudgedRun, bool]:
    """A loop whose steps are `STEPS`."""
    model = Probed()
    optimizer = torch.optim.SGD(model.parameters())
    scaler = GradScaler("cpu", init_scale=8.0, growth_interval=2)
    follower = LoopFollower(
        subject_of(model, (optimizer,)),
        probes,
        every=config.record.every,
        events=config.record.events,
        scaler=scaler,
    )
    writer = MemoryWriter(config)
    monitor = StabilityMonitor(StabilityConfig(patience=3), unigram_entropy=3.0)
    judged = JudgedRun(config, follower, Recorder(writer.write), monitor)
    broke = False
    with closing(follower):
        for step, (loss, norm, scale, next_scale) in enumerate(STEPS):
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = config.lr(step)
            assert scaler.get_scale() == scale
            scaler.scale(model(torch.tensor([norm]), peak=1e6 if step == 9 else 1.0)).backward()
            follower.note_loss(loss)
            follower.note_grad_norm(torch.tensor(norm))
            scaler.step(optimizer)
            scaler.update()
            assert scaler.get_scale() == next_scale
            if step == 4:
                judged.note_validation(torch.tensor(1.25))
            if (step + 1) % look_every == 0 or step + 1 == len(STEPS):
                broke = judged.look()
                judged.recorder.flush()
                if broke and config.stop_when_destabilised:
                    break
    judged.end(broke=broke)
    return writer.run(), judged, broke


@pytest.fixture
def config(make_config: Make) -> RunConfig:
    return make_config(schedule=ScheduleConfig(kind="ramp", lr_step=0.5), steps=len(STEPS))


@pytest.mark.parametrize("look_every", [1, 2, 3, 7, 100])
def test_the_window_changes_nothing(config: RunConfig, look_every: int) -> None:
    run, judged, broke = record(config, look_every)
    reference, expected, _ = record(config, 1)
    assert broke
    assert judged.verdict("completed") == expected.verdict("completed")
    pd.testing.assert_frame_equal(
        run.table("steps").drop(columns="seconds"),
        reference.table("steps").drop(columns="seconds"),
    )


def test_the_rows_end_where_the_rule_fired(config: RunConfig) -> None:
    run, judged, _ = record(config, 100)
    verdict = judged.verdict("completed")
    steps = run.table("steps")
    assert (verdict.reason, verdict.step, verdict.detected_step) == ("grad_nonfinite", 6, 8)
    assert verdict.lr == 3.0
    assert steps["step"].tolist() == list(range(9))


@pytest.mark.parametrize("look_every", [1, 4, 100])
def test_what_follows_the_break_takes_nothing_along(config: RunConfig, look_every: int) -> None:
    """An overflow in a step that was in flight is dropped, and not the headroom before it."""
    headroom = Headroom("rounded")
    run, judged, _ = record(config, look_every, headroom)
    assert run.table("headroom")["step"].unique().tolist() == list(range(9))
    assert run.table("overflows").empty
    progress = judged.progress()
    assert progress is not None
    assert (progress.step, progress.least_headroom) == (8, math.log2(65504))
    assert progress.tightest_site == "rounded"


@pytest.mark.parametrize("look_every", [1, 4, 100])
def test_a_run_that_keeps_going_has_every_step_and_the_same_verdict(
    config: RunConfig, look_every: int
) -> None:
    going = config.replace(stop_when_destabilised=False)
    run, judged, broke = record(going, look_every)
    _, stopped, _ = record(config, 1)
    assert broke
    assert run.table("steps")["step"].tolist() == list(range(len(STEPS)))
    assert judged.verdict("completed").step == stopped.verdict("completed").step


def test_columns_of_steps(config: RunConfig) -> None:
    run, _, _ = record(config, 4)
    steps = run.table("steps")
    assert steps["skipped"].tolist() == [s[3] < s[2] for s in STEPS[:9]]
    assert steps["update"].tolist() == [1, 1, 1, 2, 3, 4, 4, 4, 4]
    assert steps["loss_scale"].tolist() == [s[2] for s in STEPS[:9]]
    assert steps["lr"].tolist() == [0.5 * step for step in range(9)]
    assert steps["tokens"].tolist() == [64 * (step + 1) for step in range(9)]
    assert steps["val_loss"].dropna().to_dict() == {4: 1.25}
    assert steps["seconds"].is_monotonic_increasing


def test_the_overflow_that_is_foreseen_is_news(config: RunConfig) -> None:
    _, judged, _ = record(config, 4)
    news = judged.progress()
    assert news is not None
    assert news.overflow_step is None
    judged.recorder.forecast = Forecast("rounded", 40)
    news = judged.progress()
    assert news is not None
    assert (news.overflow_site, news.overflow_step) == ("rounded", 40)


@pytest.mark.parametrize("look_every", [1, 100])
def test_an_overflow_that_nobody_looked_at_is_not_said_to_be_none(
    config: RunConfig, look_every: int
) -> None:
    for every, said in ((4, NOT_LOOKED_AT), (3, None)):  # the break is at step 6
        sampled = config.replace(record=RecordConfig(every=every, events="sampled"))
        run, judged, _ = record(sampled, look_every, Headroom("rounded"))
        assert judged.verdict("completed").first_overflow == said
        looked = run.table("headroom")["step"].unique().tolist()
        assert looked == [step for step in range(9) if step % every == 0]
    seen: tuple[Events, ...] = ("exact", "skipped")
    for events in seen:
        whole = config.replace(record=RecordConfig(every=4, events=events))
        _, judged, _ = record(whole, look_every, Headroom("rounded"))
        assert judged.verdict("completed").first_overflow is None
        _, judged, _ = record(whole, look_every, GradientNorms())
        assert judged.verdict("completed").first_overflow == NOT_LOOKED_AT


@pytest.mark.parametrize(
    ("events", "step", "said"),
    [("exact", 3, None), ("skipped", 3, NOT_LOOKED_AT), ("skipped", 4, None)],
)
def test_a_rising_loss_without_a_skipped_step_is_looked_at_when_it_is_due(
    config: RunConfig, events: Events, step: int, said: str | None
) -> None:
    """An infinity that reaches no gradient, as a mask of softmax's, skips no step."""
    sampled = config.replace(record=RecordConfig(every=4, events=events))
    _, judged, _ = record(sampled, 100, Headroom("rounded"))
    state = judged.state()
    state["monitor"]["_broke"] = ["loss_rise", step, 0.1, step]
    judged.restore(state)
    assert judged.verdict("completed").first_overflow == said


@pytest.mark.parametrize(("skipped", "said"), [(True, None), (False, "blocks.0.q")])
def test_a_rising_loss_has_an_overflow_only_at_a_step_that_was_taken(
    config: RunConfig, skipped: bool, said: str | None
) -> None:
    _, judged, _ = record(config, 100)
    state = judged.state()
    state["monitor"]["_broke"] = ["loss_rise", 3, 0.1, 3]
    state["producers"] = [[3, "blocks.0.q", skipped]]
    judged.restore(state)
    assert judged.verdict("completed").first_overflow == said
