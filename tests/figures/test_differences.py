import math
from itertools import chain

import numpy as np
import pandas as pd
import pytest
from drawn import marks, points
from matplotlib.collections import LineCollection

from gradlab.analyses.stability_table import COLUMNS
from gradlab.errors import GradlabError
from gradlab.figures.differences import lr_against_baseline
from gradlab.figures.style import LOOKS, figure_of

COLOR = LOOKS["normformer"].color
RATIOS = {"nano": [0.80, 0.81, 0.79], "micro": [0.9, 1.1, 1.0]}


def study() -> pd.DataFrame:
    rows = [
        (size, params, arch, seed, 2e-4, "loss_rise", 1, lr, False, None, lr, lr)
        for size, params in (("nano", 300_000), ("micro", 2_400_000))
        for seed, base in enumerate([0.1, 0.12, 0.11])
        for arch, lr in (("pre-ln", base), ("normformer", base * RATIOS[size][seed]))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_points_are_geometric_means_hollow_where_not_distinguished() -> None:
    ax = lr_against_baseline(study())
    hollow, filled = marks(ax, COLOR)
    assert hollow.get_markerfacecolor() == "white"
    np.testing.assert_allclose(hollow.get_ydata(), [math.prod(RATIOS["micro"]) ** (1 / 3)])
    assert filled.get_markerfacecolor() == COLOR
    np.testing.assert_allclose(filled.get_ydata(), [math.prod(RATIOS["nano"]) ** (1 / 3)])


def test_the_legend_has_the_hollow_marker_of_the_plot() -> None:
    ax = lr_against_baseline(study())
    handles, labels = ax.get_legend().legend_handles, ax.get_legend().get_texts()
    drawn = dict(zip([label.get_text() for label in labels], handles, strict=True))
    assert set(drawn) == {"NormFormer", "95 % interval", "hollow: not distinguished", "a seed"}
    hollow = next(line for line in ax.lines if line.get_markerfacecolor() == "white")
    for look in ("get_marker", "get_color", "get_markerfacecolor"):
        assert getattr(drawn["hollow: not distinguished"], look)() == getattr(hollow, look)()
    told = study()[lambda table: table["size"] == "nano"]
    texts = [text.get_text() for text in lr_against_baseline(told).get_legend().get_texts()]
    assert texts == ["95 % interval", "a seed"]


def test_every_seed_and_every_interval_is_drawn() -> None:
    ax = lr_against_baseline(study())
    seeds = points(ax, COLOR)
    np.testing.assert_allclose(sorted(seeds[:, 1]), sorted(chain(*RATIOS.values())))
    assert len(set(seeds[:, 0])) == 6, "beside each other, and beside the mean"
    bars = [found for found in ax.collections if isinstance(found, LineCollection)]
    spans = [segment[:, 1] for bar in bars for segment in bar.get_segments()]
    assert all(low < ratio < high for (low, high), ratio in zip(spans, (1.0, 0.8), strict=True))


def test_one_size_has_a_row_for_each_architecture() -> None:
    table = study()[lambda table: table["size"] == "nano"]
    ax = lr_against_baseline(table)
    figure_of(ax).draw_without_rendering()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["NormFormer"]
    np.testing.assert_allclose(sorted(points(ax, COLOR)[:, 0]), sorted(RATIOS["nano"]))
    (bar,) = [found for found in ax.collections if isinstance(found, LineCollection)]
    assert bar.get_segments()[0][:, 0].min() < 0.79 < 0.81 < bar.get_segments()[0][:, 0].max()
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "Relative LR at the break\n(Pre-LN = 0 %, log scale)"


@pytest.mark.parametrize(("size", "arrows"), [("both", "v^"), ("nano", "<>")])
def test_an_interval_that_runs_off_the_axis_has_an_arrow(size: str, arrows: str) -> None:
    table = study()
    if size != "both":
        table = table[table["size"] == size]
    two = table[table["seed"] < 2]
    two.loc[(two["arch"] == "normformer") & (two["seed"] == 1), "lr"] *= 1.5
    ax = lr_against_baseline(two)
    limits = ax.get_xlim() if size == "nano" else ax.get_ylim()
    of = "get_xdata" if size == "nano" else "get_ydata"
    ends = {line.get_marker(): line for line in ax.lines if line.get_marker() in arrows}
    assert set(ends) == set(arrows)
    for arrow, edge in zip(arrows, limits, strict=True):
        np.testing.assert_allclose(getattr(ends[arrow], of)(), edge)
    inside = lr_against_baseline(table)
    assert not [line for line in inside.lines if line.get_marker() in ("v", "^", "<", ">")]


def test_all_seeds_are_on_the_axis_and_two_seeds_do_not_stretch_it() -> None:
    table = study()
    two = table[table["seed"] < 2]
    for some in (table, two, table[table["seed"] < 1]):
        ax = lr_against_baseline(some)
        low, high = ax.get_ylim()
        seeds = points(ax, COLOR)[:, 1]
        assert low < min(seeds)
        assert max(seeds) < high
        assert math.log(high / low) < 8 * max(abs(math.log(seed)) for seed in seeds)


def test_wide_intervals_stay_on_an_axis_of_ratios() -> None:
    table = study()
    table.loc[(table["arch"] == "normformer") & (table["seed"] == 0), "lr"] *= 5
    ax = lr_against_baseline(table)
    assert ax.get_yscale() == "log"
    ticks = [tick for tick in ax.get_yticks() if ax.get_ylim()[0] <= tick <= ax.get_ylim()[1]]
    labels = [ax.yaxis.get_major_formatter()(tick) for tick in ticks]
    assert {"−50 %", "0 %", "+100 %"} <= set(labels)
    assert min(ticks) > 0


def test_equal_runs_have_an_axis_too() -> None:
    table = study().assign(lr=0.1)
    low, high = lr_against_baseline(table).get_ylim()
    assert low < 1 < high


def test_the_baseline_may_be_any_architecture() -> None:
    ax = lr_against_baseline(study(), baseline="normformer")
    ratios = 1 / np.array(list(chain(*RATIOS.values())))
    np.testing.assert_allclose(sorted(points(ax, LOOKS["pre-ln"].color)[:, 1]), sorted(ratios))
    assert "NormFormer" in ax.get_ylabel()


def test_what_cannot_be_compared_is_refused() -> None:
    table = study()
    with pytest.raises(GradlabError, match="did you mean 'pre-ln'"):
        lr_against_baseline(table, baseline="preln")
    with pytest.raises(GradlabError, match="one ramp"):
        lr_against_baseline(pd.concat([table, table.assign(lr_step=5e-5)]))
    with pytest.raises(GradlabError, match="no seed has lr for both"):
        lr_against_baseline(table[table["arch"] == "pre-ln"])
