import time
from collections.abc import Callable, Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from gradlab.cli.terminal.live import watching
from gradlab.config import RunConfig
from gradlab.runs.study import load_study
from gradlab.studies import step_times as module
from gradlab.studies.equal_time import _digest, at_equal_time
from gradlab.studies.folder import claim
from gradlab.studies.news import News, Timing
from gradlab.studies.step_times import UNTIMED, Clock, clock_for, step_times

Make = Callable[..., RunConfig]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The layers of the model of each step that is taken, and the threads it has."""
    taken: list[tuple[int, int]] = []
    real = module.training_step

    def step(learner, batches, lr):  # type: ignore[no-untyped-def]
        taken.append((learner.model.config.n_layers, torch.get_num_threads()))
        return real(learner, batches, lr)

    monkeypatch.setattr(module, "training_step", step)
    return taken


def clock_of(seconds: list[float]) -> Callable[[], float]:
    """A clock on which the steps take the given seconds, one after the other."""

    def readings() -> Iterator[float]:
        now = 0.0
        for length in seconds:
            yield now
            now += length
            yield now

    return readings().__next__


def test_models_take_turns_and_the_first_steps_do_not_count(
    make_config: Make, steps: list[tuple[int, int]]
) -> None:
    small, large = make_config(model={"n_layers": 1}), make_config(model={"n_layers": 2})
    order = []
    for step in range(UNTIMED + 5):
        order += [1, 2] if step % 2 == 0 else [2, 1]
    timed = {1: [0.5, 0.1, 0.2, 0.4, 0.25], 2: [0.8, 0.2, 0.1, 0.4, 0.3]}
    length = {1: iter([1.0] * UNTIMED + timed[1]), 2: iter([0.0] * UNTIMED + timed[2])}
    clock = clock_of([next(length[layers]) for layers in order])
    torch.set_num_threads(2)
    times = step_times([small, large], least=2, most=5, clock=clock)
    assert [layers for layers, _ in steps] == order
    assert {threads for _, threads in steps} == {1}
    assert torch.get_num_threads() == 2
    assert [time.median for time in times] == pytest.approx([0.25, 0.3])
    assert [times[0].low, times[0].ratio, times[0].high] == [1, 1, 1]
    # Round by round 1.6, 2, 0.5, 1, 1.2: not the ratio of the medians.
    assert [times[1].low, times[1].ratio, times[1].high] == pytest.approx([1, 1.2, 1.6])


def test_long_steps_are_timed_less_often(make_config: Make, steps: list[tuple[int, int]]) -> None:
    clock = clock_of([9.0] * 20)
    (only,) = step_times([make_config()], least=4, most=15, clock=clock)
    assert len(steps) == UNTIMED + 4
    assert only.median == 9


def test_a_deeper_model_takes_longer(make_config: Make) -> None:
    one, many = make_config(model={"n_layers": 1}), make_config(model={"n_layers": 8})
    shallow, deep = step_times([one, many], most=5, least=5)
    assert deep.median > 2 * shallow.median > 0
    assert deep.high >= deep.ratio >= deep.low > 1
    assert deep.ratio > 2


def test_other_programs_do_not_count_on_a_cpu() -> None:
    clock = clock_for(torch.device("cpu"))
    assert clock.name == "CPU time"
    began = clock.read()
    time.sleep(0.2)  # as when another program has the core
    assert clock.read() - began < 0.1
    assert clock_for(torch.device("cuda")) == Clock("wall clock", time.perf_counter)


def test_the_random_state_is_left_alone(make_config: Make) -> None:
    before = torch.random.get_rng_state()
    step_times([make_config(model={"dropout": 0.5})], least=2, most=2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_was_timed_before_counts_and_how_far_it_is_is_told(
    make_config: Make, steps: list[tuple[int, int]]
) -> None:
    both = [make_config(model={"n_layers": 1}), make_config(model={"n_layers": 2})]
    kept = [[0.1, 0.2, 0.4], [0.2, 0.2]]  # Ctrl-C came within the third round
    clock, told = clock_of([9.0] * 2 * UNTIMED + [0.5] * 4), list[float]()
    times = step_times(both, least=4, most=4, clock=clock, seconds=kept, progress=told.append)
    assert len(steps) == 2 * (UNTIMED + 2)
    assert kept == [[0.1, 0.2, 0.5, 0.5], [0.2, 0.2, 0.5, 0.5]]
    assert times[1].ratio == pytest.approx(1.0)
    assert told == sorted(told)
    assert 0 < told[0] < told[-1] == 1
    assert len(told) == 2
    step_times(both, least=4, most=4, seconds=kept)
    assert len(steps) == 2 * (UNTIMED + 2), "all is known: nothing is timed"


def test_a_timing_that_ctrl_c_ends_is_gone_on_with(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The league's, of which at a large width much is lost else."""
    rows = [make_config(arch=arch, steps=12) for arch in ("pre-ln", "post-ln")]
    real, taken = module.training_step, 0

    def step(learner, batches, lr):  # type: ignore[no-untyped-def]
        nonlocal taken
        taken += 1
        if taken == 2 * UNTIMED + 4:  # the last of the second round
            raise KeyboardInterrupt
        return real(learner, batches, lr)

    monkeypatch.setattr(module, "training_step", step)
    monkeypatch.setattr(module, "step_times", partial(step_times, least=5, most=5))
    told: list[News] = []

    def begin() -> dict[str, Any]:
        return at_equal_time(rows, [rows], tmp_path, resume=True, tell=told.append)[1]

    with pytest.raises(KeyboardInterrupt):
        begin()
    ((one, other),) = load_study(tmp_path).notes["timed_seconds"].values()
    assert (len(one), len(other)) == (2, 1)
    assert load_study(tmp_path).names == []
    notes = begin()
    assert taken == 2 * UNTIMED + 4 + 2 * (UNTIMED + 4)
    assert set(notes["step_times"]) == {"pre-ln", "post-ln"}
    claim(tmp_path, {}, resume=True, notes=notes)
    assert "timed_seconds" not in load_study(tmp_path).notes
    assert any(isinstance(news, Timing) and news.share > 0 for news in told)


