"""What the forecast says of series whose end is known."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlab.forecast import (
    HALF_LIFE,
    HORIZON,
    LEAST_ROWS,
    NEAR_BITS,
    Forecast,
    Forecaster,
)


def headroom(step: int, bits: dict[str, float], **labels: str) -> dict[str, dict[str, list[Any]]]:
    """A step's rows, as `Headroom` makes them."""
    labels = {"direction": "forward", "dtype": "float16", **labels}
    columns = {name: [value] * len(bits) for name, value in labels.items()}
    return {
        "headroom": {
            "step": [step] * len(bits),
            "site": [*bits],
            "headroom_bits": [*bits.values()],
            **columns,
        }
    }


def scores(step: int, sizes: Sequence[float], bound: str) -> dict[str, dict[str, list[Any]]]:
    """A step's rows of one site, a head each."""
    return {
        "scores": {
            "step": [step] * len(sizes),
            "site": ["attention"] * len(sizes),
            "max": [*sizes],
            "max_abs": [abs(size) for size in sizes],
            "bound": [bound] * len(sizes),
        }
    }


def forecasts(series: dict[int, float], every: int = 1) -> dict[int, Forecast | None]:
    """What is said at each step of a site's series."""
    of = Forecaster()
    return {s: of.take(s, [headroom(s, {"a": b})]) for s, b in series.items() if s % every == 0}


@pytest.mark.parametrize("every", [1, 10, 60])
@pytest.mark.parametrize("fall", [0.3, 0.05, 0.01])
def test_bits_that_fall_in_a_line_end_where_the_line_does(fall: float, every: int) -> None:
    end = 600
    said = forecasts({step: fall * (end - step) for step in range(end)}, every)
    for step, forecast in said.items():
        rows, left = step // every + 1, end - step
        if rows < LEAST_ROWS or left > HORIZON + 1 or left * fall > NEAR_BITS + 1e-6:
            assert forecast is None
        elif left < HORIZON and left * fall < NEAR_BITS - 1e-6:
            assert forecast == Forecast("a", end)


def slow_twin(rows: Sequence[tuple[int, float]]) -> float:
    """Steps left after the last of a site's rows, from a weighted fit of them all."""
    step, bits = np.array(rows, np.float64).T
    halvings = [min(gap / HALF_LIFE, 1 / LEAST_ROWS) for gap in np.diff(step)]
    weight = [0.5 ** sum(halvings[at:]) for at in range(len(step))]
    slope, level = np.polyfit(step - step[-1], bits, 1, w=np.sqrt(weight))
    return math.inf if slope >= 0 or level > NEAR_BITS else max(0.0, level) / -slope


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0, 6)), min_size=LEAST_ROWS, max_size=40),
)
@settings(deadline=None, max_examples=60)
def test_the_line_is_that_of_a_weighted_fit_over_all_rows(
    looks: list[tuple[int, float]],
) -> None:
    rows, step, of, said = [], 0, Forecaster(), None
    for gap, bits in looks:
        step += gap
        rows.append((step, bits))
        said = of.take(step, [headroom(step, {"a": bits})])
    left = slow_twin(rows)
    if said is None:
        assert left > HORIZON - 1e-3 or left == pytest.approx(HORIZON)
    else:
        assert abs(said.overflow_step - step - max(1.0, left)) <= 0.5 + 1e-6 * left


def test_nothing_is_said_where_nothing_falls() -> None:
    still = forecasts(dict.fromkeys(range(100), 0.5))
    rising = forecasts({step: 0.01 * step for step in range(100)})
    far = forecasts({step: 16 - 0.2 * min(step, 50) for step in range(100)})  # warming up
    assert {*still.values(), *rising.values(), *far.values()} == {None}


def test_nothing_is_said_of_the_first_rows_and_of_none() -> None:
    of = Forecaster()
    assert of.take(0, []) is None
    assert of.take(1, [{"headroom": {**headroom(1, {})["headroom"]}}]) is None
    said = forecasts({step: 3 - 0.5 * step for step in range(LEAST_ROWS)})
    assert [said[step] for step in range(LEAST_ROWS - 1)] == [None] * (LEAST_ROWS - 1)
    assert said[LEAST_ROWS - 1] == Forecast("a", 6)


