import math
import statistics
from typing import Any

import numpy as np
import pandas as pd
import pytest
from by_hand import interval

from gradlab.analyses.final_losses import COLUMNS
from gradlab.analyses.lr_search import (
    entered_losses,
    losses_by_rate,
    search_differences,
    search_seeds,
    summarise_search,
)

RATES = (1e-3, 2e-3, 4e-3, 8e-3)
FIRST = 5.5
# Loss at each rate; None diverges.
CURVES: dict[str, tuple[float | None, ...]] = {
    "pre-ln": (3.0, 2.5, 2.75, None),
    "normformer": (3.1, 2.6, 2.4, 2.5),
}


def run(arch: str, seed: int, lr: float, loss: float | None, **fields: Any) -> dict[str, Any]:
    reason = "loss_rise" if loss is None else "completed"
    row = ["nano", arch, seed, lr, 300, reason, FIRST, math.nan if loss is None else loss, 9.0]
    return dict(zip(COLUMNS, row, strict=True)) | fields


def study(seeds: int = 3, noise: float = 0.01) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            run(arch, seed, lr, loss if loss is None else loss + 0.1 * seed + noise * rng.normal())
            for seed in range(seeds)
            for place, lr in enumerate(reversed(RATES))
            for arch, curve in CURVES.items()
            for loss in [curve[len(RATES) - 1 - place]]
        ]
    )


def slow(table: pd.DataFrame, arch: str, seed: int) -> list[float]:
    """What a seed's runs enter with, rates rising, in plain Python."""
    losses = []
    for lr in RATES:
        (row,) = table[
            (table["arch"] == arch) & (table["seed"] == seed) & (table["lr"] == lr)
        ].to_dict("records")
        finite = row["reason"] == "completed" and math.isfinite(row["val_loss"])
        losses.append(min(row["val_loss"], row["first_loss"]) if finite else row["first_loss"])
    return losses


@pytest.mark.parametrize(
    ("fields", "diverged", "entered"),
    [
        ({}, False, 2.0),
        ({"val_loss": 7.0}, True, FIRST),
        ({"val_loss": FIRST}, True, FIRST),
        ({"val_loss": math.nan}, True, FIRST),
        ({"val_loss": math.inf}, True, FIRST),
        ({"reason": "loss_nonfinite", "val_loss": math.nan}, True, FIRST),
    ],
)
def test_what_a_run_enters_with(fields: dict[str, Any], diverged: bool, entered: float) -> None:
    found = entered_losses(pd.DataFrame([run("pre-ln", 0, 1e-3, 2.0, **fields)]))
    assert found[["diverged", "entered"]].to_numpy().tolist() == [[diverged, entered]]


def test_runs_that_failed_do_not_enter() -> None:
    table = pd.DataFrame(
        [run("pre-ln", 0, 1e-3, None, reason=reason) for reason in ("error", "interrupted")]
    )
    assert entered_losses(table).empty
    by_rate = losses_by_rate(table)
    assert by_rate[["runs", "diverged"]].to_numpy().tolist() == [[0, 0]]
    assert by_rate["loss"].isna().all()


def test_losses_by_rate_are_plain_statistics() -> None:
    table = study()
    found = losses_by_rate(table)
    assert found["lr"].tolist() == [*RATES, *RATES]
    for row in found.to_dict("records"):
        place = RATES.index(row["lr"])
        losses = [slow(table, row["arch"], seed)[place] for seed in range(3)]
        spread = (row["loss"], row["loss_low"], row["loss_high"])
        assert spread == pytest.approx(interval(losses))
        assert (row["loss_min"], row["loss_max"]) == (min(losses), max(losses))
        assert row["runs"] == 3
        assert row["diverged"] == (3 if CURVES[row["arch"]][place] is None else 0)


def test_a_seeds_search_is_that_of_its_own_runs() -> None:
    table = study()
    found = search_seeds(table).set_index(["arch", "seed"])
    assert len(found) == 6
    for (arch, seed), row in found.iterrows():
        losses = slow(table, arch, seed)
        assert row["sensitivity"] == pytest.approx(
            statistics.fmean(loss - min(losses) for loss in losses)
        )
        assert row["own_lr"] == RATES[losses.index(min(losses))]
        assert row["own_loss"] == min(losses)
        seeds = [slow(table, arch, other) for other in range(3)]
        means = [statistics.fmean(at) for at in zip(*seeds, strict=True)]
        assert row["best_lr"] == RATES[means.index(min(means))]
        assert row["best_loss"] == losses[means.index(min(means))]


