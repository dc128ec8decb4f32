import math
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import pytest
from by_hand import interval
from made_up_runs import nano

from gradlab.analyses.scales import (
    lambda_by_depth,
    scale_distributions,
    scale_entries,
    scales_by_layer,
    summarise_lambda,
    summarise_scales,
)
from gradlab.errors import GradlabError
from gradlab.models.presets import model_config
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run

PARAMS = {
    "head_scale": "blocks.{}.attention.head_scale.gamma",
    "ffn_mid_norm": "blocks.{}.feed_forward.ffn_mid_norm.weight",
    "lambda_resid": "blocks.{}.ffn_residual.lambda_resid",
}


def rows(step: int, op: str, layer: int | None, values: list[float], param: str = "") -> Any:
    param = param or PARAMS.get(op, "final_norm.weight").format(layer)
    return [(step, param, layer, op, index, value) for index, value in enumerate(values)]


def table(*groups: Any) -> dict[str, list[Any]]:
    names = ("step", "param", "layer", "op", "index", "value")
    return dict(zip(names, map(list, zip(*chain(*groups), strict=True)), strict=True))


def recorded(scales: Any, arch: str = "normformer-resscale", seed: int = 0, **fields: Any) -> Run:
    model = model_config(arch, fields.get("size", "nano"), n_layers=4)
    config = nano(arch, seed, **{"model": model, "steps": 20, **fields})
    writer = MemoryWriter(config, {"corpus": {"sha256": "a"}, "tables": ["steps", "scales"]})
    writer.write("scales", scales)
    return writer.run()


def constructed(seed: int = 0, last: int = 10) -> Run:
    """Layer l has λ = 1 − (l + seed) / 10, and head scales 0 to 4 around it."""
    return recorded(
        table(
            *(
                rows(step, "lambda_resid", layer, [1 - (layer + seed) / 10] * 3)
                + rows(step, "head_scale", layer, [layer + seed + v for v in (0, 1, 2, 3, 4)])
                for step in (0, last)
                for layer in range(4)
            ),
            rows(last, "final_norm", None, [5.0]),
        ),
        seed=seed,
    )


def test_known_entries_have_their_quantiles() -> None:
    scales = constructed().table("scales")
    found = scales_by_layer(scales, ops=["head_scale"])
    assert found["layer"].tolist() == [0, 1, 2, 3]
    assert (found["step"] == 10).all()
    row = found.iloc[2]
    names = ["entries", "mean", "low", "q05", "q25", "median", "q75", "q95", "high"]
    assert row[names].tolist() == pytest.approx([5, 4, 2, 2.2, 3, 4, 5, 5.8, 6])
    assert scales_by_layer(scales)["op"].unique().tolist() == ["lambda_resid", "head_scale"]


def test_a_real_run_as_plain_pandas_has_it(trained: list[Run]) -> None:
    runs = [run for run in trained if run.config.arch == "normformer-resscale"]
    found = scale_distributions(trained)
    assert set(found["seed"]) == {0, 1}
    assert set(found["op"]) == {"ffn_mid_norm", "attn_out_norm", "head_scale"}
    for run in runs:
        scales = run.table("scales")
        last = scales[scales["step"] == scales["step"].max()]
        names = ["blocks.1.attn_out_norm.weight", "blocks.2.attention.head_scale.gamma"]
        for name in names:
            plain = last.loc[last["param"] == name, "value"].describe(percentiles=[0.25, 0.5, 0.95])
            mine = found[(found["seed"] == run.config.seed) & (found["param"] == name)].iloc[0]
            columns = ["entries", "mean", "low", "q25", "median", "q95", "high"]
            expected = plain[["count", "mean", "min", "25%", "50%", "95%", "max"]]
            np.testing.assert_allclose(mine[columns].astype(float), expected)
            assert mine["step"] == scales["step"].max()
    assert not found["param"].str.endswith("bias").any()


def test_entries_are_those_that_the_quantiles_are_of() -> None:
    runs = [constructed(0, last=10), constructed(2, last=12)]
    found = scale_entries(runs, step=0, ops=["head_scale", "lambda_resid"])
    assert set(found["step"]) == {0}
    plain = runs[1].table("scales").query("step == 0 and op == 'head_scale'")
    mine = found[(found["seed"] == 2) & (found["op"] == "head_scale")]
    assert mine[["layer", "index", "value"]].to_numpy().tolist() == (
        plain[["layer", "index", "value"]].to_numpy(float).tolist()
    )
    distributions = scale_distributions(runs, step=0, ops=["head_scale", "lambda_resid"])
    key = ["arch", "seed", "param"]
    medians = found.groupby(key)["value"].median().sort_index()
    expected = distributions.set_index(key)["median"].sort_index()
    pd.testing.assert_series_equal(medians, expected, check_names=False)
    with pytest.raises(GradlabError, match="at no step in common"):
        scale_entries([*runs[:1], recorded(table(rows(7, "head_scale", 0, [1.0])), seed=1)])


