import statistics
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drawn import joined, marks, points
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradlab.analyses.stability_table import COLUMNS
from gradlab.errors import GradlabError
from gradlab.figures.stability import AXIS_LABELS, lr_at_break, set_value_axis
from gradlab.figures.style import LOOKS, figure_of, paper_axes

SIZES = {"nano": 300_000, "micro": 2_400_000, "mini": 9_600_000}
ARCHS = ("pre-ln", "normformer")


def run(size: str, arch: str, seed: int, lr: float, **fields: Any) -> dict[str, Any]:
    reason = fields.get("reason", "loss_nonfinite")
    row = {
        "size": size,
        "params": SIZES[size] + 1000 * ARCHS.index(arch),
        "arch": arch,
        "seed": seed,
        "lr_step": 2e-4,
        "reason": reason,
        "step": 1,
        "lr": lr,
        "censored": reason == "completed",
        "first_overflow": None,
        "lr_min_loss": lr / 4,
        "lr_collapse": lr / 2,
    }
    return {**row, **fields}


def study(**fields: Any) -> pd.DataFrame:
    rows = [
        run(size, arch, seed, (0.1 + 0.01 * seed) * 3e5 / SIZES[size] ** 0.5 / 550, **fields)
        for size in SIZES
        for arch in ARCHS
        for seed in range(3)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def median_line(ax: Axes, arch: str) -> Any:
    (line,) = joined(ax, LOOKS[arch].color)
    return line


@pytest.mark.parametrize("value", AXIS_LABELS)
def test_a_line_goes_through_the_medians(value: str) -> None:
    table = study()
    ax = lr_at_break(table, value=value)
    for arch in ARCHS:
        line = median_line(ax, arch)
        mine = table[table["arch"] == arch]
        expected = [statistics.median(mine[mine["size"] == size][value]) for size in SIZES]
        np.testing.assert_allclose(line.get_ydata(), expected)
        np.testing.assert_allclose(line.get_xdata(), list(SIZES.values()), rtol=0.12)
        (bars,) = marks(ax, LOOKS[arch].color)
        np.testing.assert_allclose(bars.get_ydata(), expected)
    assert ax.get_ylabel() == f"{AXIS_LABELS[value]} (log scale)"
    assert ax.get_xlabel() == "Parameters (log scale)"
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_every_seed_is_a_point_beside_the_others() -> None:
    table = study().assign(lr=0.1)  # equal: only their places tell them apart
    ax = lr_at_break(table)
    for arch in ARCHS:
        drawn = points(ax, LOOKS[arch].color)
        assert len(drawn) == len(table[table["arch"] == arch])
        assert len(set(drawn[:, 0])) == len(drawn)
        np.testing.assert_allclose(drawn[:, 1], 0.1)
    assert {"a seed", "median"} < {text.get_text() for text in ax.get_legend().get_texts()}


@pytest.mark.parametrize(("sizes", "marker"), [(1, ">"), (3, "^")])
def test_censored_runs_and_the_medians_they_move_are_hollow_and_point_on(
    sizes: int, marker: str
) -> None:
    table = study()[lambda table: table["size"].isin(list(SIZES)[:sizes])]
    cut = (table["arch"] == "normformer") & (table["size"] == "nano") & (table["seed"] > 0)
    table.loc[cut, ["reason", "censored", "lr"]] = ["completed", True, 0.8]
    ax = lr_at_break(table)
    hollow = [x for x in marks(ax, LOOKS["normformer"].color) if x.get_marker() == marker]
    assert sorted(len(line.get_xdata()) for line in hollow) == [1, 2]
    for line in hollow:
        assert line.get_markerfacecolor() == "white"
        assert set(line.get_xdata() if sizes == 1 else line.get_ydata()) == {0.8}
    assert not [x for x in marks(ax, LOOKS["pre-ln"].color) if x.get_marker() == marker]
    assert "lower bound" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_study_in_which_no_run_broke_has_bounds_alone() -> None:
    ax = lr_at_break(study().assign(reason="completed", censored=True))
    assert not [points for points in ax.collections if len(points.get_offsets())]


def test_where_no_run_broke_the_axis_says_so() -> None:
    bounds = study().assign(reason="completed", censored=True)
    ax = lr_at_break(bounds)
    assert "at which no run broke" in ax.get_ylabel() + ax.get_xlabel()
    assert "at which no run broke" not in lr_at_break(study()).get_ylabel()


def test_failed_runs_are_not_drawn() -> None:
    table = study()
    table.loc[0, ["reason", "lr"]] = ["error", 9.0]
    ax = lr_at_break(table)
    assert points(ax, LOOKS["pre-ln"].color)[:, 1].max() < 1


def test_several_ramps_have_a_line_style_each() -> None:
    ax = lr_at_break(pd.concat([study(), study(lr_step=5e-5)]))
    drawn = joined(ax, LOOKS["pre-ln"].color)
    assert len({line.get_linestyle() for line in drawn}) == 2
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"+2e-4 a step", "+5e-5 a step"} < set(texts)