@pytest.mark.parametrize("lost", [-math.inf, math.nan])
def test_a_step_that_overflowed_is_not_counted(lost: float) -> None:
    of, without = Forecaster(), Forecaster()
    for step in range(60):
        bits = {"a": 10.0 - 0.125 * step, "b": 9.0 - 0.1 * step}
        if step in (20, 21, 59):
            assert of.take(step, [headroom(step, bits | {"b": lost, "a": 0.5})]) is None
        else:
            rows = [headroom(step, bits)]
            assert of.take(step, rows) == without.take(step, rows)


def test_tensors_that_are_all_zero_have_no_trend() -> None:
    of = Forecaster()
    for step in range(20):
        said = of.take(step, [headroom(step, {"zero": math.inf, "a": 2 - 0.04 * step})])
    assert said == Forecast("a", 50)


def test_the_nearest_of_several_sites_is_told_and_late_ones_are_taken_in() -> None:
    of = Forecaster()
    for step in range(60):
        bits = {"slow": 4 - 0.04 * step, "fast": 4.38 - 0.06 * step}
        if step >= 40:
            bits = {"late": 2.8 - 0.04 * step, **bits}
        said = of.take(step, [headroom(step, bits)])
        if step in (39, 59):
            assert said == Forecast(*{39: ("fast", 73), 59: ("late", 70)}[step])


@pytest.mark.parametrize("labels", [{"direction": "backward"}, {"dtype": "float32"}])
def test_what_cannot_end_a_run_is_not_followed(labels: dict[str, str]) -> None:
    of = Forecaster()
    for step in range(50):
        assert of.take(step, [headroom(step, {"a": 5 - 0.1 * step}, **labels)]) is None


def test_rows_of_earlier_steps_are_not_looked_at() -> None:
    of, other = Forecaster(), Forecaster()
    for step in range(0, 50, 10):
        rows = headroom(step, {"a": 4 - 0.05 * step})
        led = {
            n: [*o, *v]
            for (n, v), o in zip(
                rows["headroom"].items(),
                headroom(step - 3, {"a": 0.1})["headroom"].values(),
                strict=True,
            )
        }
        assert of.take(step, [{"headroom": led}]) == other.take(step, [rows])


def test_scores_count_where_they_are_tensors_in_a_run_with_fp16() -> None:
    def last(bound: str, *more: str, dtype: str = "float16", worst: float = 0.0) -> Forecast | None:
        of, said = Forecaster(), None
        for step in range(30):
            sizes = [-1.0, 2.0 ** (0.1 * step + 12)]
            tables = [
                headroom(step, {"other": 9.0}, dtype=dtype),
                *(scores(step, [*sizes, worst], b) for b in (bound, *more)),
            ]
            said = of.take(step, tables)
        return said

    assert last("exact") == Forecast("attention", 40)
    assert last("exact", worst=-math.inf) == Forecast("attention", 40)  # poisons no softmax
    assert last("exact", worst=math.inf) is None  # has overflowed
    assert last("exact", worst=math.nan) is None
    assert last("exact", "upper") is None  # computed aside: the kernel's own are fp32
    assert last("exact", dtype="bfloat16") is None


@given(st.integers(1, 79))
@settings(deadline=None, max_examples=10)
def test_it_goes_on_from_its_state_as_if_it_had_not_stopped(stop: int) -> None:
    of, again = Forecaster(), Forecaster()
    for step in range(80):
        if step == stop:
            again.restore(json.loads(json.dumps(of.state())))
        rows = [headroom(step, {"a": 4 - 0.05 * step + math.sin(step) / 9, "b": 3 - 0.03 * step})]
        said = of.take(step, rows)
        if step >= stop:
            assert again.take(step, rows) == said
            assert again.state() == of.state()