def test_another_batch_is_timed_anew(make_config: Make) -> None:
    config = make_config()
    same = config.replace(steps=99, seed=3)
    assert _digest([config]) == _digest([same])
    for other in ({"batch_size": 3}, {"precision": {"name": "bf16"}}, {"accumulation": 2}):
        assert _digest([config]) != _digest([config.replace(**other)])


def test_groups_that_differ_in_the_z_loss_share_no_time(make_config: Make) -> None:
    config = make_config()
    weights = [config.replace(optimizer={"z_loss": weight}) for weight in (0.0, 1e-4, 1e-3)]
    without, light, heavy = [_digest([one]) for one in weights]
    assert without != light == heavy, "the weight takes no time: whether there is a z-loss does"


def test_seconds_of_another_device_are_not_gone_on_with(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto, named = make_config(device="auto"), make_config(device="cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = _digest([auto])
    assert here == _digest([named])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _digest([auto]) != here
    assert _digest([named]) == here
    monkeypatch.setattr(module, "clock_for", lambda _: Clock("another", time.perf_counter))
    assert _digest([named]) != here


@pytest.mark.parametrize("terminal", [False, True])
def test_a_timing_is_announced_once(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(module, "step_times", partial(step_times, least=2, most=2))
    base, other = make_config(), make_config(batch_size=3, variant="other")
    text = StringIO()
    with watching(Console(file=text, force_terminal=terminal, width=100)) as tell:
        at_equal_time([base, other], [[base], [other]], tmp_path, resume=False, tell=tell)
    assert text.getvalue().count("Timing a training step of") == 2, "one a group"
