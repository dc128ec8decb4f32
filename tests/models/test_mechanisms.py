"""Each architecture of another paper against its equation, written plainly, in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gradlab.models.presets import ARCHITECTURES
from gradlab.models.transformer import Transformer

Make = Callable[..., Transformer]


class Plain:
    """A model's parameters, and the operations that the equations are written in."""

    def __init__(self, model: Transformer) -> None:
        self.c = model.config
        self.p = dict(model.named_parameters())

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight = self.p[f"{name}.weight"]
        bias = self.p.get(f"{name}.bias")
        if self.c.norm == "scalenorm":
            return weight * x / x.square().sum(-1, keepdim=True).sqrt()
        if self.c.norm == "dyt":
            return weight * torch.tanh(self.p[f"{name}.alpha"] * x) + bias
        if self.c.norm == "batchnorm":
            rows = x.reshape(-1, x.shape[-1])
            centred = x - rows.mean(0)
            variance = (rows - rows.mean(0)).square().mean(0)
            return centred / (variance + 1e-5).sqrt() * weight + bias
        centred = x if self.c.norm == "rmsnorm" else x - x.mean(-1, keepdim=True)
        y = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
        return y if bias is None else y + bias

    def affine(self, x: Tensor, name: str) -> Tensor:
        weight = self.p[f"{name}.weight"]
        if self.c.weight_standardisation:
            rows = []
            for row in weight:
                centred = row - row.sum() / len(row)
                rows.append(centred / ((centred**2).sum() + len(row) * 1e-10).sqrt())
            weight = torch.stack(rows)
        return x @ weight.T + self.p[f"{name}.bias"]

    def attention(self, x: Tensor, at: str) -> Tensor:
        q, k, v = (self.affine(x, f"{at}.attention.{name}") for name in "qkv")
        if self.c.qk_norm == "width":
            q, k = (self.norm(y, f"{at}.attention.{name}_norm") for y, name in ((q, "q"), (k, "k")))
        width = self.c.d_model // self.c.n_heads
        heads = []
        for i in range(self.c.n_heads):
            q_i, k_i, v_i = (y[..., i * width : (i + 1) * width] for y in (q, k, v))
            if self.c.qk_norm in ("heads", "heads-and-v"):
                q_i = self.norm(q_i, f"{at}.attention.q_norm")
                k_i = self.norm(k_i, f"{at}.attention.k_norm")
            if self.c.qk_norm == "heads-and-v":
                v_i = self.norm(v_i, f"{at}.attention.v_norm")
            scores = q_i @ k_i.transpose(1, 2) / math.sqrt(width)
            if self.c.score_cap is not None:
                scores = self.c.score_cap * torch.tanh(scores / self.c.score_cap)
            weights = scores.exp().tril()
            heads.append(weights / weights.sum(-1, keepdim=True) @ v_i)
        return self.affine(torch.cat(heads, dim=-1), f"{at}.attention.out")

    def ffn(self, x: Tensor, at: str) -> Tensor:
        hidden = self.affine(x, f"{at}.feed_forward.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        return self.affine(hidden, f"{at}.feed_forward.fc2")

    def embedded(self, tokens: Tensor) -> Tensor:
        d, half = self.c.d_model, self.c.d_model // 2
        angles = [
            [(t + 2) * 10_000 ** (-i / (half - 1)) for i in range(half)]
            for t in range(tokens.shape[1])
        ]
        table = torch.tensor(angles, dtype=torch.float64)
        positions = torch.cat([table.sin(), table.cos()], dim=1)
        return math.sqrt(d) * self.p["embed.weight"][tokens] + positions


# One layer of each: of x, the layer's name `at`, its number from 1, and how many there are.


def pre_ln(m: Plain, x: Tensor, at: str, layer: int, depth: int) -> Tensor:
    x = x + m.attention(m.norm(x, f"{at}.attn_norm"), at)
    return x + m.ffn(m.norm(x, f"{at}.ffn_norm"), at)


def post_ln(m: Plain, x: Tensor, at: str, layer: int, depth: int) -> Tensor:
    x = m.norm(x + m.attention(x, at), f"{at}.attn_norm")
    return m.norm(x + m.ffn(x, at), f"{at}.ffn_norm")


def deepnorm(m: Plain, x: Tensor, at: str, layer: int, depth: int) -> Tensor:
    alpha = (2 * depth) ** (1 / 4)
    x = m.norm(alpha * x + m.attention(x, at), f"{at}.attn_norm")
    return m.norm(alpha * x + m.ffn(x, at), f"{at}.ffn_norm")


def sandwich(m: Plain, x: Tensor, at: str, layer: int, depth: int) -> Tensor:
    x = x + m.norm(m.attention(m.norm(x, f"{at}.attn_norm"), at), f"{at}.attn_out_norm")
    return x + m.norm(m.ffn(m.norm(x, f"{at}.ffn_norm"), at), f"{at}.ffn_out_norm")


def reordered(m: Plain, x: Tensor, at: str, layer: int, depth: int) -> Tensor:
    x = x + m.norm(m.attention(x, at), f"{at}.attn_out_norm")
    return x + m.norm(m.ffn(x, at), f"{at}.ffn_out_norm")


def rezero(m: Plain, x: Tensor, at: str, layer: int, depth: int) -> Tensor:
    a = m.p[f"{at}.attn_scale.gamma"]
    x = x + a * m.attention(x, at)
    return x + a * m.ffn(x, at)


def layerscale(m: Plain, x: Tensor, at: str, layer: int, depth: int) -> Tensor:
    on_attention, on_ffn = (m.p[f"{at}.{part}_scale.gamma"] for part in ("attn", "ffn"))
    x = x + on_attention * m.attention(m.norm(x, f"{at}.attn_norm"), at)
    return x + on_ffn * m.ffn(m.norm(x, f"{at}.ffn_norm"), at)


def ln_scaling(m: Plain, x: Tensor, at: str, layer: int, depth: int) -> Tensor:
    x = x + m.attention(m.norm(x, f"{at}.attn_norm") / math.sqrt(layer), at)
    return x + m.ffn(m.norm(x, f"{at}.ffn_norm") / math.sqrt(layer), at)


def mix_ln(m: Plain, x: Tensor, at: str, layer: int, depth: int) -> Tensor:
    return (post_ln if layer <= math.floor(0.25 * depth) else pre_ln)(m, x, at, layer, depth)


def hybrid(m: Plain, x: Tensor, at: str, layer: int, depth: int) -> Tensor:
    y = x + m.attention(x, at)
    normed = m.norm(y, f"{at}.ffn_norm")
    return normed + m.ffn(normed, at)


def admin(m: Plain, x: Tensor, at: str, layer: int, depth: int) -> Tensor:
    on_attention, on_ffn = (m.p[f"{at}.{part}_residual.lambda_resid"] for part in ("attn", "ffn"))
    x = m.norm(on_attention * x + m.attention(x, at), f"{at}.attn_norm")
    return m.norm(on_ffn * x + m.ffn(x, at), f"{at}.ffn_norm")


LAYERS = {
    "deepnorm": deepnorm,
    "peri-ln": sandwich,
    "qk-norm": pre_ln,
    "pre-rmsnorm": pre_ln,
    "rezero": rezero,
    "layerscale": layerscale,
    "reordered-norm": reordered,
    "ln-scaling": ln_scaling,
    "mix-ln": mix_ln,
    "hybrid-norm": hybrid,
    "dyt": pre_ln,
    "admin": admin,
    "batch-norm": pre_ln,
    "weight-standardised": pre_ln,
}
NO_FINAL_NORM = {"deepnorm", "rezero", "admin"}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{arch: (arch, {}) for arch in LAYERS},
    "ScaleNorm": ("pre-rmsnorm", {"norm": "scalenorm"}),
    "capped scores": ("pre-rmsnorm", {"score_cap": 0.7}),
    "capped logits": ("pre-rmsnorm", {"logit_cap": 1.5}),
    "capped and normed": ("reordered-norm", {"score_cap": 0.7, "logit_cap": 1.5}),
    "normed in a fused kernel": ("qk-norm", {"attention": "sdpa"}),
    "a sandwich of tanh": ("peri-ln", {"norm": "dyt"}),
    "DeepNorm of RMSNorm": ("deepnorm", {"norm": "rmsnorm"}),
}


