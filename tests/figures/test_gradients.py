import math
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drawn import joined
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from gradlab.errors import GradlabError
from gradlab.figures.gradients import gradient_by_layer, gradient_panels
from gradlab.figures.save import save
from gradlab.figures.style import LOOKS, figure_of, paper_axes

FALLS = {"post-ln": -0.6, "pre-ln": 1.6, "normformer": 1.3}
STEPS = {"early": (100, 149), "late": (250, 299)}


def study(n_layers: int = 12, seeds: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {
            "arch": arch,
            "seed": seed,
            "window": window,
            "first": first,
            "last": last,
            "n_layers": n_layers,
            "op": op,
            "layer": layer,
            "grad_l1": math.exp(3 - falls * layer / n_layers) * rng.lognormal(sigma=0.1),
        }
        for arch, falls in FALLS.items()
        for seed in range(seeds)
        for window, (first, last) in STEPS.items()
        for op in ("q", "fc2")
        for layer in range(n_layers)
    ]
    return pd.DataFrame(rows)


def line(ax: Axes, arch: str) -> Any:
    (found,) = joined(ax, LOOKS[arch].color)
    return found


def rows_of(table: pd.DataFrame, arch: str, window: str, op: str = "fc2") -> Any:
    here = table[(table["arch"] == arch) & (table["window"] == window) & (table["op"] == op)]
    return here.pivot(index="layer", columns="seed", values="grad_l1").to_numpy()


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize("window", ["early", "late"])
@pytest.mark.parametrize("op", ["fc2", "q"])
def test_a_line_is_the_mean_over_seeds_of_each_layer(window: str, op: str) -> None:
    table = study()
    ax = gradient_by_layer(table, op=op, window=window)
    assert len(ax.lines) == len(FALLS)
    for place, arch in enumerate(FALLS):
        layers, means = line(ax, arch).get_data()
        np.testing.assert_allclose(layers, np.arange(12) + 0.1 * (place - 1))
        np.testing.assert_allclose(means, rows_of(table, arch, window, op).mean(axis=1))
        assert line(ax, arch).get_marker() == LOOKS[arch].marker


def test_a_band_is_the_range_over_seeds() -> None:
    table = study()
    ax = gradient_by_layer(table, window="late")
    bands = {to_hex(band.get_facecolor()[0]): band for band in ax.collections}
    for arch in FALLS:
        (path,) = bands[to_hex(LOOKS[arch].color)].get_paths()
        values = rows_of(table, arch, "late")
        for layer in range(12):
            edges = path.vertices[np.abs(path.vertices[:, 0] - layer) < 0.11, 1]
            assert edges.min() == pytest.approx(values[layer].min())
            assert edges.max() == pytest.approx(values[layer].max())


def test_the_labels_say_what_is_drawn() -> None:
    ax = gradient_by_layer(study())
    assert ax.get_xlabel() == "Layer"
    label = "Mean L1 norm of the gradient,\nsecond FFN weight"
    assert ax.get_ylabel() == f"{label} (log scale)"
    assert gradient_by_layer(study().assign(grad_l1=2.0)).get_ylabel() == label
    assert "q weight" in gradient_by_layer(study(), op="q").get_ylabel()
    assert set(legend(ax)) == {"Post-LN", "Pre-LN", "NormFormer", "range of seeds"}
    assert "range of seeds" not in legend(gradient_by_layer(study(seeds=1)))


def test_the_axis_is_logarithmic_where_gradients_differ_much() -> None:
    assert gradient_by_layer(study()).get_yscale() == "log"
    assert gradient_by_layer(study().assign(grad_l1=2.0)).get_yscale() == "linear"
    some = study()
    some.loc[some["layer"] == 0, "grad_l1"] = 0.0
    assert gradient_by_layer(some).get_yscale() == "linear"


def test_all_layers_and_seeds_are_inside() -> None:
    table = study()
    for ax in gradient_panels(table).axes:
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        assert left < 0 < 11 < right
        values = table.loc[table["op"] == "fc2", "grad_l1"]
        assert low < values.min() < values.max() < high


def test_ticks_are_layers_and_deep_models_have_few_markers() -> None:
    ax = gradient_by_layer(study(n_layers=32))
    figure_of(ax).draw_without_rendering()
    assert all(tick == round(tick) for tick in ax.get_xticks())
    assert line(ax, "pre-ln").get_markevery() == 3
    assert line(gradient_by_layer(study()), "pre-ln").get_markevery() == 1


@pytest.mark.parametrize("n_layers", [1, 4, 12, 48])
@pytest.mark.parametrize("seeds", [1, 3])
def test_any_depth_can_be_drawn(n_layers: int, seeds: int) -> None:
    figure = gradient_panels(study(n_layers, seeds))
    figure.draw_without_rendering()
    for ax in figure.axes:
        labels = [label.get_window_extent() for label in ax.get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in pairwise(labels))
        assert all(len(line(ax, arch).get_xdata()) == n_layers for arch in FALLS)
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 > 0.05 * figure.dpi, "not flush with the edge"


def test_a_layer_without_a_finite_gradient_is_a_gap() -> None:
    table = study()
    table.loc[table["layer"] == 4, "grad_l1"] = math.nan
    before, after = joined(gradient_by_layer(table), LOOKS["pre-ln"].color)
    assert np.round(before.get_xdata()).tolist() == [0, 1, 2, 3]
    assert np.round(after.get_xdata()).tolist() == [5, 6, 7, 8, 9, 10, 11]


def test_an_architecture_without_a_finite_gradient_is_not_drawn() -> None:
    table = study()
    table.loc[(table["arch"] == "post-ln") & (table["window"] == "late"), "grad_l1"] = math.nan
    early, late = gradient_panels(table).axes
    assert [len(joined(ax, LOOKS["post-ln"].color)) for ax in (early, late)] == [1, 0]


def test_panels_are_the_windows_on_one_scale() -> None:
    table = study()
    figure = gradient_panels(table)
    figure.draw_without_rendering()
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["Early: steps 100–149", "Late: steps 250–299"]
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    for ax, window in zip(figure.axes, STEPS, strict=True):
        means = line(ax, "normformer").get_ydata()
        np.testing.assert_allclose(means, rows_of(table, "normformer", window).mean(axis=1))
    (found,) = figure.legends
    assert [text.get_text() for text in found.get_texts()][:3] == [
        LOOKS[arch].label for arch in FALLS
    ]


def test_draws_on_given_axes() -> None:
    ax = paper_axes()
    assert gradient_by_layer(study(), ax=ax) is ax


def test_the_files_are_the_same_each_time(tmp_path: Any) -> None:
    first, second = (save(gradient_panels(study()), tmp_path / name) for name in "ab")
    assert [file.suffix for file in first] == [".png", ".pdf"]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_what_cannot_be_drawn_is_refused() -> None:
    table = study()
    with pytest.raises(GradlabError, match="unknown op 'fc3': did you mean 'fc2'"):
        gradient_by_layer(table, op="fc3")
    with pytest.raises(GradlabError, match="unknown window 'middle'"):
        gradient_by_layer(table, window="middle")
    with pytest.raises(GradlabError, match="nothing to draw"):
        gradient_panels(table.assign(grad_l1=math.nan))
