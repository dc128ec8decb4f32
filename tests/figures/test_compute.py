import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drawn import joined
from matplotlib.axes import Axes

from gradlab.errors import GradlabError
from gradlab.figures.compute import perplexity_by_compute, perplexity_panels
from gradlab.figures.style import LOOKS, figure_of, paper_axes


def curves(
    losses: dict[str, list[float]], sizes: tuple[str, ...] = ("nano",), seeds: int = 2
) -> pd.DataFrame:
    """Seeds ±0.1 nats around the losses; a point every 2e12 FLOPs."""
    rows = [
        {
            "size": size,
            "arch": arch,
            "seed": seed,
            "step": point,
            "tokens": 1000 * (point + 1),
            "flops": 2e12 * (point + 1),
            "seconds": 3600.0 * (point + 1),
            "val_loss": loss + 0.2 * (seed - (seeds - 1) / 2),
            "perplexity": math.exp(loss + 0.2 * (seed - (seeds - 1) / 2)),
        }
        for size in sizes
        for arch, of_arch in losses.items()
        for seed in range(seeds)
        for point, loss in enumerate(of_arch)
    ]
    return pd.DataFrame(rows)


LOSSES = {"pre-ln": [4.0, 3.0, 2.0, 1.8], "normformer": [3.8, 2.5, 1.7, 1.5]}


def line(ax: Axes, arch: str) -> Any:
    (found,) = [x for x in joined(ax, LOOKS[arch].color) if len(x.get_xdata()) > 2]
    return found


def stars(ax: Axes) -> list[tuple[float, float]]:
    return [(s.get_xdata()[0], s.get_ydata()[0]) for s in ax.lines if s.get_marker() == "*"]


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_line_is_the_perplexity_of_the_mean_loss() -> None:
    ax = perplexity_by_compute(curves(LOSSES))
    for arch, losses in LOSSES.items():
        x, y = line(ax, arch).get_data()
        assert list(x) == [2, 4, 6, 8]
        np.testing.assert_allclose(y, np.exp(losses))
    (path,) = ax.collections[0].get_paths()
    first = path.vertices[path.vertices[:, 0] == 2, 1]
    np.testing.assert_allclose([first.min(), first.max()], np.exp([3.9, 4.1]))


def test_a_star_stands_where_the_best_is_first_reached() -> None:
    ax = perplexity_by_compute(curves(LOSSES))
    np.testing.assert_allclose(stars(ax), [(6, math.exp(1.7))])
    assert "first as low" in texts(ax)
    other = perplexity_by_compute(curves(LOSSES), baseline="normformer")
    assert stars(other) == []
    assert set(texts(other)) == {"Pre-LN", "NormFormer", "NormFormer's best", "range of seeds"}
    (best,) = [x for x in ax.lines if len(set(x.get_ydata())) == 1 and x.get_marker() != "*"]
    assert best.get_ydata()[0] == pytest.approx(math.exp(1.8))


@pytest.mark.parametrize(
    ("compute", "label", "last"),
    [
        ("flops", "Training compute (10¹² FLOP)", 8),
        ("seconds", "Training time (hours)", 4),
        ("tokens", "Training tokens (thousand)", 4),
    ],
)
def test_the_axis_names_its_unit(compute: str, label: str, last: float) -> None:
    ax = perplexity_by_compute(curves(LOSSES), compute=compute)
    assert ax.get_xlabel() == label
    assert ax.get_ylabel() == "Validation perplexity (log scale)"
    assert line(ax, "pre-ln").get_xdata()[-1] == pytest.approx(last)
    assert ax.get_yscale() == "log"


def test_sizes_have_dashes_and_a_baseline_each() -> None:
    ax = perplexity_by_compute(curves(LOSSES, ("nano", "micro")))
    assert len(stars(ax)) == 2
    mine = [x for x in joined(ax, LOOKS["pre-ln"].color) if len(x.get_xdata()) > 2]
    assert {x.get_linestyle() for x in mine} == {"-", "--"}
    assert {"nano", "micro"} <= set(texts(ax))


