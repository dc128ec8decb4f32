"""A league's comparisons, of made-up numbers."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy import stats

from gradlab.analyses.league import (
    MEASURES,
    SEED_COLUMNS,
    SUMMARY_COLUMNS,
    league_beside,
    league_differences,
    order_kept,
    rank_agreement,
    summarise_league,
)
from gradlab.analyses.league_words import agreement_sentence, difference_sentences
from gradlab.figures.league import TITLES, league_panels

ARCHS = ("pre-ln", "post-ln", "peri-ln", "deepnorm")
NO_COSTS = pd.DataFrame(columns=SUMMARY_COLUMNS)


def made(seed: int, *, bounds: tuple[tuple[str, int, str], ...] = ()) -> pd.DataFrame:
    """Random values of every measure, architecture and seed, and which of them are bounds."""
    random = np.random.default_rng(seed)
    rows: list[Any] = [
        [arch, run, name, float(random.lognormal()), (arch, run, name) in bounds]
        for arch in ARCHS
        for name in MEASURES
        if name != "cost"
        for run in range(4)
    ]
    return pd.DataFrame(rows, columns=SEED_COLUMNS)


def values(table: pd.DataFrame, arch: str, name: str) -> "np.ndarray[Any, Any]":
    rows = table[(table["arch"] == arch) & (table["measure"] == name)].sort_values("seed")
    raw = rows["value"].to_numpy()
    return np.log(raw) if MEASURES[name].geometric else raw


def test_the_differences_are_a_paired_t_test() -> None:
    table = made(0)
    for row in league_differences(table).to_dict("records"):
        name, arch = row["measure"], row["arch"]
        test = stats.ttest_rel(values(table, arch, name), values(table, "pre-ln", name))
        ends = test.confidence_interval(0.95)
        wanted = np.array([ends.low, ends.high])
        wanted = np.exp(wanted) if MEASURES[name].geometric else wanted
        assert [row["low"], row["high"]] == pytest.approx(wanted.tolist())
        assert row["distinguished"] == (test.pvalue < 0.05)
        assert row["pairs"] == 4


def test_a_lower_bound_is_said_and_no_reference() -> None:
    table = made(0, bounds=(("peri-ln", 0, "ramp"), ("pre-ln", 1, "limit")))
    rows = league_differences(table).set_index(["measure", "arch"])
    assert rows.loc[("ramp", "peri-ln"), "bound"]
    assert rows.loc[("ramp", "peri-ln"), "pairs"] == 4
    assert not rows.loc[("ramp", "post-ln"), "bound"]
    assert set(rows.loc["limit", "pairs"]) == {3}
    summary = summarise_league(table, NO_COSTS).set_index(["arch", "measure"])
    assert summary["bound"].sum() == 2
    assert summary.loc[("peri-ln", "ramp"), "bound"]


@pytest.mark.parametrize(("shift", "told"), [(0.3, False), (-0.3, True)])
def test_nothing_is_above_a_baseline_that_may_lie_higher(shift: float, told: bool) -> None:
    bounds = (("pre-ln", 1, "limit"),)
    for free in ((), bounds):
        table = made(0, bounds=free)
        table = table[table["measure"] == "limit"]
        other = table["arch"] != "pre-ln"
        of_seed = dict(table.loc[~other, ["seed", "value"]].to_numpy().tolist())
        table.loc[other, "value"] = [
            of_seed[row.seed] * np.exp(shift + 0.01 * row.seed) for row in table[other].itertuples()
        ]
        assert league_differences(table)["distinguished"].eq(told or not free).all()
    both = table.assign(bound=table["bound"] | (other & (table["seed"] == 1)))
    assert not league_differences(both)["distinguished"].any()


def test_the_rank_agreement_is_spearmans() -> None:
    table = made(1)
    found = rank_agreement(table, "ramp", "limit")
    means = {name: [values(table, arch, name).mean() for arch in ARCHS] for name in MEASURES
             if name != "cost"}  # fmt: skip
    wanted = stats.spearmanr(means["ramp"], means["limit"]).statistic
    assert found["correlation"] == pytest.approx(wanted)
    assert found["architectures"] == 4
    pairs = turned = 0
    for one, other in itertools.combinations(ARCHS, 2):
        tests = [stats.ttest_rel(values(table, one, name), values(table, other, name))
                 for name in ("ramp", "limit")]  # fmt: skip
        if all(test.pvalue < 0.05 for test in tests):
            pairs += 1
            turned += tests[0].statistic * tests[1].statistic < 0
    assert (found["pairs"], found["turned"]) == (pairs, turned)


@pytest.mark.parametrize(("sign", "turned"), [(1, 0), (-1, 6)])
def test_orders_that_are_certain(sign: int, turned: int) -> None:
    rows = [
        [arch, seed, name, math.exp((sign if name == "limit" else 1) * place + 0.01 * seed), False]
        for place, arch in enumerate(ARCHS)
        for seed in range(3)
        for name in ("ramp", "limit")
    ]
    table = pd.DataFrame(rows, columns=SEED_COLUMNS)
    table["value"] += 1e-3 * np.random.default_rng(0).random(len(table))
    found = rank_agreement(table, "ramp", "limit")
    assert (found["pairs"], found["turned"]) == (6, turned)
    assert found["correlation"] == pytest.approx(sign)
    assert f"of the 6 pairs that both tell apart, {turned} change places" in (
        agreement_sentence(found)
    )
    assert agreement_sentence({**found, "pairs": 1, "turned": 1}).endswith(
        "of the 1 pair that both tell apart, 1 changes places."
    )
    assert agreement_sentence({**found, "pairs": 0, "turned": 0}).endswith(
        "no two are told apart by both."
    )
    assert (
        agreement_sentence(rank_agreement(table[table["arch"] < "peri-ln"], "ramp", "limit")) == ""
    )


def test_beside_another_league_each_is_its_own_reference() -> None:
    mine, other = made(2), made(3)
    other = other[other["arch"] != "deepnorm"]
    rows = league_beside(mine, other)
    assert set(rows["arch"]) == {*ARCHS} - {"deepnorm"}
    for row in rows.to_dict("records"):
        name = row["measure"]
        apart = values(mine, row["arch"], name) - values(other, row["arch"], name)
        wanted = math.exp(apart.mean()) if MEASURES[name].geometric else apart.mean()
        assert row["difference"] == pytest.approx(wanted)
    for row in order_kept(mine, other).to_dict("records"):
        means = [[values(league, arch, row["measure"]).mean() for arch in ARCHS[:3]]
                 for league in (mine, other)]  # fmt: skip
        assert row["correlation"] == pytest.approx(stats.spearmanr(*means).statistic)
    said = difference_sentences(rows, against="those elsewhere")
    assert said
    assert all(sentence.startswith("Against those elsewhere, the ") for sentence in said)


def test_the_figure_has_what_the_table_has(tmp_path: Path) -> None:
    table = made(4, bounds=(("peri-ln", 0, "ramp"),))
    costs = pd.DataFrame(
        [[arch, "cost", 0, 1.0 + place / 10, 0.95 + place / 10, 1.05 + place / 10, False]
         for place, arch in enumerate(ARCHS)], columns=SUMMARY_COLUMNS,
    )  # fmt: skip
    summary = summarise_league(table, costs)
    sites = pd.DataFrame(
        [["nano", 1e-3, "pre-ln", "blocks.0.attention.scores", 3, 1.0, ""]],
        columns=["size", "lr_step", "arch", "site", "runs", "share", "reason"],
    )
    differences = league_differences(table)
    figure = league_panels(summary, differences, sites)
    *columns, words = figure.axes
    assert len(columns) == len(TITLES)
    for ax, name in zip(columns, TITLES, strict=True):
        here = summary[summary["measure"] == name]["value"].tolist()
        drawn = [line for line in ax.lines if line.get_linestyle() == "None"]
        assert [float(line.get_xdata()[0]) for line in drawn] == pytest.approx(here)  # type: ignore[index]
        told = differences[(differences["measure"] == name) & differences["distinguished"]]
        filled = [line for line in drawn if line.get_markerfacecolor() != "white"]
        if name != "cost":
            assert len(filled) == 1 + len(told)
    assert [text.get_text() for text in words.texts] == ["attention.scores, layer 0 (3 of 3)"]
    plt.close(figure)
