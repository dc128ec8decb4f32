import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.text import Text

from gradlab.errors import GradlabError
from gradlab.figures.depth import states_against_depth
from gradlab.figures.entropy_courses import entropy_over_steps

NAMES = ("variance", "low", "high", "cosine", "cka", "first_branch", "last_branch", "drift")


def states(arch: str, factor: float, layers: int = 4) -> pd.DataFrame:
    rows = [
        {"arch": arch, "step": step, "layer": layer}
        | {name: factor * (1 + step + layer + place) for place, name in enumerate(NAMES)}
        for step in (0, 10)
        for layer in range(layers)
    ]
    return pd.DataFrame(rows)


def is_dashed(line) -> bool:
    return line.get_linestyle() != "-"


def test_a_solid_line_at_the_end_and_a_dashed_one_at_the_start() -> None:
    table = pd.concat([states("pre-ln", 1.0), states("post-ln", 0.5)], ignore_index=True)
    figure = states_against_depth(table)
    axes = figure.axes
    assert len(axes) == 6
    for ax, name in zip(axes, ["variance", "cosine", "cka", "first_branch"], strict=False):
        drawn = [np.asarray(line.get_ydata(), float) for line in ax.lines]
        for arch in ("pre-ln", "post-ln"):
            for step in (0, 10):
                rows = table[(table["arch"] == arch) & (table["step"] == step)]
                assert any(np.allclose(line, rows[name]) for line in drawn)
        styles = {is_dashed(line) for line in ax.lines}
        assert styles == {True, False}
    assert not any(is_dashed(line) for line in axes[5].lines)  # the drift is over all steps
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[2:] == ["step 0", "step 10", "Pre-LN at Xavier, theory"]
    plt.close(figure)


def test_what_was_not_seen_is_said() -> None:
    table = states("pre-ln", 1.0).assign(first_branch=np.nan, last_branch=np.nan)
    figure = states_against_depth(table, title="Pre-LN")
    words = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert len(words) == 2
    plt.close(figure)
    nothing = table.assign(**dict.fromkeys(NAMES, np.nan))
    with pytest.raises(GradlabError, match="nothing to draw"):
        states_against_depth(nothing)


def test_a_line_a_head() -> None:
    rows = [
        {"site": f"blocks.{layer}.attention", "layer": layer, "head": head, "step": step}
        for layer in range(2)
        for head in range(3)
        for step in range(4)
    ]
    table = pd.DataFrame(rows).assign(value=0.5, lost=False)
    figure = entropy_over_steps(table)
    panels = [ax for ax in figure.axes if ax.get_title("left").startswith("layer")]
    assert [len(ax.lines) for ax in panels] == [3, 3]
    collapsed = table.assign(value=[10.0**-place for place in range(len(table))])
    for ax in entropy_over_steps(collapsed).axes[:2]:
        assert ax.get_yscale() == "linear"
        assert ax.get_ylim()[0] < 0 < 1 < ax.get_ylim()[1]
    plt.close("all")


@pytest.mark.parametrize("layers", [1, 2, 24])
def test_titles_do_not_touch_and_are_whole(layers: int) -> None:
    table = states("pre-ln", 1.0, layers)
    wide = table["step"].map({0: 1e-7, 10: 1e9})  # long numbers leave the least room
    table[["variance", "first_branch", "last_branch"]] *= wide.to_numpy()[:, None]
    table["drift"] *= 10.0 ** table["layer"]
    figure = states_against_depth(table, title="Hidden states")
    figure.draw_without_rendering()
    assert sum(ax.get_yscale() == "log" for ax in figure.axes) >= (3 if layers == 1 else 4)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    texts = {text.get_text(): text for text in figure.findobj(Text)}
    boxes = [texts[title].get_window_extent() for title in titles]
    for place, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert place % 3 == 0 or boxes[place - 1].x1 < box.x0
    plt.close(figure)
