import math
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.config import StabilityConfig
from gradlab.training.stability import StabilityMonitor

ENTROPY = 3.0
CONFIG = StabilityConfig(patience=3, loss_scale_floor=1e-2, ema_decay=0.5, margin=1.0)

Step = tuple[float, float, bool]  # loss, loss scale, gradient finite


def watch(steps: list[Step], *, keep_going: bool = False) -> StabilityMonitor:
    monitor = StabilityMonitor(CONFIG, ENTROPY)
    for step, (loss, scale, finite) in enumerate(steps):
        if monitor.observe(step, step * 0.1, loss, scale, finite) and not keep_going:
            break
    return monitor


def verdict_of(steps: list[Step]):
    last = len(steps) - 1
    return watch(steps).verdict(otherwise="completed", step=last, lr=last * 0.1)


def obvious_verdict(steps: list[Step]) -> tuple[str, int, int | None]:
    """The definition read literally, over prefixes: (reason, step, detected step)."""
    for end in range(1, len(steps) + 1):
        bad = [not (math.isfinite(loss) and finite) for loss, _, finite in steps[:end]]
        groups = [(value, len(list(run))) for value, run in groupby(bad)]
        if groups[-1][0] and groups[-1][1] >= CONFIG.patience:
            first = end - groups[-1][1]
            kind = "grad" if math.isfinite(steps[first][0]) else "loss"
            return f"{kind}_nonfinite", first, end - 1
        if steps[end - 1][1] < CONFIG.loss_scale_floor:
            first = end - groups[-1][1] if groups[-1][0] else end - 1
            return "loss_scale_floor", first, end - 1
        averages = obvious_averages([loss for loss, _, _ in steps[:end]])
        if averages and averages[-1] > min(averages) + CONFIG.margin:
            return "loss_rise", end - 1, end - 1
    return "completed", len(steps) - 1, None


def obvious_averages(losses: list[float]) -> list[float]:
    averages: list[float] = []
    for loss in losses:
        if math.isfinite(loss):
            averages.append(0.5 * averages[-1] + 0.5 * loss if averages else loss)
    return averages


losses = st.sampled_from([1.0, 1.5, 2.0, 2.9, 3.2, 4.0, 6.0, math.nan, math.inf])
scales = st.sampled_from([1.0, 1.0, 1.0, 1.0, 0.02, 0.001])


@given(st.lists(st.tuples(losses, scales, st.sampled_from([True, True, False])), min_size=1))
def test_verdict_is_the_definition_read_literally(steps: list[Step]) -> None:
    verdict = verdict_of(steps)
    assert (verdict.reason, verdict.step, verdict.detected_step) == obvious_verdict(steps)
    assert verdict.lr == pytest.approx(verdict.step * 0.1)
    assert verdict.censored == (verdict.reason == "completed")


@given(st.lists(st.tuples(losses, scales, st.sampled_from([True, True, False])), min_size=1))
def test_what_comes_after_a_break_does_not_change_it(steps: list[Step]) -> None:
    stopped = watch(steps).verdict(otherwise="completed", step=0, lr=0.0)
    went_on = watch(steps, keep_going=True).verdict(otherwise="completed", step=0, lr=0.0)
    names = ("reason", "step", "lr", "detected_step")
    assert [getattr(stopped, n) for n in names] == [getattr(went_on, n) for n in names]


@given(st.lists(losses, min_size=1))
def test_rates_at_the_lowest_average_and_at_collapse(values: list[float]) -> None:
    monitor = StabilityMonitor(CONFIG.replace(patience=10**6, margin=1e9), ENTROPY)
    kept = [step for step, loss in enumerate(values) if math.isfinite(loss)]
    for step, loss in enumerate(values):
        monitor.observe(step, step * 0.1, loss, 1.0, True)
    verdict = monitor.verdict(otherwise="completed", step=0, lr=0.0)
    averages = obvious_averages(values)
    if not averages:
        assert verdict.lr_min_loss is None
        return
    assert verdict.lr_min_loss == kept[averages.index(min(averages))] * 0.1
    useful = next((i for i, a in enumerate(averages) if a < ENTROPY), len(averages))
    lowest = averages.index(min(averages))  # before it, a rise is a wobble on the way down
    above = [i for i in range(max(useful, lowest), len(averages)) if averages[i] > ENTROPY]
    assert verdict.lr_collapse == (kept[above[0]] * 0.1 if above else None)


def test_a_streak_is_named_by_its_first_step() -> None:
    good, bad_gradient, bad_loss = (2.0, 1.0, True), (2.0, 1.0, False), (math.nan, 1.0, False)
    verdict = verdict_of([good, bad_gradient, bad_loss, bad_loss, good])
    assert (verdict.reason, verdict.step, verdict.detected_step) == ("grad_nonfinite", 1, 3)


def test_a_good_step_ends_a_streak() -> None:
    good, bad = (2.0, 1.0, True), (math.nan, 1.0, False)
    assert verdict_of([bad, bad, good, bad, bad]).reason == "completed"


def test_a_loss_that_is_not_finite_does_not_enter_the_average() -> None:
    monitor = watch([(2.0, 1.0, True), (math.inf, 1.0, True), (2.5, 1.0, True)])
    assert monitor.verdict(otherwise="completed", step=2, lr=0.2).reason == "completed"
