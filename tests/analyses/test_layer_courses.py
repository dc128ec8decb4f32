"""The courses by layer, against loops over their rows."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gradlab.analyses.layer_courses import (
    gradient_courses,
    gradient_sizes,
    gradients_of_layers,
    scale_courses,
    score_courses,
    update_courses,
)
from gradlab.errors import GradlabError

RNG = np.random.default_rng(0)
OPS = ("q", "fc2")


def places(layers: int = 3, steps: int = 4) -> pd.DataFrame:
    rows = [
        (step, f"h.{layer}.{op}.{leaf}", layer, op)
        for step in range(steps)
        for layer in range(layers)
        for op in OPS
        for leaf in ("weight", "more.weight", "bias")
    ]
    rows += [(step, "embed.weight", None, "embed") for step in range(steps)]
    table = pd.DataFrame(rows, columns=["step", "param", "layer", "op"])
    return table.astype({"layer": "Int64"}).sort_values("step", kind="stable", ignore_index=True)


def grad_norms() -> pd.DataFrame:
    table = places()
    return table.assign(grad_l2=RNG.lognormal(size=len(table)), nonfinite=0)


def value(found: pd.DataFrame, op: str, layer: int | None, step: int) -> Any:
    is_layer = found["layer"].isna() if layer is None else found["layer"] == layer
    (row,) = found[(found["op"] == op) & is_layer & (found["step"] == step)].to_dict("records")
    return row


def test_a_gradient_is_the_norm_over_the_weights_of_an_op() -> None:
    table = grad_norms()
    found = gradient_courses(table)
    for op in OPS:
        for layer in range(3):
            squares = [
                row.grad_l2**2
                for row in table.itertuples()
                if row.op == op and row.layer == layer and row.step == 2 and "bias" not in row.param
            ]
            assert value(found, op, layer, 2)["value"] == pytest.approx(math.sqrt(sum(squares)))
    assert pd.unique(found["op"]).tolist() == ["q", "fc2", "embed"], "as in the table, layers first"
    assert found["layer"].isna().sum() == 4


def test_a_gradient_that_was_not_finite_is_missing_and_said() -> None:
    table = grad_norms()
    table.loc[(table["step"] == 1) & (table["param"] == "h.0.q.weight"), "nonfinite"] = 5
    row = value(gradient_courses(table), "q", 0, 1)
    assert math.isnan(row["value"])
    assert row["lost"]
    assert not value(gradient_courses(table), "q", 1, 1)["lost"]


def test_an_update_is_the_largest_share_of_a_weight() -> None:
    table = places().assign(param_rms=2.0, update_rms=0.1)
    table.loc[table["param"] == "h.1.fc2.more.weight", "update_rms"] = 0.4
    table.loc[table["step"] == 3, "update_rms"] = 0.0
    table.loc[table["param"] == "h.2.q.weight", "update_rms"] = math.nan
    found = update_courses(table)
    assert value(found, "fc2", 1, 0)["value"] == pytest.approx(0.2)
    assert value(found, "fc2", 0, 0)["value"] == pytest.approx(0.05)
    assert math.isnan(value(found, "fc2", 0, 3)["value"]), "nothing moved"
    assert not value(found, "fc2", 0, 3)["lost"]
    assert value(found, "q", 2, 0)["lost"]
    assert update_courses(table.assign(param_rms=0.0))["value"].isna().all()


def test_a_scale_is_the_mean_of_its_finite_entries() -> None:
    rows = [(0, "n.weight", 0, "n", index, entry) for index, entry in enumerate([1.0, 2.0, 6.0])]
    rows += [(1, "n.weight", 0, "n", index, entry) for index, entry in enumerate([1.0, math.inf])]
    table = pd.DataFrame(rows, columns=["step", "param", "layer", "op", "index", "value"])
    first, second = scale_courses(table).to_dict("records")
    assert (first["value"], first["low"], first["high"], first["lost"]) == (3, 1, 6, False)
    assert (second["value"], second["lost"]) == (1, True)


def test_a_score_is_by_the_best_bound_that_is_known() -> None:
    columns = ["step", "site", "layer", "head", "max", "max_abs", "bound"]
    rows = [
        (0, "a", 0, 0, 1.0, 3.0, "exact"),
        (0, "a", 0, 0, None, 9.0, "upper"),
        (0, "a", 0, 1, None, 9.0, "upper"),
        (0, "a", 0, 1, 2.0, None, "lower"),
        (1, "a", 0, 0, -2.0, None, "exact"),
        (1, "a", 0, 1, math.inf, math.inf, "exact"),
    ]
    table = pd.DataFrame(rows, columns=columns).astype({"max": float, "max_abs": float})
    found = score_courses(table)
    assert found["bound"].tolist() == ["exact", "upper", "exact", "exact"]
    assert found["value"].tolist()[:3] == [3, 9, 2]
    assert found["lost"].tolist() == [False, False, False, True]
    assert math.isnan(found["value"].iloc[3])


def test_tables_with_nothing_in_them_are_refused() -> None:
    table = grad_norms()
    for refused in (
        lambda: gradient_courses(table[table["param"].str.endswith("bias")]),
        lambda: update_courses(places().iloc[:0].assign(update_rms=0.0, param_rms=0.0)),
        lambda: scale_courses(pd.DataFrame()),
        lambda: score_courses(pd.DataFrame()),
    ):
        with pytest.raises(GradlabError, match="nothing to draw"):
            refused()


def test_a_layer_has_the_norm_over_all_its_weights() -> None:
    table = grad_norms()
    table.loc[(table["step"] == 3) & (table["layer"] == 2), "nonfinite"] = 1
    found = gradients_of_layers(table).set_index(["step", "layer"])["value"]
    weights = table[~table["param"].str.endswith("bias")]
    own = weights[(weights["step"] == 1) & (weights["layer"] == 0)]["grad_l2"]
    assert found[(1, 0)] == pytest.approx(math.sqrt((own**2).sum()))
    assert found[(3, 2)] == math.inf
    assert found[(3, 1)] < math.inf


def test_sizes_are_the_quantiles_over_weights_and_steps() -> None:
    table = grad_norms().assign(grad_l1=lambda rows: rows["grad_l2"] * 7, numel=7)
    first = (table["layer"] == 0) & (table["step"] == 0)
    table.loc[first & (table["param"] == "h.0.q.weight"), "grad_l1"] = 0.0
    table.loc[first & (table["param"] == "h.0.fc2.weight"), ["grad_l1", "nonfinite"]] = [9.0, 2]
    row = gradient_sizes(table).iloc[0]
    own = table[(table["layer"] == 0) & ~table["param"].str.endswith("bias")]
    own = own[(own["grad_l1"] > 0) & (own["nonfinite"] == 0)]["grad_l2"]
    assert (row["entries"], row["left_out"], row["zeros"]) == (len(own), 1, 1)
    assert row["median"] == pytest.approx(own.median())
    assert (row["low"], row["high"]) == (pytest.approx(own.min()), pytest.approx(own.max()))
    assert gradient_sizes(table.assign(grad_l1=0.0))["median"].isna().all()
    with pytest.raises(GradlabError, match="nothing to draw"):
        gradient_sizes(table[table["layer"].isna()])