def test_every_architecture_of_another_paper_is_here() -> None:
    assert [*LAYERS] == [*ARCHITECTURES][5:]


def twin(model: Transformer, tokens: Tensor, arch: str) -> Tensor:
    m = Plain(model)
    x = m.embedded(tokens)
    if arch == "peri-ln":
        x = m.norm(x, "embed_norm")
    for layer in range(m.c.n_layers):
        x = LAYERS[arch](m, x, f"blocks.{layer}", layer + 1, m.c.n_layers)
    if arch not in NO_FINAL_NORM:
        x = m.norm(x, "final_norm")
    logits = x @ m.p["embed.weight"].T
    cap = m.c.logit_cap
    return logits if cap is None else cap * torch.tanh(logits / cap)


@pytest.mark.parametrize(("arch", "fields"), CASES.values(), ids=CASES)
def test_logits_and_gradients_equal_the_equation(
    make: Make, tokens: Tensor, arch: str, fields: dict[str, Any]
) -> None:
    model = make(**{**ARCHITECTURES[arch], "n_layers": 5, **fields})
    logits, expected = model(tokens), twin(model, tokens, arch)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    direction = torch.randn(
        logits.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    parameters = dict(model.named_parameters())
    got = torch.autograd.grad((logits * direction).sum(), list(parameters.values()))
    want = torch.autograd.grad((expected * direction).sum(), list(parameters.values()))
    for name, one, other in zip(parameters, got, want, strict=True):
        scale = other.abs().max().clamp(min=1.0)
        torch.testing.assert_close(
            one / scale,
            other / scale,
            rtol=0,
            atol=1e-10,
            msg=lambda text, name=name: f"{name}: {text}",
        )


# --- BatchNorm, which is here to show why not ---------------------------------------------------


def test_a_position_sees_later_ones_through_batch_norm_in_training_only(
    make: Make, tokens: Tensor
) -> None:
    model = make(norm="batchnorm")
    later = tokens.clone()
    later[:, -1] = (later[:, -1] + 1) % 11
    with torch.no_grad():
        assert not torch.equal(model(tokens)[:, 0], model(later)[:, 0])
        model.eval()
        assert torch.equal(model(tokens)[:, 0], model(later)[:, 0])


def test_batch_norm_follows_the_batches_it_has_seen(make: Make, tokens: Tensor) -> None:
    model = make(norm="batchnorm")
    seen: list[Tensor] = []
    norm = model.blocks[0].attn_norm
    norm.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].flatten(0, -2)))
    model(tokens)
    (rows,) = seen
    torch.testing.assert_close(norm.running_mean, 0.1 * rows.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * rows.var(0))


# --- stochastic depth ---------------------------------------------------------------------------


def test_branches_are_dropped_by_sequence_with_the_probability_of_their_layer(make: Make) -> None:
    model = make(stochastic_depth=0.5, n_layers=4)
    tokens = torch.zeros(4000, 2, dtype=torch.int64)
    torch.manual_seed(0)
    for layer, block in enumerate(model.blocks, start=1):
        x, branch = torch.zeros(4000, 2, 8), torch.ones(4000, 2, 8)
        dropped = layer / 4 * 0.5
        total = block.ffn_residual(x, branch)
        alone = total[:, 0, 0]
        assert torch.equal(total, alone[:, None, None].expand_as(total))
        kept = alone != 0
        assert abs((~kept).double().mean() - dropped) < 4 * math.sqrt(0.25 / 4000)
        torch.testing.assert_close(alone[kept], torch.full_like(alone[kept], 1 / (1 - dropped)))
    model.eval()
    plain = make(n_layers=4).eval()
    assert torch.equal(model(tokens[:1]), plain(tokens[:1]))
