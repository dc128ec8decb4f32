from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import nn

from gradlab.errors import GradlabError
from gradlab.figures.blocks import block_diagram, block_panels
from gradlab.figures.save import save
from gradlab.figures.style import LOOKS, TWO_COLUMNS, figure_of, paper_axes
from gradlab.models.build import build_model
from gradlab.models.config import ModelConfig
from gradlab.models.presets import ARCHITECTURES, model_config

ADDED = to_hex(LOOKS["normformer"].color)


def combinations() -> Iterator[dict[str, Any]]:
    """Every combination of the switches that stand in a layer."""
    places = ("pre", "post")
    scales = ("none", "heads", "output")
    lambdas = ("none", "ffn", "both", "ffn-scalar", "both-scalar")
    onoff = (False, True)
    for values in product(places, scales, onoff, onoff, onoff, lambdas):
        names = ["placement", "head_scale", "attn_out_norm", "ffn_mid_norm", "qkv_norm"]
        yield dict(zip([*names, "res_scale"], values, strict=True))


SOME = list(combinations())[::7]
"""7 divides none of the numbers of choices: every choice meets every other."""


OTHERS: list[dict[str, Any]] = [
    *(fields for arch, fields in ARCHITECTURES.items() if arch != "mix-ln"),
    {"norm": "scalenorm", "attn_out_norm": True, "ffn_out_norm": True, "embed_norm": True},
    {"placement": "hybrid", "qk_norm": "heads", "logit_cap": 30.0, "ffn_mid_norm": True},
    {"placement": "none", "qk_norm": "width", "branch_scale": "layerscale"},
    {"ln_scaling": True, "branch_scale": "layerscale", "score_cap": 50.0},
]


def small(**overrides: Any) -> ModelConfig:
    return model_config("pre-ln", "nano", n_layers=1, d_model=8, d_ff=8, n_heads=2, **overrides)


def boxes(ax: Axes) -> list[tuple[float, str]]:
    """(height, op) of everything that computes, from the input upwards."""
    found = [
        (patch.get_y() + patch.get_height() / 2, str(patch.get_label()))
        for patch in ax.patches
        if isinstance(patch, Rectangle)
    ]
    found += [(float(line.get_ydata()[0]), str(line.get_label())) for line in ax.lines]
    return sorted((round(height, 6), op) for height, op in found if op and not op.startswith("_"))


def ops(ax: Axes) -> list[str]:
    return [op for _, op in boxes(ax)]


def added(ax: Axes) -> list[str]:
    return [
        str(patch.get_label()) for patch in ax.patches if to_hex(patch.get_facecolor()) == ADDED
    ]


