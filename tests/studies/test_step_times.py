import time
from collections.abc import Callable, Iterator

import pytest
import torch

from gradlab.config import RunConfig
from gradlab.studies import step_times as module
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
