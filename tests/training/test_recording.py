import math
from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import nn

from gradlab.config import RunConfig, ScheduleConfig, StabilityConfig
from gradlab.probes.engine.session import Session
from gradlab.probes.headroom.probe import Headroom
from gradlab.probes.subject import subject_of
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run
from gradlab.training.recording import Recording
from gradlab.training.stability import StabilityMonitor
from gradlab.training.step import StepResult

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


def record(config: RunConfig, look_every: int) -> tuple[Run, Recording, bool]:
    writer = MemoryWriter(config)
    monitor = StabilityMonitor(StabilityConfig(patience=3), unigram_entropy=3.0)
    recording = Recording(config, writer, None, None, monitor)
    broke = False
    for step, numbers in enumerate(STEPS):
        result = StepResult(*(torch.tensor(number) for number in numbers))
        recording.keep(result, torch.tensor(1.25) if step == 4 else None)
        if (step + 1) % look_every == 0 or step + 1 == len(STEPS):
            broke = recording.look()
            recording.flush()
            if broke and config.stop_when_destabilised:
                break
    recording.flush_all(broke=broke)
    return writer.run(), recording, broke


@pytest.fixture
def config(make_config: Make) -> RunConfig:
    return make_config(schedule=ScheduleConfig(kind="ramp", lr_step=0.5), steps=len(STEPS))


@pytest.mark.parametrize("look_every", [1, 2, 3, 7, 100])
def test_the_window_changes_nothing(config: RunConfig, look_every: int) -> None:
    run, recording, broke = record(config, look_every)
    reference, expected, _ = record(config, 1)
    assert broke
    assert recording.verdict("completed") == expected.verdict("completed")
    pd.testing.assert_frame_equal(
        run.table("steps").drop(columns="seconds"),
        reference.table("steps").drop(columns="seconds"),
    )


def test_the_rows_end_where_the_rule_fired(config: RunConfig) -> None:
    run, recording, _ = record(config, 100)
    verdict = recording.verdict("completed")
    steps = run.table("steps")
    assert (verdict.reason, verdict.step, verdict.detected_step) == ("grad_nonfinite", 6, 8)
    assert verdict.lr == 3.0
    assert steps["step"].tolist() == list(range(9))


@pytest.mark.parametrize("look_every", [1, 4, 100])
def test_what_follows_the_break_takes_nothing_along(config: RunConfig, look_every: int) -> None:
    """An overflow in a step that was in flight is dropped, and not the headroom before it."""
    model = nn.Sequential(nn.Linear(2, 2).half())
    headroom = Headroom(sample=5)
    session = Session(subject_of(model, ()), [headroom])
    writer = MemoryWriter(config)
    monitor = StabilityMonitor(StabilityConfig(patience=3), unigram_entropy=3.0)
    recording = Recording(config, writer, session, headroom, monitor)
    for step, numbers in enumerate(STEPS):
        model(torch.full((1, 2), math.inf if step == 9 else 1.0 + step).half()).sum().backward()
        session.end_step()
        recording.keep(StepResult(*(torch.tensor(number) for number in numbers)))
        if ((step + 1) % look_every == 0 or step == 9) and recording.look():
            break
    session.close()
    recording.flush_all(broke=True)
    table = writer.run().table("headroom")
    assert table["step"].unique().tolist() == list(range(9))
    assert headroom.latest is not None
    assert headroom.latest.step == 8


@pytest.mark.parametrize("look_every", [1, 4, 100])
def test_a_run_that_keeps_going_has_every_step_and_the_same_verdict(
    config: RunConfig, look_every: int
) -> None:
    going = config.replace(stop_when_destabilised=False)
    run, recording, broke = record(going, look_every)
    _, stopped, _ = record(config, 1)
    assert broke
    assert run.table("steps")["step"].tolist() == list(range(len(STEPS)))
    assert recording.verdict("completed").step == stopped.verdict("completed").step


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
