import statistics
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from gradlab.analyses.stability_table import COLUMNS
from gradlab.errors import GradlabError
from gradlab.figures.stability import AXIS_LABELS, lr_at_break
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


def lines(ax: Axes, arch: str) -> list[Any]:
    color = to_hex(LOOKS[arch].color)
    return [
        line for line in ax.lines if to_hex(line.get_color()) == color and len(line.get_xdata())
    ]


def median_line(ax: Axes, arch: str) -> Any:
    (line,) = [line for line in lines(ax, arch) if line.get_linestyle() != "None"]
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
        np.testing.assert_allclose(line.get_xdata(), list(SIZES.values()), rtol=0.05)
    assert ax.get_ylabel() == AXIS_LABELS[value]
    assert ax.get_xlabel() == "Parameters"
    assert ax.get_xscale() == "log"


def test_every_seed_is_a_faint_point() -> None:
    table = study()
    ax = lr_at_break(table)
    for arch in ARCHS:
        (faint,) = [line for line in lines(ax, arch) if (line.get_alpha() or 1) < 1]
        assert sorted(faint.get_ydata()) == sorted(table[table["arch"] == arch]["lr"])


def test_censored_runs_and_the_medians_they_move_are_hollow_and_point_up() -> None:
    table = study()
    cut = (table["arch"] == "normformer") & (table["size"] == "nano") & (table["seed"] > 0)
    table.loc[cut, ["reason", "censored", "lr"]] = ["completed", True, 0.8]
    ax = lr_at_break(table)
    hollow = [line for line in lines(ax, "normformer") if line.get_marker() == "^"]
    assert sorted(len(line.get_xdata()) for line in hollow) == [1, 2]
    for line in hollow:
        assert line.get_markerfacecolor() in ("none", "white")
        assert set(line.get_ydata()) == {0.8}
    assert not [line for line in lines(ax, "pre-ln") if line.get_marker() == "^"]
    assert "lower bound" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_failed_runs_are_not_drawn() -> None:
    table = study()
    table.loc[0, ["reason", "lr"]] = ["error", 9.0]
    ax = lr_at_break(table)
    assert max(max(line.get_ydata()) for line in lines(ax, "pre-ln")) < 1


def test_several_ramps_have_a_line_style_each() -> None:
    ax = lr_at_break(pd.concat([study(), study(lr_step=5e-5)]))
    drawn = [line for line in lines(ax, "pre-ln") if line.get_linestyle() != "None"]
    assert len({line.get_linestyle() for line in drawn}) == 2
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"+2e-4 a step", "+5e-5 a step"} < set(texts)


def test_one_size_and_one_seed_draw_points_side_by_side() -> None:
    table = study().query("size == 'nano' and seed == 0")
    ax = lr_at_break(table)
    figure_of(ax).draw_without_rendering()
    places = [ax.transData.transform((lines(ax, arch)[0].get_xdata()[0], 1))[0] for arch in ARCHS]
    assert places[1] - places[0] > 0.05 * ax.bbox.width


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
    low, high = ax.get_xlim()
    places = [x for line in ax.lines for x in line.get_xdata()]
    assert low < min(places) < max(places) < high
    figure = ax.get_figure(root=True)
    figure.draw_without_rendering()
    # However many rows the legend has, the axes keep their height.
    assert ax.get_window_extent().height > 1.5 * figure.dpi
