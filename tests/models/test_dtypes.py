"""The dtype rule at every site, in each precision."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gradlab.models.linear import Linear
from gradlab.models.loss import token_loss
from gradlab.models.presets import ARCHITECTURES
from gradlab.models.transformer import Transformer

Make = Callable[..., Transformer]

PRODUCTS = {"q", "k", "v", "out", "fc1", "fc2", "scores", "context", "unembed"}
WIDE = {
    "embed",
    "positions",
    "attn_norm",
    "q_norm",
    "k_norm",
    "v_norm",
    "softmax",
    "head_scale",
    "attn_out_norm",
    "attn_residual",
    "ffn_norm",
    "activation",
    "ffn_mid_norm",
    "ffn_residual",
    "final_norm",
}
EVERYTHING = {
    **ARCHITECTURES["normformer-resscale"],
    "qkv_norm": True,
    "res_scale": "both",
    "dropout": 0.1,
}


def site_dtypes(model: Transformer, tokens: Tensor, autocast: torch.dtype | None) -> dict[str, set]:
    """Last component of a site's name → the dtypes that left it; the loss as `loss`."""
    seen: dict[str, set] = {}

    def note(name: str) -> Callable[..., None]:
        role = name.rsplit(".", 1)[-1]
        return lambda _m, _i, out: seen.setdefault(role, set()).add(out.dtype)

    for name, module in model.named_modules():
        if role_is_site(name):
            module.register_forward_hook(note(name))
    with torch.autocast(tokens.device.type, dtype=autocast, enabled=autocast is not None):
        logits = model(tokens)
        loss = token_loss(logits, tokens)
    loss.backward()
    seen["loss"] = {loss.dtype}
    assert {p.grad.dtype for p in model.parameters()} == {model.embed.weight.dtype}
    return seen


def role_is_site(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in PRODUCTS | WIDE


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("switches", [EVERYTHING, {"activation": "geglu", "norm": "rmsnorm"}])
@pytest.mark.parametrize(
    ("weights", "autocast", "products"),
    [
        pytest.param(torch.float64, None, torch.float64, id="float64"),
        pytest.param(torch.float32, None, torch.float32, id="fp32"),
        pytest.param(torch.float32, torch.bfloat16, torch.bfloat16, id="bf16"),
        pytest.param(torch.float32, torch.float16, torch.float16, id="fp16"),
        pytest.param(torch.float16, None, torch.float16, id="fp16-pure"),
    ],
)
def test_each_site_has_the_dtype_of_the_table(
    make: Make,
    tokens: Tensor,
    device: str,
    placement: str,
    switches: dict[str, object],
    weights: torch.dtype,
    autocast: torch.dtype | None,
    products: torch.dtype,
) -> None:
    model = make(weights, **{**switches, "placement": placement}).to(device)
    seen = site_dtypes(model, tokens.to(device), autocast)
    loss = seen.pop("loss")
    assert loss == {torch.float64 if weights == torch.float64 else torch.float32}
    for role, dtypes in seen.items():
        assert dtypes == {products if role in PRODUCTS else weights}, role
    if switches is EVERYTHING:
        absent = {"final_norm"} if placement == "post" else set()
        assert set(seen) == PRODUCTS | WIDE - absent


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_fused_attention_follows_the_same_rule(
    make: Make, tokens: Tensor, autocast: torch.dtype | None
) -> None:
    seen = site_dtypes(make(torch.float32, attention="sdpa"), tokens, autocast)
    assert seen["context"] == {autocast or torch.float32}
    assert seen["attn_residual"] == {torch.float32}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    ("weights", "autocast"),
    [
        pytest.param(torch.float32, torch.bfloat16, id="bf16"),
        pytest.param(torch.float32, torch.float16, id="fp16"),
        pytest.param(torch.float16, None, id="fp16-pure"),
    ],
)
def test_narrow_logits_stay_near_the_float64_models(
    make: Make, tokens: Tensor, arch: str, weights: torch.dtype, autocast: torch.dtype | None
) -> None:
    model = make(weights, **ARCHITECTURES[arch])
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        rough = model(tokens)
    exact = model.double()(tokens)
    error = (rough.double() - exact).norm() / exact.norm()
    assert error < 16 * torch.finfo(autocast or weights).eps
    assert error > torch.finfo(torch.float32).eps  # the products really were narrow


def test_a_linear_map_takes_any_input_to_its_weights_dtype() -> None:
    linear = Linear(4, 3)
    assert linear(torch.ones(2, 4, dtype=torch.float64)).dtype == torch.float32
    assert linear.half()(torch.ones(2, 4)).dtype == torch.float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear.float()(torch.ones(2, 4, dtype=torch.float16)).dtype == torch.bfloat16
