"""What each switch brings: its parameters, and the sites that a hook can reach."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gradlab.models.presets import ARCHITECTURES
from gradlab.models.transformer import Transformer

Make = Callable[..., Transformer]

# --- which parameters each switch brings --------------------------------------------------------

NORM = ("weight", "bias")


def added(*names: str) -> set[str]:
    return {f"blocks.{i}.{name}" for i in range(2) for name in names}


ADDS: list[tuple[dict[str, Any], set[str]]] = [
    ({"head_scale": "heads"}, added("attention.head_scale.gamma")),
    ({"head_scale": "output"}, added("attention.head_scale.gamma")),
    ({"attn_out_norm": True}, added(*(f"attn_out_norm.{kind}" for kind in NORM))),
    ({"ffn_mid_norm": True}, added(*(f"feed_forward.ffn_mid_norm.{kind}" for kind in NORM))),
    ({"qkv_norm": True}, added(*(f"attention.{x}_norm.{kind}" for x in "qkv" for kind in NORM))),
    ({"res_scale": "ffn"}, added("ffn_residual.lambda_resid")),
    ({"res_scale": "both"}, added("ffn_residual.lambda_resid", "attn_residual.lambda_resid")),
    ({"res_scale": "ffn-scalar"}, added("ffn_residual.lambda_resid")),
    (
        {"res_scale": "both-scalar"},
        added("ffn_residual.lambda_resid", "attn_residual.lambda_resid"),
    ),
    ({"activation": "relu2"}, set()),
    ({"activation": "geglu"}, set()),
    ({"positions": "learned"}, {"positions.weight"}),
    ({"attention": "sdpa"}, set()),
    ({"dropout": 0.1}, set()),
]


def names(model: Transformer) -> set[str]:
    return {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(("fields", "expected"), ADDS, ids=[str(fields) for fields, _ in ADDS])
def test_each_switch_brings_its_own_parameters_and_no_others(
    make: Make, fields: dict[str, Any], expected: set[str]
) -> None:
    plain, switched = names(make()), names(make(**fields))
    assert switched - plain == expected
    assert plain <= switched


def test_rmsnorm_has_no_bias_and_post_ln_no_final_norm(make: Make) -> None:
    biases = {"final_norm.bias", *added("attn_norm.bias", "ffn_norm.bias")}
    assert names(make()) - names(make(norm="rmsnorm")) == biases
    final_norm = {"final_norm.weight", "final_norm.bias"}
    assert names(make()) - names(make(placement="post")) == final_norm


def test_shapes_of_the_learned_scales(make: Make) -> None:
    def shapes(**fields: object) -> dict[str, tuple[int, ...]]:
        return {name: tuple(p.shape) for name, p in make(**fields).named_parameters()}

    scales = shapes(head_scale="heads", res_scale="both")
    assert scales["blocks.0.attention.head_scale.gamma"] == (2,)
    assert scales["blocks.0.attn_residual.lambda_resid"] == (8,)
    assert shapes(res_scale="ffn-scalar")["blocks.0.ffn_residual.lambda_resid"] == (1,)
    geglu = shapes(activation="geglu")
    assert geglu["blocks.0.feed_forward.fc1.weight"] == (24, 8)
    assert geglu["blocks.0.feed_forward.fc2.weight"] == (8, 12)


# --- what a hook can reach --------------------------------------------------------------------


def fired(model: Transformer) -> list[str]:
    """Names of the modules that ran in one forward pass, in order of completion."""
    seen: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    model(torch.zeros(1, 5, dtype=torch.int64))
    return seen


def test_sites_are_the_modules_that_run(make: Make) -> None:
    normformer = make(**ARCHITECTURES["normformer-resscale"], n_layers=1)
    block = [
        "attn_norm",
        "attention.q",
        "attention.k",
        "attention.v",
        "attention.scores",
        "attention.softmax",
        "attention.context",
        "attention.head_scale",
        "attention.out",
        "attention",
        "attn_out_norm",
        "attn_residual",
        "ffn_norm",
        "feed_forward.fc1",
        "feed_forward.activation",
        "feed_forward.ffn_mid_norm",
        "feed_forward.fc2",
        "feed_forward",
        "ffn_residual",
    ]
    assert fired(normformer) == [
        "embed",
        "positions",
        *(f"blocks.0.{name}" for name in block),
        "blocks.0",
        "final_norm",
        "unembed",
        "",
    ]


def test_an_operation_that_is_off_is_no_site(make: Make) -> None:
    off = {"attention.head_scale", "attn_out_norm", "feed_forward.ffn_mid_norm"}
    assert not any(name.removeprefix("blocks.0.") in off for name in fired(make()))
    sdpa = fired(make(attention="sdpa", n_layers=1))
    assert "blocks.0.attention.context" in sdpa
    assert "blocks.0.attention.scores" not in sdpa


def test_head_scale_stands_on_its_side_of_the_output_map(make: Make) -> None:
    heads, output = (fired(make(head_scale=place, n_layers=1)) for place in ("heads", "output"))
    scale, out = "blocks.0.attention.head_scale", "blocks.0.attention.out"
    assert heads.index(scale) < heads.index(out)
    assert output.index(scale) > output.index(out)


def test_scores_are_scaled_and_not_masked(make: Make, tokens: Tensor) -> None:
    model = make()
    kept: dict[str, Tensor] = {}
    for name in ("q", "k", "scores"):
        module = getattr(model.blocks[0].attention, name)
        module.register_forward_hook(lambda _m, _i, out, name=name: kept.update({name: out}))
    model(tokens)
    q, k = (kept[name].view(3, 7, 2, 4) for name in "qk")
    expected = torch.einsum("bthd,bshd->bhts", q, k) / 2.0
    torch.testing.assert_close(kept["scores"], expected)
