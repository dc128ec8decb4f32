import math

import numpy as np
import pandas as pd
import pytest
from by_hand import geometric_interval

from gradlab.analyses.gradient_study import study_gradients
from gradlab.analyses.relative_gradients import (
    relative_gradients,
    study_losses,
    summarise_relative,
)
from gradlab.errors import GradlabError
from gradlab.runs.reader import Run


def gradients(
    l1: dict[str, float], seeds: int = 3, ops: tuple[str, ...] = ("q", "fc2")
) -> pd.DataFrame:
    """Layer l of seed s has the architecture's L1 times 2^l times 3^s."""
    rows = [
        {
            "arch": arch,
            "seed": seed,
            "window": "early",
            "first": 2,
            "last": 6,
            "n_layers": 2,
            "op": op,
            "layer": layer,
            "numel": 10,
            "steps": 5,
            "left_out": seed,
            "grad_l1": size * 2.0**layer * 3.0**seed,
        }
        for arch, size in l1.items()
        for seed in range(seeds)
        for op in ops
        for layer in range(2)
    ]
    return pd.DataFrame(rows)


def losses(of: dict[str, float], seeds: int = 3) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"arch": arch, "seed": seed, "window": "early", "steps": 5, "left_out": 0, "loss": loss}
            for arch, loss in of.items()
            for seed in range(seeds)
        ]
    )


def test_the_ratio_is_of_gradients_over_losses() -> None:
    table = gradients({"pre-ln": 5.0, "normformer": 8.0})
    loss = losses({"pre-ln": 2.0, "normformer": 4.0})
    found = relative_gradients(table, loss, baseline="pre-ln")
    # (8 / 4) / (5 / 2): what layers and seeds share has gone.
    np.testing.assert_allclose(found["ratio"], 0.8)
    assert len(found) == 3 * 2 * 2
    assert set(found["baseline"]) == {"pre-ln"}
    assert set(found["arch"]) == {"normformer"}
    assert found["left_out"].tolist() == [2 * seed for seed in found["seed"]]
    inverse = relative_gradients(table, loss, baseline="normformer")
    np.testing.assert_allclose(inverse["ratio"], 1.25)


def test_a_real_study_as_plain_pandas_has_it(trained: list[Run]) -> None:
    found = relative_gradients(
        study_gradients(trained, length=5), study_losses(trained, length=5), baseline="pre-ln"
    )
    found = found.set_index(["seed", "window", "op", "layer"])["ratio"]
    assert len(found) == 2 * 2 * 8 * 3
    assert "head_scale" not in found.index.get_level_values("op")
    for window, (first, last) in {"early": (2, 6), "late": (9, 13)}.items():
        for op, part in {"k": "attention.k", "fc1": "feed_forward.fc1"}.items():
            sizes = {}
            for run in trained:
                inside = f"{first} <= step <= {last}"
                grads = run.table("grad_norms").query(inside)
                grads = grads[grads["param"] == f"blocks.2.{part}.weight"]["grad_l1"]
                loss = run.table("steps").query(inside)["loss"]
                sizes[run.config.arch, run.config.seed] = grads.mean() / loss.mean()
            for seed in range(2):
                ratio = sizes["normformer-resscale", seed] / sizes["pre-ln", seed]
                assert found[seed, window, op, 2] == pytest.approx(ratio)


def test_a_summary_is_geometric_with_an_interval_over_seeds() -> None:
    table = gradients({"pre-ln": 1.0, "normformer": 1.0})
    mine = (table["arch"] == "normformer") & (table["layer"] == 0)
    table.loc[mine, "grad_l1"] *= 2.0 ** table.loc[mine, "seed"]  # ratios 1, 2, 4
    found = relative_gradients(table, losses({"pre-ln": 1, "normformer": 1}), baseline="pre-ln")
    summary = summarise_relative(found).set_index(["op", "layer"])
    row = summary.loc[("q", 0)]
    expected = [3, *geometric_interval([1, 2, 4]), 1, 4]
    columns = ["pairs", "ratio", "low", "high", "min", "max"]
    assert row[columns].tolist() == pytest.approx(expected)
    assert not row["distinguished"]
    one = summarise_relative(found[found["seed"] == 1])
    assert one[["low", "high"]].isna().all(axis=None)
    assert not one["distinguished"].any()


def test_only_pairs_of_one_seed_count() -> None:
    table = gradients({"pre-ln": 1.0, "normformer": 2.0})
    table = table[(table["arch"] == "pre-ln") | (table["seed"] > 0)]
    table = table[(table["arch"] == "normformer") | (table["seed"] < 2)]
    found = relative_gradients(table, losses({"pre-ln": 1, "normformer": 1}), baseline="pre-ln")
    assert set(found["seed"]) == {1}
    with pytest.raises(GradlabError, match="no seed was run with both"):
        relative_gradients(
            table[table["seed"] != 1], losses({"pre-ln": 1, "normformer": 1}), baseline="pre-ln"
        )


def test_what_is_missing_has_no_ratio() -> None:
    table = gradients({"pre-ln": 1.0, "normformer": 2.0})
    table.loc[(table["arch"] == "pre-ln") & (table["seed"] == 0), "grad_l1"] = math.nan
    table.loc[(table["arch"] == "normformer") & (table["seed"] == 1), "grad_l1"] = 0.0
    found = relative_gradients(table, losses({"pre-ln": 1, "normformer": 1}), baseline="pre-ln")
    assert found.groupby("seed")["ratio"].count().tolist() == [0, 0, 4]
    assert set(summarise_relative(found)["pairs"]) == {1}
    nothing = relative_gradients(
        table, losses({"pre-ln": math.nan, "normformer": 1}), baseline="pre-ln"
    )
    assert summarise_relative(nothing)["ratio"].isna().all()


def test_losses_that_are_not_finite_are_counted(trained: list[Run]) -> None:
    found = study_losses(trained, length=3)
    assert found["steps"].unique().tolist() == [3]
    assert found["left_out"].unique().tolist() == [0]
    loss = trained[0].table("steps").query("2 <= step <= 4")["loss"].mean()
    assert found["loss"].iloc[0] == pytest.approx(loss)


def test_the_baseline_must_be_there_with_another() -> None:
    table, loss = gradients({"pre-ln": 1.0}), losses({"pre-ln": 1.0})
    with pytest.raises(GradlabError, match="unknown baseline 'prel-n': did you mean 'pre-ln'"):
        relative_gradients(table, loss, baseline="prel-n")
    with pytest.raises(GradlabError, match="no other architecture"):
        relative_gradients(table, loss, baseline="pre-ln")