def test_a_summary_is_over_seeds_and_says_how_many() -> None:
    found = summarise_scales(scale_distributions([constructed(0), constructed(2)]))
    row = found[found["layer"] == 1].iloc[0]
    assert row["runs"] == 2
    assert row[["median", "median_min", "median_max"]].tolist() == [4, 3, 5]
    # Not of the pooled entries, whose range is 1 to 7.
    assert row[["low", "high"]].tolist() == [2, 6]


def test_lambda_of_known_layers() -> None:
    runs = [constructed(seed) for seed in range(3)]
    found = lambda_by_depth(runs)
    assert found["residual"].unique().tolist() == ["ffn_residual"]
    own = found[found["seed"] == 2]
    assert own["depth"].tolist() == [0, 0.25, 0.5, 0.75]
    np.testing.assert_allclose(own["mean"], [0.8, 0.7, 0.6, 0.5])
    row = summarise_lambda(found).iloc[1]
    assert row["runs"] == 3
    expected = [*interval([0.9, 0.8, 0.7]), 0.7, 0.9]
    assert row[["mean", "low", "high", "min", "max"]].tolist() == pytest.approx(expected)


def test_lambda_of_a_real_run_as_plain_pandas_has_it(trained: list[Run]) -> None:
    found = lambda_by_depth(trained).set_index(["seed", "layer"])["mean"]
    assert len(found) == 2 * 3
    run = trained[-1]
    scales = run.table("scales").query("op == 'lambda_resid'")
    plain = scales[scales["step"] == scales["step"].max()].groupby("layer")["value"].mean()
    np.testing.assert_allclose(found[run.config.seed], plain)


def test_sizes_stand_side_by_side_for_lambda_only() -> None:
    small, large = (
        constructed(),
        recorded(constructed().table("scales").to_dict("list"), size="micro"),
    )
    assert lambda_by_depth([small, large])["size"].unique().tolist() == ["nano", "micro"]
    with pytest.raises(GradlabError, match="their sizes differ"):
        scale_distributions([small, large])


def test_the_step_is_the_last_that_all_have() -> None:
    runs = [constructed(0, last=10), constructed(1, last=12)]
    assert set(scale_distributions(runs)["step"]) == {0}
    assert set(scale_distributions(runs[1:])["step"]) == {12}
    with pytest.raises(GradlabError, match="not recorded at step 11: the nearest is 10"):
        scale_distributions(runs[:1], step=11)
    other = recorded(table(rows(3, "head_scale", 0, [1.0])), seed=4)
    with pytest.raises(GradlabError, match="at no step in common"):
        scale_distributions([*runs, other])


def test_entries_that_are_not_finite_are_counted() -> None:
    run = recorded(table(rows(0, "head_scale", 0, [math.nan, 1.0, math.inf, 3.0])))
    row = scale_distributions([run]).iloc[0]
    assert row[["entries", "left_out", "mean"]].tolist() == [2, 2, 2.0]
    nothing = recorded(table(rows(0, "head_scale", 0, [math.nan])), seed=1)
    found = scale_distributions([run, nothing])
    assert math.isnan(found["median"].iloc[1])
    summary = summarise_scales(found).iloc[0]
    assert summary[["runs", "left_out", "median"]].tolist() == [1, 3, 2.0]


def test_architectures_without_the_scales_are_not_in_it() -> None:
    plain = recorded(table(rows(0, "attn_norm", 0, [1.0], "blocks.0.attn_norm.weight")), "pre-ln")
    assert scale_distributions([plain, constructed()])["arch"].unique() == ["normformer-resscale"]
    with pytest.raises(GradlabError, match=r"no run has a learned lambda_resid.*\(pre-ln\)"):
        lambda_by_depth([plain])


def test_empty_tables_are_refused() -> None:
    empty = MemoryWriter(constructed().config, {"tables": ["scales"]}).run()
    with pytest.raises(GradlabError, match="has no rows"):
        scale_distributions([empty])
    with pytest.raises(GradlabError, match="has no rows"):
        scales_by_layer(pd.DataFrame({"step": [], "layer": []}))
    with pytest.raises(GradlabError, match="no layer has a learned lambda_resid"):
        scales_by_layer(pd.DataFrame(table(rows(0, "head_scale", 0, [1.0]))), ops=["lambda_resid"])


def test_a_model_of_ones_own_is_its_own_architecture() -> None:
    writer = MemoryWriter(None, {"model": "Mine", "tables": ["scales"]})
    writer.write("scales", table(rows(0, "head_scale", 0, [1.0]), rows(0, "head_scale", 5, [1.0])))
    found = scale_distributions([writer.run()])
    assert found[["arch", "n_layers"]].to_numpy().tolist() == [["Mine", 6]] * 2