def words(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def order_of_execution(config: ModelConfig) -> list[str]:
    """The operations of a model's only layer and its final norm, in the order in which they run."""
    model = build_model(config, seed=0)
    seen: list[str] = []

    def note(name: str) -> Any:
        return lambda *_: seen.append(name)

    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if not isinstance(module, nn.Identity) and not list(module.children()):
            module.register_forward_hook(note(last))
    model(torch.zeros(1, 4, dtype=torch.long))
    around = ("embed", "positions", "unembed", "softmax", "context")
    return [name for name in seen if name not in around]


@pytest.mark.parametrize("fields", [*SOME, *OTHERS], ids=str)
def test_a_diagram_has_the_operations_of_the_model_in_their_order(fields: dict[str, Any]) -> None:
    config = small(**fields)
    on_the_skip = ("lambda_resid", "skip_scale")
    shown = [op for op in ops(block_diagram(config)) if op not in on_the_skip]
    run = order_of_execution(config)
    assert len(shown) == len(run)
    side_by_side = {"q": "qkv", "k": "qkv", "v": "qkv"}
    side_by_side |= {f"{name}_norm": "qkv_norm" for name in "qkv"}
    # q, k and v are computed one after the other, each with its norm, and drawn beside each other.
    assert sorted(shown) == sorted(run)
    first = run.index("q")
    last = run.index("scores")
    assert shown[:first] + shown[last:] == run[:first] + run[last:]
    beside = [side_by_side[op] for op in shown[first:last]]
    assert beside == sorted(beside)


@pytest.mark.parametrize("fields", SOME, ids=str)
def test_what_the_plain_blocks_lack_is_marked(fields: dict[str, Any]) -> None:
    config = small(**fields)
    expected = ["head_scale"] * (config.head_scale != "none")
    expected += ["attn_out_norm"] * config.attn_out_norm + ["ffn_mid_norm"] * config.ffn_mid_norm
    expected += ["q_norm", "k_norm", "v_norm"] * config.qkv_norm
    lambdas = 0 if config.res_scale == "none" else 1 + config.res_scale.startswith("both")
    ax = block_diagram(config)
    assert sorted(added(ax)) == sorted(expected + ["lambda_resid"] * lambdas)
    assert (ax.get_legend() is not None) == bool(expected or lambdas)
    figure_of(ax).clear()


def test_the_marked_ones_are_readable_in_grey() -> None:
    def grey(color: Any) -> float:
        return sum(w * c for w, c in zip((0.299, 0.587, 0.114), to_rgb(color), strict=True))

    ax = block_diagram(model_config("normformer", "nano"))
    plain = [p for p in ax.patches if p.get_label() == "attn_norm"]
    marked = [p for p in ax.patches if p.get_label() == "attn_out_norm"]
    assert grey(plain[0].get_facecolor()[:3]) - grey(marked[0].get_facecolor()[:3]) > 0.4
    (text,) = {t.get_color() for t in ax.texts if t.get_text() == "Head scale γ"}
    assert text == "white"


def test_the_norm_stands_before_the_sublayer_or_after_the_sum() -> None:
    pre = ops(block_diagram(model_config("pre-ln", "nano")))
    post = ops(block_diagram(model_config("post-ln", "nano")))
    assert pre[0] == "attn_norm"
    assert pre[-1] == "final_norm"
    assert post.index("attn_norm") == post.index("attn_residual") + 1
    assert post[-2:] == ["ffn_residual", "ffn_norm"]


def test_the_final_norm_is_outside_the_frame() -> None:
    ax = block_diagram(model_config("pre-ln", "nano"))
    (frame,) = [p for p in ax.patches if isinstance(p, Rectangle) and p.get_width() == 1]
    bottom, top = frame.get_y(), frame.get_y() + frame.get_height()
    inside = {op: bottom < height < top for height, op in boxes(ax)}
    assert [op for op, within in inside.items() if not within] == ["final_norm"]


def test_lambda_stands_on_the_residual_stream() -> None:
    ax = block_diagram(small(res_scale="both"))
    scaled = [p for p in ax.patches if p.get_label() == "lambda_resid"]
    # The streams past a sublayer are the lines that go sideways and then up.
    skips = [line.get_xydata() for line in ax.lines if len(line.get_xydata()) == 3]
    assert len(scaled) == len(skips) == 2
    for box, skip in zip(scaled, skips, strict=True):
        (_, (_, low), (x, high)) = skip
        assert box.get_x() + box.get_width() / 2 == pytest.approx(x)
        assert low < box.get_y() < box.get_y() + box.get_height() < high


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"norm": "rmsnorm"}, "RMSNorm"),
        ({"activation": "relu2"}, "ReLU²"),
        ({"activation": "geglu"}, "GeGLU"),
        ({"res_scale": "ffn"}, "λ ⊙"),
        ({"res_scale": "ffn-scalar"}, "λ ·"),
        ({"qkv_norm": True}, "LN"),
        ({"qkv_norm": True, "norm": "rmsnorm"}, "RMS"),
        ({}, "2 heads"),
        ({}, "× 1"),
    ],
    ids=str,
)
def test_the_words_are_the_configs(fields: dict[str, Any], word: str) -> None:
    assert word in words(block_diagram(small(**fields)))