def test_a_known_search() -> None:
    summary = summarise_search(study(noise=0)).set_index("arch")
    pre_ln, normformer = summary.loc["pre-ln"], summary.loc["normformer"]
    assert (pre_ln["best_lr"], normformer["best_lr"]) == (2e-3, 4e-3)
    # At 8e-3 Pre-LN enters with its first loss, which no seed moves: 5.5 − (2.5 + seed / 10).
    assert pre_ln["sensitivity"] == pytest.approx((0.5 + 0 + 0.25 + 2.9) / 4)
    assert normformer["sensitivity"] == pytest.approx((0.7 + 0.2 + 0 + 0.1) / 4)
    assert (pre_ln["loss"], normformer["loss"]) == pytest.approx((2.6, 2.5))
    seeds = [pre_ln["sensitivity"] + 0.025 * (seed - 1) for seed in range(3)]
    assert pre_ln["sensitivity_low"] == pytest.approx(interval(seeds)[1])
    assert pre_ln[["rates", "seeds", "left_out", "diverged"]].tolist() == [4, 3, 0, 3]
    assert (pre_ln["own_lr_min"], pre_ln["own_lr_max"]) == (2e-3, 2e-3)
    assert summary["at_end"].tolist() == ["", ""]


@pytest.mark.parametrize(("rates", "end"), [(RATES[:2], "highest"), (RATES[1:], "lowest")])
def test_a_best_rate_at_an_end_of_the_grid_is_marked(rates: tuple[float, ...], end: str) -> None:
    table = study()
    found = summarise_search(table[table["lr"].isin(rates)]).set_index("arch")
    assert found.loc["pre-ln", "at_end"] == end


def test_one_rate_has_no_end() -> None:
    table = study()
    found = summarise_search(table[table["lr"] == 1e-3])
    assert found["at_end"].tolist() == ["", ""]
    assert found["sensitivity"].tolist() == [0, 0]


def test_differences_are_over_pairs_of_seeds() -> None:
    table = study()
    found = search_differences(table).set_index("quantity")
    seeds = search_seeds(table).set_index(["arch", "seed"])
    for quantity, column in (("loss", "best_loss"), ("sensitivity", "sensitivity")):
        row = found.loc[quantity]
        pairs = [
            seeds.loc[("normformer", s), column] - seeds.loc[("pre-ln", s), column]
            for s in range(3)
        ]
        assert row[["baseline", "arch", "seeds", "pairs"]].tolist() == [
            *("pre-ln", "normformer", 3, 3)
        ]
        assert tuple(row[["difference", "low", "high"]]) == pytest.approx(interval(pairs))
        assert row["distinguished"]


def test_a_seed_without_every_rate_is_left_out_and_counted() -> None:
    table = study()
    hole = (table["arch"] == "pre-ln") & (table["seed"] == 1) & (table["lr"] == 1e-3)
    for gap in (table[~hole], table.assign(reason=table["reason"].mask(hole, "error"))):
        seeds = search_seeds(gap).set_index(["arch", "seed"])
        assert seeds.loc[("pre-ln", 1), "rates"] == 3
        assert not seeds.loc[("pre-ln", 1), "whole"]
        assert math.isnan(seeds.loc[("pre-ln", 1), "sensitivity"])
        summary = summarise_search(gap).set_index("arch")
        assert summary["left_out"].tolist() == [1, 0]
        losses = [slow(table, "pre-ln", seed)[1] for seed in (0, 2)]
        assert summary.loc["pre-ln", "loss"] == pytest.approx(statistics.fmean(losses))
        assert search_differences(gap)[["seeds", "pairs"]].to_numpy().tolist() == [[3, 2], [3, 2]]


def test_an_architecture_that_diverges_at_every_rate_has_no_best_one() -> None:
    table = study()
    table.loc[table["arch"] == "pre-ln", "reason"] = "loss_nonfinite"
    summary = summarise_search(table).set_index("arch")
    assert summary.loc["pre-ln", ["seeds", "left_out"]].tolist() == [0, 3]
    assert summary.loc["pre-ln", ["best_lr", "loss", "sensitivity"]].isna().all()
    assert summary.loc["pre-ln", "at_end"] == ""
    assert (search_differences(table)["pairs"] == 0).all()


def test_one_seed_has_no_interval() -> None:
    summary = summarise_search(study(seeds=1))
    assert summary[["loss_low", "sensitivity_high"]].isna().all(axis=None)
    assert not search_differences(study(seeds=1))["distinguished"].any()
