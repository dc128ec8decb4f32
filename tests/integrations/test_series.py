"""What loggers are given of each table, against sums written out."""

import math
from typing import Any

import pytest

from gradlab.integrations.series import Shown, shown

Columns = dict[str, list[Any]]


def one(table: str, **columns: list[Any]) -> Shown:
    count = len(next(iter(columns.values())))
    (found,) = shown(table, {"step": [7] * count, **columns})
    assert found.step == 7
    return found


def test_steps_are_numbers_by_step_and_what_is_missing_is_left_out() -> None:
    columns: Columns = {
        "step": [3, 4],
        "loss": [2.5, None],
        "lr": [0.1, 0.2],
        "loss_scale": [8.0, 4.0],
        "skipped": [False, True],
        "seconds": [1.0, 2.0],
    }
    first, second = shown("steps", columns)
    assert (first.step, second.step) == (3, 4)
    assert first.scalars == {
        "steps/loss": 2.5,
        "steps/lr": 0.1,
        "steps/loss_scale": 8.0,
        "steps/skipped": 0.0,
    }
    assert second.scalars == {"steps/lr": 0.2, "steps/loss_scale": 4.0, "steps/skipped": 1.0}


def test_gradients_are_one_norm_and_each_parameters_l1() -> None:
    found = one(
        "grad_norms", param=["a", "b"], grad_l1=[5.0, 6.0], grad_l2=[3.0, 4.0], nonfinite=[0.0, 2.0]
    )
    assert found.scalars == {
        "gradients/total_l2": 5.0,
        "gradients/nonfinite": 2.0,
        "grad_l1/a": 5.0,
        "grad_l1/b": 6.0,
    }


def test_headroom_is_the_least_by_direction_and_layer() -> None:
    found = one(
        "headroom",
        site=["s", "t", "u", "v", "w"],
        layer=[0, 0, None, 1, 1],
        direction=["forward", "forward", "forward", "backward", "backward"],
        headroom_bits=[9.0, 4.0, 3.0, -math.inf, math.nan],
    )
    assert found.scalars == {
        "headroom/forward": 3.0,
        "headroom/forward/layer_0": 4.0,
        "headroom/backward": -math.inf,
        "headroom/backward/layer_1": -math.inf,
    }


def test_a_forecast_is_told_in_steps_left() -> None:
    found = shown("forecasts", {"step": [30], "site": ["a"], "overflow_step": [71]})
    assert [(one.step, one.scalars) for one in found] == [(30, {"forecasts/steps_left": 41.0})]


def test_overflows_are_told_in_words() -> None:
    found = one(
        "overflows",
        order=[5, 2],
        site=["b", "a"],
        direction=["backward", "forward"],
        kind=["nan", "inf"],
        producer=["a", "a"],
        loss_scale=[1024.0, 1024.0],
        skipped=[True, True],
        function=[None, "torch.exp"],
        source=[None, "model.py:12"],
    )
    assert found.scalars == {"overflows/events": 2.0}
    assert found.texts == {
        "overflows/what": "step 7: a: inf, forward, in torch.exp at model.py:12; 2 overflows in "
        "the step, loss scale 1024, skipped"
    }


def test_an_overflow_without_a_scaler_is_told_too() -> None:
    columns = {"order": [0], "site": ["a"], "direction": ["forward"], "kind": ["inf"]}
    columns |= {"producer": [None], "loss_scale": [None], "skipped": [False]}
    told = one("overflows", **columns).texts["overflows/what"]
    assert told == "step 7: a: inf, forward; 1 overflow in the step, not skipped"


def test_faults_are_told_in_words_the_first_in_execution_order() -> None:
    found = one(
        "faults",
        order=[None, 4, 2],
        what=["loss", "gradient", "activation"],
        name=["the loss", "b", "a"],
        kind=["nan", "nan", "inf"],
        producer=[None, "a", "c"],
        function=[None, None, "torch.log"],
        source=[None, None, "model.py:3"],
    )
    assert found.scalars == {"faults/events": 3.0}
    assert found.texts == {
        "faults/what": "step 7: activation a: inf, made by c, in torch.log at model.py:3; 3 in the "
        "step"
    }


def test_scales_are_distributions() -> None:
    found = one(
        "scales",
        param=["norm", "norm", "norm", "lambda", "gone"],
        value=[1.0, math.inf, 3.0, 0.5, math.nan],
    )
    assert found.histograms == {"scales/norm": [1.0, 3.0]}
    assert found.scalars["scales/lambda"] == 0.5
    assert math.isnan(found.scalars["scales/gone"])


def test_updates_are_relative_to_their_parameters() -> None:
    found = one(
        "optimizer",
        param=["a", "zero", "sgd"],
        param_rms=[2.0, 0.0, 1.0],
        update_rms=[0.5, 1.0, 0.1],
        eps_frac=[0.25, 0.0, math.nan],
    )
    assert found.scalars == {
        "update_ratio/a": 0.25,
        "eps_frac/a": 0.25,
        "eps_frac/zero": 0.0,
        "update_ratio/sgd": pytest.approx(0.1),
    }


def test_scores_are_the_largest_of_all_heads_by_bound() -> None:
    found = one(
        "scores",
        site=["s", "s", "s", "t"],
        head=[0, 1, None, 0],
        max=[1.0, 2.0, 4.0, None],
        max_abs=[3.0, 2.5, None, None],
        bound=["exact", "exact", "upper", "lower"],
    )
    assert found.scalars == {"scores/exact/s": 3.0, "scores/upper/s": 4.0}


def test_a_table_of_ones_own_is_its_numbers_by_its_labels() -> None:
    found = one("sparsity", layer=["fc1", "fc2"], zero=[0.25, 0.5], dead=[True, False])
    assert found.scalars == {
        "sparsity/zero/fc1": 0.25,
        "sparsity/zero/fc2": 0.5,
        "sparsity/dead/fc1": 1.0,
        "sparsity/dead/fc2": 0.0,
    }
