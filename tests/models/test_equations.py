"""The whole model against a plain re-computation of the paper's equations in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gradlab.models.presets import ARCHITECTURES
from gradlab.models.transformer import Transformer

SWITCHES: dict[str, dict[str, object]] = {
    "plain": {},
    "head_scale=heads": {"head_scale": "heads"},
    "head_scale=output": {"head_scale": "output"},
    "attn_out_norm": {"attn_out_norm": True},
    "ffn_mid_norm": {"ffn_mid_norm": True},
    "qkv_norm": {"qkv_norm": True},
    "res_scale=ffn": {"res_scale": "ffn"},
    "res_scale=both": {"res_scale": "both"},
    "res_scale=ffn-scalar": {"res_scale": "ffn-scalar"},
    "res_scale=both-scalar": {"res_scale": "both-scalar"},
    "rmsnorm": {"norm": "rmsnorm"},
    "relu2": {"activation": "relu2"},
    "geglu": {"activation": "geglu"},
    "learned": {"positions": "learned"},
    "sdpa": {"attention": "sdpa"},
}

CASES = {
    **{arch: dict(ARCHITECTURES[arch]) for arch in [*ARCHITECTURES][:5]},
    **{f"pre {name}": {"placement": "pre", **fields} for name, fields in SWITCHES.items()},
    **{f"post {name}": {"placement": "post", **fields} for name, fields in SWITCHES.items()},
    "everything": {
        "placement": "pre",
        "norm": "rmsnorm",
        "head_scale": "heads",
        "attn_out_norm": True,
        "ffn_mid_norm": True,
        "qkv_norm": True,
        "res_scale": "both",
        "activation": "geglu",
        "positions": "learned",
        "attention": "sdpa",
    },
}


def twin(model: Transformer, sequence: Tensor) -> Tensor:
    """(T,) tokens → (T, vocab) logits, from the equations and the named parameters alone."""
    c, p = model.config, dict(model.named_parameters())

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x if c.norm == "rmsnorm" else x - x.mean(-1, keepdim=True)
        y = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}.weight"]
        return y if c.norm == "rmsnorm" else y + p[f"{name}.bias"]

    def affine(x: Tensor, name: str) -> Tensor:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def gelu(x: Tensor) -> Tensor:
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    def attention(x: Tensor, at: str) -> Tensor:
        q, k, v = (affine(x, f"{at}.attention.{name}") for name in "qkv")
        if c.qkv_norm:
            q, k, v = (
                norm(y, f"{at}.attention.{name}_norm") for y, name in ((q, "q"), (k, "k"), (v, "v"))
            )
        width = c.d_model // c.n_heads
        heads = []
        for i in range(c.n_heads):
            of_head = slice(i * width, (i + 1) * width)
            rows = []
            for t in range(len(x)):
                weights = (k[: t + 1, of_head] @ q[t, of_head] / math.sqrt(width)).exp()
                rows.append((weights / weights.sum()) @ v[: t + 1, of_head])
            heads.append(torch.stack(rows))
        if c.head_scale == "heads":
            gamma = p[f"{at}.attention.head_scale.gamma"]
            heads = [gamma[i] * head for i, head in enumerate(heads)]
        y = affine(torch.cat(heads, dim=1), f"{at}.attention.out")
        if c.head_scale == "output":
            gamma = p[f"{at}.attention.head_scale.gamma"]
            channels = [gamma[i // width] * y[:, i] for i in range(c.d_model)]
            y = torch.stack(channels, dim=1)
        return norm(y, f"{at}.attn_out_norm") if c.attn_out_norm else y

    def ffn(x: Tensor, at: str) -> Tensor:
        hidden = affine(x, f"{at}.feed_forward.fc1")
        if c.activation == "gelu":
            hidden = gelu(hidden)
        elif c.activation == "relu2":
            hidden = torch.where(hidden > 0, hidden * hidden, 0.0)
        else:
            hidden = gelu(hidden[:, : c.d_ff]) * hidden[:, c.d_ff :]
        if c.ffn_mid_norm:
            hidden = norm(hidden, f"{at}.feed_forward.ffn_mid_norm")
        return affine(hidden, f"{at}.feed_forward.fc2")

    embedding = p["embed.weight"]
    rows = []
    for t, token in enumerate(sequence.tolist()):
        if c.positions == "learned":
            position = p["positions.weight"][t]
        else:
            half = c.d_model // 2
            angles = [(t + 2) * math.exp(-i * math.log(10000) / (half - 1)) for i in range(half)]
            position = torch.tensor(
                [math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64
            )
        rows.append(math.sqrt(c.d_model) * embedding[token] + position)
    x = torch.stack(rows)
    for i in range(c.n_layers):
        at = f"blocks.{i}"
        both = c.res_scale.startswith("both")
        on_attn = p[f"{at}.attn_residual.lambda_resid"] if both else 1.0
        on_ffn = p[f"{at}.ffn_residual.lambda_resid"] if c.res_scale != "none" else 1.0
        if c.placement == "pre":
            x = on_attn * x + attention(norm(x, f"{at}.attn_norm"), at)
            x = on_ffn * x + ffn(norm(x, f"{at}.ffn_norm"), at)
        else:
            x = norm(on_attn * x + attention(x, at), f"{at}.attn_norm")
            x = norm(on_ffn * x + ffn(x, at), f"{at}.ffn_norm")
    if c.placement == "pre":
        x = norm(x, "final_norm")
    return x @ embedding.T


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES.keys())
def test_logits_and_gradients_equal_the_equations(
    make: Callable[..., Transformer], tokens: Tensor, fields: dict[str, object]
) -> None:
    model = make(**fields)
    logits = model(tokens)
    expected = torch.stack([twin(model, sequence) for sequence in tokens])
    assert logits.shape == (3, 7, 11)
    torch.testing.assert_close(logits, expected, rtol=1e-11, atol=1e-11)

    direction = torch.randn(
        logits.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    parameters = dict(model.named_parameters())
    got = torch.autograd.grad((logits * direction).sum(), list(parameters.values()))
    want = torch.autograd.grad((expected * direction).sum(), list(parameters.values()))
    for name, one, other in zip(parameters, got, want, strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )
