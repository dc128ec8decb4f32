import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drawn import joined, points
from matplotlib.axes import Axes

from gradlab.analyses.final_losses import COLUMNS
from gradlab.errors import GradlabError
from gradlab.figures.lr_search import loss_by_rate
from gradlab.figures.save import rendered
from gradlab.figures.style import LOOKS, figure_of, paper_axes

RATES = (1e-3, 2e-3, 4e-3, 8e-3, 0.016, 0.032, 0.064, 0.128)
BEST = {"pre-ln": 4e-3, "normformer": 8e-3}
FIRST = 5.6


def study(seeds: int = 3, rates: tuple[float, ...] = RATES) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for arch, best in BEST.items():
        for seed in range(seeds):
            for lr in rates:
                diverged = lr > 8 * best or (lr == 8 * best and seed == 1)
                loss = 2.4 + 0.25 * math.log2(lr / best) ** 2 / 2 + 0.05 * rng.normal()
                reason = "loss_rise" if diverged else "completed"
                val_loss = math.nan if diverged else loss
                rows.append(["nano", arch, seed, lr, 300, reason, FIRST, val_loss, 9.0])
    return pd.DataFrame(rows, columns=COLUMNS)


def marked(ax: Axes, arch: str, marker: str) -> Any:
    color = LOOKS[arch].color
    (found,) = [
        x for x in ax.lines if x.get_marker() == marker and color in (x.get_color(), x.get_mec())
        and x.get_linestyle() == "None"
    ]  # fmt: skip
    return found


def line_of(ax: Axes, arch: str) -> Any:
    (found,) = joined(ax, LOOKS[arch].color)
    return found


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_line_is_the_mean_of_what_runs_enter_with() -> None:
    table = study()
    ax = loss_by_rate(table)
    for arch in BEST:
        x, y = line_of(ax, arch).get_data()
        np.testing.assert_allclose(x, RATES, rtol=0.06)
        entered = table.assign(entered=table["val_loss"].fillna(FIRST))
        entered = entered[entered["arch"] == arch].groupby("lr")["entered"].mean()
        np.testing.assert_allclose(y, entered.to_numpy())
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "Peak learning rate (log scale)"
    assert ax.get_ylabel() == "Validation loss (nats a token)"


def test_every_run_is_a_point_and_a_diverged_one_a_cross() -> None:
    table = study()
    ax = loss_by_rate(table)
    for arch in BEST:
        here = table[table["arch"] == arch]
        diverged = here[here["reason"] != "completed"]
        crosses, drawn = marked(ax, arch, "x"), points(ax, LOOKS[arch].color)[:, 1]
        assert len(crosses.get_ydata()) == len(diverged) > 0
        assert set(crosses.get_ydata()) == {FIRST}
        assert set(here["val_loss"].dropna()) < set(drawn)
        means = (diverged["lr"].value_counts() < 3).sum() + (8 - diverged["lr"].nunique())
        assert len(drawn) == here["val_loss"].count() + means
    assert set(legend(ax)) == {"Pre-LN", "NormFormer", "a seed", "best rate", "diverged"}


def test_a_ring_marks_the_best_rate() -> None:
    ax = loss_by_rate(study())
    for arch, best in BEST.items():
        (x,) = marked(ax, arch, "o").get_xdata()
        assert x == pytest.approx(best, rel=0.06)


def test_architectures_stand_beside_each_other() -> None:
    ax = loss_by_rate(study())
    first, second = (line_of(ax, arch).get_xdata() for arch in BEST)
    assert (second > first).all()
    ticks = [tick for tick in ax.get_xticks() if tick in RATES]
    assert len(ticks) == len(ax.get_xticks()) >= 4


def test_nothing_diverged_and_one_rate() -> None:
    ax = loss_by_rate(study(seeds=1, rates=(4e-3,)))
    assert "diverged" not in legend(ax)
    low, high = ax.get_xlim()
    assert low < 4e-3 < high


def test_an_architecture_that_always_diverges_has_no_ring() -> None:
    table = study()
    table.loc[table["arch"] == "pre-ln", ["reason", "val_loss"]] = ["loss_rise", math.nan]
    ax = loss_by_rate(table)
    assert len(marked(ax, "pre-ln", "o").get_xdata()) == 0
    assert len(marked(ax, "pre-ln", "x").get_xdata()) == 3 * len(RATES)


def test_a_search_in_which_every_run_diverged_has_crosses_alone() -> None:
    losses = study().assign(reason="loss_rise", val_loss=math.nan)
    ax = loss_by_rate(losses)
    assert sum(len(x.get_xdata()) for x in ax.lines if x.get_marker() == "x") >= len(losses)
    assert not ax.collections


def test_nothing_to_draw_is_a_sentence() -> None:
    with pytest.raises(GradlabError, match="no run of this search has ended"):
        loss_by_rate(study().assign(reason="error"))


def test_it_draws_where_it_is_told_and_the_same_twice() -> None:
    ax = paper_axes()
    assert loss_by_rate(study(), ax=ax) is ax
    again = loss_by_rate(study())
    assert rendered(figure_of(ax), "svg") == rendered(figure_of(again), "svg")