def test_the_mean_ends_where_a_seed_does() -> None:
    table = curves(LOSSES)
    broken = (table["arch"] == "pre-ln") & (table["seed"] == 1) & (table["step"] > 1)
    table.loc[broken, ["val_loss", "perplexity"]] = math.nan
    ax = perplexity_by_compute(table)
    (mine,) = [x for x in joined(ax, LOOKS["pre-ln"].color) if x.get_marker() == "o"]
    assert list(mine.get_xdata()) == [2, 4]
    np.testing.assert_allclose(stars(ax), [(4, math.exp(2.5))])


def test_a_single_validation_is_a_point() -> None:
    ax = perplexity_by_compute(curves({"pre-ln": [2.0], "normformer": [2.5]}, seeds=1))
    figure_of(ax).draw_without_rendering()
    marks = [x.get_marker() for x in ax.lines if len(x.get_xdata()) == 1]
    assert marks == [LOOKS["pre-ln"].marker, LOOKS["normformer"].marker]


def test_the_marker_of_an_early_validation_is_whole() -> None:
    ax = perplexity_by_compute(curves({"pre-ln": [3.0] * 100, "normformer": [2.5] * 100}))
    figure = figure_of(ax)
    figure.draw_without_rendering()
    first = min(min(line.get_xdata()) for line in ax.lines if line.get_marker() == "o")
    (at, _), (edge, _) = ax.transData.transform([(first, 3.0), (ax.get_xlim()[0], 3.0)])
    assert at - edge > 2 * figure.dpi / 72  # half of the marker


def test_the_last_third_has_a_scale_of_its_own() -> None:
    table = curves({"pre-ln": [4.0, 3.0, 2.0, 1.8], "normformer": [4.0, 3.0, 2.01, 1.81]})
    figure = perplexity_panels(table)
    figure.draw_without_rendering()
    whole, end = figure.axes
    assert 4 < end.get_xlim()[0] < 6 < 8 < end.get_xlim()[1]
    last = table[table["flops"] >= 6e12]["perplexity"]
    low, high = end.get_ylim()
    assert low < last.min() < last.max() < high < table["perplexity"].max()
    for ax in figure.axes:
        for arch in LOSSES:
            assert len(line(ax, arch).get_xdata()) == 4
        assert ax.get_xlabel() == "Training compute (10¹² FLOP)"
    # What lies between the two ends is seen better by far.
    gaps = [np.ptp(ax.transData.transform([(8, np.exp(1.8)), (8, np.exp(1.81))])[:, 1])
            for ax in (whole, end)]  # fmt: skip
    assert gaps[1] > 1.5 * gaps[0]
    legend = figure.legends[0].get_window_extent()
    assert all(legend.y0 > ax.get_window_extent().y1 for ax in figure.axes)


@pytest.mark.parametrize("points", [1, 2, 48])
@pytest.mark.parametrize("seeds", [1, 3])
def test_panels_of_few_and_many_validations(points: int, seeds: int) -> None:
    losses = {"pre-ln": np.linspace(4, 2, points), "normformer": np.linspace(4, 2.1, points)}
    perplexity_panels(
        curves({arch: of.tolist() for arch, of in losses.items()}, seeds=seeds)
    ).draw_without_rendering()


def test_without_a_finite_last_third_there_is_no_second_panel() -> None:
    table = curves(LOSSES)
    table.loc[table["step"] > 0, ["val_loss", "perplexity"]] = math.nan
    figure = perplexity_panels(table)
    figure.draw_without_rendering()
    assert [ax.get_visible() for ax in figure.axes] == [True, False]


def test_the_legend_covers_no_data() -> None:
    names = {f"variant {number}": [3.0, 2.0, 1.0] for number in range(8)}
    ax = perplexity_by_compute(curves(names))
    figure_of(ax).draw_without_rendering()
    assert ax.get_legend().get_window_extent().y0 > ax.get_window_extent().y1


def test_what_cannot_be_drawn_is_refused() -> None:
    table = curves(LOSSES)
    with pytest.raises(GradlabError, match="unknown compute 'days'"):
        perplexity_by_compute(table, compute="days")
    with pytest.raises(GradlabError, match="unknown baseline 'prel-n'"):
        perplexity_by_compute(table, baseline="prel-n")
    with pytest.raises(GradlabError, match="nothing to draw"):
        perplexity_by_compute(table.assign(val_loss=math.nan, perplexity=math.nan))


def test_draws_on_given_axes() -> None:
    ax = paper_axes()
    assert perplexity_by_compute(curves(LOSSES), ax=ax) is ax
