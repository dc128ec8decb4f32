"""What helps is said only where it is known to."""

import pandas as pd
import pytest

from gradlab.analyses.remedies import overflow_remedies
from gradlab.runs.verdict import Verdict


def event(**fields: object) -> pd.DataFrame:
    row = {"step": 3, "order": 0, "site": "fc", "direction": "forward", "kind": "inf"}
    return pd.DataFrame([{**row, "producer": "fc", "loss_scale": 1.0, **fields}])


def steps(*skipped: bool) -> pd.DataFrame:
    return pd.DataFrame({"step": range(len(skipped)), "skipped": skipped})


@pytest.mark.parametrize("kind", ["inf", "cast"])
def test_an_output_that_is_infinite(kind: str) -> None:
    (found,) = overflow_remedies(event(kind=kind), steps(False))
    assert "bf16" in found.sentence


@pytest.mark.parametrize(("skipped", "word"), [((True,), "lowers"), ((True, True), "init_scale")])
def test_a_gradient_under_a_loss_scale(skipped: tuple[bool, ...], word: str) -> None:
    backward = event(direction="backward", producer="fc gradient", loss_scale=2.0**16)
    (found,) = overflow_remedies(backward, steps(*skipped))
    assert word in found.sentence


@pytest.mark.parametrize(
    "unknown",
    [
        event(kind="nan"),
        event(producer="fc.weight (parameter)"),
        event(producer="x (input)"),
        event(producer="block (between its modules)"),
        event(direction="backward", producer="fc gradient"),
        event()[:0],
    ],
)
def test_nothing_where_it_is_not_known(unknown: pd.DataFrame) -> None:
    assert overflow_remedies(unknown, steps(True)) == []


def test_an_overflow_that_cost_a_skipped_step_is_said_to_have_done_no_harm() -> None:
    ended = Verdict(reason="completed", step=5)
    skipped = steps(False, False, False, True, False, False)
    (found,) = overflow_remedies(event(skipped=True), skipped, ended)
    assert "the step was skipped" in found.sentence
    (found,) = overflow_remedies(event(skipped=False), skipped, ended)
    assert "bf16" in found.sentence
    (found,) = overflow_remedies(event(skipped=True), steps(*[False] * 3, True, True), ended)
    assert "bf16" in found.sentence


def test_nothing_helps_against_a_break_that_no_overflow_led_to() -> None:
    broke = Verdict(reason="loss_rise", step=5, detected_step=5)
    assert overflow_remedies(event(skipped=True), steps(*[False] * 6), broke) == []
