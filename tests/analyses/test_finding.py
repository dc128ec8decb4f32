import math

import pytest

from gradlab.analyses.finding import bits, counted, during, figure, place, spans, streaks


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (65536.0, "65536"),
        (0.17499, "0.175"),
        (-3.21, "−3.21"),
        (1e-7, "1e-07".replace("-", "−")),
        (0.0, "0"),
        (-math.inf, "−inf"),
        (math.nan, "–"),
    ],
)
def test_figures_have_three_digits_and_a_real_minus(value: float, text: str) -> None:
    assert figure(value) == text


def test_bits_have_one_decimal() -> None:
    assert [bits(x) for x in (1.0, -0.26, -0.04, 15.97, -math.inf, math.nan)] == [
        *("1.0", "−0.3", "0.0", "16.0", "−inf", "–")
    ]


def test_steps_are_written_as_ranges() -> None:
    assert spans([0, 1, 2, 7]) == "0–2, 7"
    assert spans([7, 0, 2, 1]) == "0–2, 7"
    assert spans(range(0, 20, 2), most=3) == "0, 2, …, 18"
    assert streaks([]) == []
    assert streaks([3, 4, 6]) == [(3, 4), (6, 6)]


def test_words() -> None:
    assert counted(1, "step") == "1 step"
    assert counted(0, "step") == "0 steps"
    assert during(2, 5) == "steps 2–5"
    assert during(2, 2) == "step 2"
    assert place("a.b", "backward") == "a.b gradient"
    assert place("a.b", "forward") == "a.b"