def test_one_size_has_a_row_for_each_architecture() -> None:
    table = study().query("size == 'nano'")
    ax = lr_at_break(table)
    figure_of(ax).draw_without_rendering()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Pre-LN", "NormFormer"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first on top"
    for row, arch in enumerate(ARCHS):
        rates = table[table["arch"] == arch]["lr"]
        drawn = points(ax, LOOKS[arch].color)
        assert sorted(drawn[:, 0]) == sorted(rates)
        assert np.abs(drawn[:, 1] - row).max() < 0.3
        (bar,) = marks(ax, LOOKS[arch].color)
        assert (bar.get_xdata()[0], bar.get_ydata()[0]) == (statistics.median(rates), row)
    assert ax.get_xlabel() == "Learning rate at the break\n(nano, 300 k parameters)"


def test_one_size_has_a_row_for_each_ramp() -> None:
    both = pd.concat([study(), study(lr_step=5e-5)]).query("size == 'nano'")
    labels = [label.get_text() for label in lr_at_break(both).get_yticklabels()]
    assert labels[:2] == ["Pre-LN, +2e-4 a step", "Pre-LN, +5e-5 a step"]
    assert len(labels) == 4


@pytest.mark.parametrize("sizes", [1, 3])
def test_one_seed_says_so_and_has_no_median(sizes: int) -> None:
    table = study().query("seed == 0")
    ax = lr_at_break(table[table["size"].isin(list(SIZES)[:sizes])])
    figure_of(ax).draw_without_rendering()
    texts = {text.get_text() for text in ax.get_legend().get_texts()}
    assert "one seed" in texts
    assert "median" not in texts
    assert not marks(ax, LOOKS["pre-ln"].color)


def test_tick_labels_do_not_touch() -> None:
    table = study()
    near = study().query("size == 'mini'").assign(size="mini-2")
    near["params"] = 10_400_000
    ax = lr_at_break(pd.concat([table, near]))
    figure_of(ax).draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert len(boxes) == 3
    for left, right in pairwise(boxes):
        assert left.x1 < right.x0


def test_the_legend_is_over_no_data_and_inside_the_figure() -> None:
    ax = lr_at_break(study())
    figure = figure_of(ax)
    figure.draw_without_rendering()
    box = ax.get_legend().get_window_extent()
    assert box.y0 > ax.bbox.y1
    assert box.x1 <= figure.bbox.x1


def test_draws_on_given_axes() -> None:
    ax = paper_axes()
    assert lr_at_break(study(), ax=ax) is ax


def test_a_study_without_results_is_refused() -> None:
    with pytest.raises(GradlabError, match="nothing to draw"):
        lr_at_break(study().iloc[:0])
    with pytest.raises(GradlabError, match="lr_collapse: there is nothing"):
        lr_at_break(study(lr_collapse=None), value="lr_collapse")
    with pytest.raises(GradlabError, match="should be one of"):
        lr_at_break(study(), value="loss")


@pytest.mark.parametrize("sizes", [1, 3])
def test_eight_architectures_stay_on_the_axis(sizes: int) -> None:
    archs = [f"mine {number}" for number in range(8)]
    rows = [
        {**run(size, "pre-ln", 0, 0.1 + 0.01 * place), "arch": arch}
        for size in list(SIZES)[:sizes]
        for place, arch in enumerate(archs)
    ]
    ax = lr_at_break(pd.DataFrame(rows, columns=list(COLUMNS)))
    low, high = sorted(ax.get_ylim() if sizes == 1 else ax.get_xlim())
    (drawn,) = [found for found in ax.collections if len(found.get_offsets())]
    places = drawn.get_offsets()[:, 1 if sizes == 1 else 0]
    assert low < min(places) < max(places) < high
    assert len(places) == 8 * sizes
    figure = ax.get_figure(root=True)
    figure.draw_without_rendering()
    # However many rows the legend has, the axes keep their height.
    assert ax.get_window_extent().height > 1.5 * figure.dpi


@pytest.mark.parametrize("decades", [0.65, 1, 2, 2.5, 4, 7, 12, 20])
def test_an_axis_over_many_decades_or_few_has_numbers(decades: float) -> None:
    figure = Figure()
    for low in (1e-9, 3e-7, 0.2, 7.0, 900.0):
        ax = figure.add_subplot()
        set_value_axis(ax, pd.Series([low, low * 10**decades]))
        assert 2 <= len(_shown(ax)) <= 10
        ax.remove()


def _shown(ax: Axes) -> list[float]:
    least, most = ax.get_ylim()
    return [tick for tick in ax.get_yticks() if least <= tick <= most]
