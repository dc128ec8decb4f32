from typing import get_args

import pytest

from gradlab.errors import ConfigError
from gradlab.runs.verdict import Reason, Verdict


def test_four_reasons_are_breaks_and_completion_is_censoring() -> None:
    broke = {reason for reason in get_args(Reason) if Verdict(reason=reason).broke}
    censored = {reason for reason in get_args(Reason) if Verdict(reason=reason).censored}
    assert broke == {"loss_nonfinite", "grad_nonfinite", "loss_scale_floor", "loss_rise"}
    assert censored == {"completed"}
    assert set(get_args(Reason)) - broke - censored == {"interrupted", "error"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_rate_that_is_not_finite_is_none(value: float) -> None:
    verdict = Verdict(reason="loss_rise", lr=value, lr_min_loss=value, lr_collapse=value)
    assert (verdict.lr, verdict.lr_min_loss, verdict.lr_collapse) == (None, None, None)
    assert "null" in verdict.model_dump_json()


def test_it_is_checked_and_frozen() -> None:
    with pytest.raises(ConfigError, match="unknown reason 'loss_rises': did you mean 'loss_rise'"):
        Verdict(reason="loss_rises")
    with pytest.raises(ValueError, match="frozen"):
        Verdict(reason="completed").step = 3  # type: ignore[misc]
