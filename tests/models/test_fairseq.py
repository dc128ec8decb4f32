"""fairseq checkpoints against fairseq's mathematics, re-written here in float64 over its names."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gradlab.models.fairseq import from_state_dict
from gradlab.models.loss import token_loss

D, HEADS, LAYERS, LENGTH, VOCAB = 8, 2, 3, 6, 13
StateDict = dict[str, Tensor]

KINDS: dict[str, dict[str, bool]] = {
    "post-ln": {"normalize_before": False},
    "pre-ln": {},
    "normformer": {"scale_heads": True, "scale_attn": True, "scale_fc": True},
    "normformer-resscale": {
        "scale_heads": True,
        "scale_attn": True,
        "scale_fc": True,
        "scale_resids": True,
    },
    "scale-heads": {"scale_heads": True},
    "scale-attn": {"scale_attn": True},
    "scale-fc": {"scale_fc": True},
    "scale-resids": {"scale_resids": True},
    "post-ln-normformer": {
        "normalize_before": False,
        "scale_heads": True,
        "scale_attn": True,
        "scale_fc": True,
    },
    "learned": {"learned_pos": True},
    "embed-norm": {"layernorm_embedding": True},
}


# --- the twin: fairseq's decoder over its own names, time first as there ---------------------


def decoder(p: StateDict, tokens: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, T) tokens → (B, T, vocab) logits."""
    batch, length = tokens.shape
    normalize_before = "decoder.layer_norm.weight" in p

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
        y = (x - mean) / (variance + 1e-5).sqrt()
        return y * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return torch.einsum("tbi,oi->tbo", x, p[f"{name}.weight"]) + p[f"{name}.bias"]

    def self_attention(x: Tensor, at: str) -> Tensor:
        def heads(y: Tensor) -> Tensor:  # (B·H, T, d_head)
            return y.reshape(length, batch * HEADS, D // HEADS).transpose(0, 1)

        q = heads(linear(x, f"{at}.q_proj") * (D // HEADS) ** -0.5)
        k, v = heads(linear(x, f"{at}.k_proj")), heads(linear(x, f"{at}.v_proj"))
        future = torch.full((length, length), -math.inf, dtype=torch.float64).triu(1)
        scores = torch.einsum("nti,nsi->nts", q, k) + future
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        weights = weights / weights.sum(-1, keepdim=True)
        mixed = torch.einsum("nts,nsi->nti", weights, v).transpose(0, 1).reshape(length, batch, D)
        return linear(mixed, f"{at}.out_proj")

    if "decoder.embed_positions.weight" in p:
        position = p["decoder.embed_positions.weight"][2 : 2 + length]
    else:
        rate = math.log(10000) / (D // 2 - 1)
        angle = torch.outer(
            torch.arange(2, 2 + length, dtype=torch.float64),
            torch.exp(-rate * torch.arange(D // 2, dtype=torch.float64)),
        )
        position = torch.cat([angle.sin(), angle.cos()], dim=1)
    x = math.sqrt(D) * p["decoder.embed_tokens.weight"][tokens.T] + position[:, None]
    if "decoder.layernorm_embedding.weight" in p:
        x = norm(x, "decoder.layernorm_embedding")
    for i in range(LAYERS):
        at = f"decoder.layers.{i}"
        residual = x
        if normalize_before:
            x = norm(x, f"{at}.self_attn_layer_norm")
        x = self_attention(x, f"{at}.self_attn")
        if f"{at}.c_attn" in p:  # after W^O
            x = x.view(length, batch, HEADS, D // HEADS)
            x = torch.einsum("tbhd,h->tbhd", x, p[f"{at}.c_attn"]).reshape(length, batch, D)
        if f"{at}.attn_ln.weight" in p:
            x = norm(x, f"{at}.attn_ln")
        x = residual + x
        if not normalize_before:
            x = norm(x, f"{at}.self_attn_layer_norm")
        residual = x
        if normalize_before:
            x = norm(x, f"{at}.final_layer_norm")
        x = activation(linear(x, f"{at}.fc1"))
        if f"{at}.ffn_layernorm.weight" in p:
            x = norm(x, f"{at}.ffn_layernorm")
        x = linear(x, f"{at}.fc2")
        if f"{at}.w_resid" in p:
            residual = p[f"{at}.w_resid"] * residual
        x = residual + x
        if not normalize_before:
            x = norm(x, f"{at}.final_layer_norm")
    if normalize_before:
        x = norm(x, "decoder.layer_norm")
    return torch.einsum("tbi,vi->btv", x, p["decoder.embed_tokens.weight"])


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def relu_squared(x: Tensor) -> Tensor:
    return x.clamp(min=0) ** 2


OURS = {
    # part of a fairseq layer → part of a block
    "self_attn.q_proj": "attention.q",
    "self_attn.k_proj": "attention.k",
    "self_attn.v_proj": "attention.v",
    "self_attn.out_proj": "attention.out",
    "self_attn_layer_norm": "attn_norm",
    "attn_ln": "attn_out_norm",
    "final_layer_norm": "ffn_norm",
    "fc1": "feed_forward.fc1",
    "fc2": "feed_forward.fc2",
    "ffn_layernorm": "feed_forward.ffn_mid_norm",
    "c_attn": "attention.head_scale.gamma",
    "w_resid": "ffn_residual.lambda_resid",
}


def our_name(key: str) -> str:
    _, first, *rest = key.split(".")
    if first != "layers":
        names = {"embed_tokens": "embed", "embed_positions": "positions"}
        names["layernorm_embedding"] = "embed_norm"
        return ".".join([names.get(first, "final_norm"), *rest])
    layer, *rest = rest
    if rest[-1] in ("c_attn", "w_resid"):
        return f"blocks.{layer}.{OURS[rest[-1]]}"
    return f"blocks.{layer}.{OURS['.'.join(rest[:-1])]}.{rest[-1]}"


@pytest.mark.parametrize(
    ("name", "activation"), [("gelu", gelu), ("relu2", relu_squared)], ids=["gelu", "relu2"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_loss_and_gradients_are_fairseqs(
    checkpoint: Callable[..., StateDict],
    kind: str,
    name: str,
    activation: Callable[[Tensor], Tensor],
) -> None:
    state = checkpoint(**KINDS[kind])
    generator = torch.Generator().manual_seed(1)
    tokens, targets = torch.randint(2, VOCAB, (2, 4, LENGTH), generator=generator)

    model = from_state_dict(state, n_heads=HEADS, max_seq_len=LENGTH, activation=name)
    logits = model(tokens)
    loss = token_loss(logits, targets)
    loss.backward()

    buffers = ("version", "_float_tensor", "output_projection.weight")
    leaves = {
        key: value.clone().requires_grad_()
        for key, value in state.items()
        if not key.endswith(buffers)
    }
    expected = decoder(leaves, tokens, activation)
    picked = expected.gather(-1, targets[..., None]).squeeze(-1)
    expected_loss = (expected.exp().sum(-1).log() - picked).mean()
    expected_loss.backward()

    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-10, atol=1e-10)
    parameters = dict(model.named_parameters())
    assert {our_name(key) for key in leaves} == set(parameters)
    for key, leaf in leaves.items():
        got, want = parameters[our_name(key)].grad, leaf.grad
        if key.endswith("embed_positions.weight"):
            assert want[:2].eq(0).all()  # the rows before the first position
            want = want[2:]
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
        if not key.endswith("k_proj.bias"):  # a softmax does not see it
            assert got.abs().max() > 1e-6