def test_a_layer_with_one_head_has_one() -> None:
    assert "1 head" in words(block_diagram(model_config("pre-ln", "nano", n_heads=1)))


def test_panels_have_the_same_operation_at_the_same_height() -> None:
    figure = block_panels({arch: model_config(arch, "125M") for arch in ARCHITECTURES})
    titles = [*ARCHITECTURES]
    at = titles.index("mix-ln")
    titles[at : at + 1] = ["mix-ln, first 3", "mix-ln, last 9"]
    assert [ax.get_title(loc="left") for ax in figure.axes] == titles
    heights = [{op: height for height, op in boxes(ax)} for ax in figure.axes]
    for at in range(0, len(heights), 5):  # a line of panels
        for op in ("q", "scores", "out", "attn_residual", "fc1", "fc2", "ffn_residual"):
            assert len({height[op] for height in heights[at : at + 5]}) == 1
        assert len({ax.get_ylim() for ax in figure.axes[at : at + 5]}) == 1
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["added to the plain block"]


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (5, 1), (6, 2), (8, 2)])
def test_panels_fit_a_paper(count: int, lines: int) -> None:
    figure = block_panels({str(n): small() for n in range(count)})
    assert figure.get_figwidth() <= TWO_COLUMNS
    figure.draw_without_rendering()
    assert len({round(ax.get_position().y0, 3) for ax in figure.axes if ax.get_visible()}) == lines
    assert not figure.legends


@pytest.mark.parametrize("count", [1, 5])
def test_words_are_within_their_boxes(count: int) -> None:
    config = model_config("normformer-resscale", "125M", norm="rmsnorm", qkv_norm=True, n_heads=128)
    figure = block_panels({str(n): config for n in range(count)})
    figure.draw_without_rendering()
    for ax in figure.axes:
        rectangles = [p for p in ax.patches if isinstance(p, Rectangle) and p.get_width() < 1]
        for text in ax.texts:
            x, y = text.get_position()
            inside = [p for p in rectangles if p.contains_point(ax.transData.transform((x, y)))]
            for box in inside:
                words, edges = text.get_window_extent(), box.get_window_extent()
                assert edges.x0 < words.x0 < words.x1 < edges.x1, text.get_text()


def test_draws_on_given_axes_and_has_a_title() -> None:
    ax = paper_axes()
    assert block_diagram(small(), title="Mine", ax=ax) is ax
    assert ax.get_title(loc="left") == "Mine"
    assert all(isinstance(line, Line2D) for line in ax.lines)


def test_the_files_are_the_same_each_time(tmp_path: Path) -> None:
    first, second = (
        save(block_panels({"a": small(head_scale="heads")}), tmp_path / name, ["png", "svg"])
        for name in "ab"
    )
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_layers_of_two_kinds_have_two_panels() -> None:
    config = model_config("mix-ln", "nano", n_layers=9)
    first, last = block_panels({"Mix-LN": config}).axes
    assert [ax.get_title(loc="left") for ax in (first, last)] == [
        "Mix-LN, first 2",
        "Mix-LN, last 7",
    ]
    assert ops(first) == ops(block_diagram(model_config("post-ln", "nano")))
    assert ops(last) == ops(block_diagram(model_config("pre-ln", "nano")))
    with pytest.raises(GradlabError, match="block_panels"):
        block_diagram(config)
    (alone,) = block_panels({"Mix-LN": config.replace(n_layers=3)}).axes
    assert alone.get_title(loc="left") == "Mix-LN"


def test_dropped_branches_are_marked() -> None:
    assert added(block_diagram(small(stochastic_depth=0.1))) == ["attn_drop", "ffn_drop"]


def test_no_models_are_refused() -> None:
    with pytest.raises(GradlabError, match="at least one model"):
        block_panels({})
