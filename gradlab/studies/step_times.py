"""How long a training step takes: several models' in turns, so that they share what disturbs."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from gradlab.config import RunConfig
from gradlab.data.corpus import corpora_of
from gradlab.training.device import on_threads, repeatable, resolve_device
from gradlab.training.loop import step_batches
from gradlab.training.step import make_learner, training_step

LEAST, MOST = 21, 201
"""Steps of each model that are timed, at least and at most."""

SECONDS = 40.0
"""Of all steps together, after which no more are taken than the least: with other work on the
machine, the median of a few steps is some per cent off."""

UNTIMED = 3
"""Steps of each before those: the first ones set up kernels and memory."""


@dataclass(frozen=True)
class StepTime:
    """How long a training step takes, and how much longer than the first model's.

    The ratio is the median over rounds, in each of which every model takes one step: what slows
    the machine for longer than a round is in both of its parts.

    Attributes:
        median: Seconds of a step, by the clock of `clock_for`.
        ratio: The median of the step's time over the first model's in the same round.
        low: The ratio's low quartile.
        high: Its high quartile.
    """

    median: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Clock:
    """What seconds are counted by: its name, and how it is read."""

    name: str
    read: Callable[[], float]


def clock_for(device: torch.device) -> Clock:
    """The clock of the steps on a device.

    On a CPU a study's run has one thread, so equal compute is equal time of the processor spent on
    it, which other programs do not add to when they take the core away. (They still slow the
    memory that all share, and the processor's own frequency; that is for the ratio.) A GPU works
    beside the process: there it is the clock on the wall, once the device is done.
    """
    if device.type == "cpu":
        return Clock("CPU time", time.process_time)
    return Clock("wall clock", time.perf_counter)


def step_times(
    configs: Sequence[RunConfig],
    *,
    least: int = LEAST,
    most: int = MOST,
    clock: Callable[[], float] | None = None,
    seconds: Sequence[list[float]] = (),
    progress: Callable[[float], None] = lambda _: None,
) -> list[StepTime]:
    """Time the training step of each config, on the threads that a study's runs have.

    The models take their steps in turns, in the reverse order every other round. A step is the
    runs' own, from the batch on the device to the updated weights; probes, validations and writing
    are left out. All models are on the device at the same time.

    Args:
        configs: Runs on one device, in one precision and on one text; the first is what the others
            are measured against.
        least: Timed steps of each, 2 or more.
        most: Timed steps of each where they are short: as many as take `SECONDS` in all.
        clock: Gives seconds; that of `clock_for` if None.
        seconds: A list for each config, of the steps that were timed before; it grows, and is what
            to keep where Ctrl-C comes.
        progress: Told after each timed round how much is done, which is more than 0.

    Raises:
        GradlabError: The corpus or the device cannot be used.
    """
    device = resolve_device(configs[0].device)
    read = clock_for(device).read if clock is None else clock
    corpora = corpora_of(configs)
    seconds = seconds or [[] for _ in configs]
    known = min(map(len, seconds))
    for times in seconds:
        del times[known:]  # of a round that was not finished
    spent = sum(map(sum, seconds))
    with on_threads(1), repeatable(device, configs[0].seed):
        learners = [make_learner(config, device) for config in configs]
        turns = list(zip(configs, corpora, learners, seconds, strict=True))
        # Opened once here, as a run's loop does.
        with learners[0].precision.arithmetic():
            for step in range(UNTIMED + most - known if known < most else 0):
                rounds = max(known, known + step - UNTIMED)
                if rounds >= least and spent > SECONDS:
                    break
                for config, corpus, learner, times in turns:
                    batches = step_batches(config, corpus, device, step)
                    _wait(device)
                    began = read()
                    training_step(learner, batches, config.lr(step))
                    _wait(device)
                    spent += (took := read() - began)
                    if step >= UNTIMED:
                        times.append(took)
                turns.reverse()
                if step >= UNTIMED:
                    rounds += 1
                    progress(max(rounds / most, min(spent / SECONDS, rounds / least, 1.0)))
    return [_summary(times, seconds[0]) for times in seconds]


def _summary(times: Sequence[float], first: Sequence[float]) -> StepTime:
    ratios = [mine / theirs for mine, theirs in zip(times, first, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return StepTime(statistics.median(times), ratio, low, high)


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
