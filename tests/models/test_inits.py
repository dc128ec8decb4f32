"""Initial values by name, against the formulas of their papers; the scales that start elsewhere."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gradlab.models.build import build_model
from gradlab.models.config import ModelConfig
from gradlab.models.presets import model_config
from gradlab.models.residual import Residual
from gradlab.models.transformer import Transformer

D, D_FF, L = 128, 512, 12  # micro

MATRICES = ("attention.q", "attention.k", "attention.v", "attention.out")
MATRICES += ("feed_forward.fc1", "feed_forward.fc2")


def xavier(fan_in: int, fan_out: int) -> float:
    return math.sqrt(2 / (fan_in + fan_out))


STD: dict[str, Callable[[str], float]] = {
    "xavier": lambda op: xavier(D, D_FF) if op.startswith("fc") else xavier(D, D),
    "kaiming": lambda op: math.sqrt(2 / D_FF) if op == "fc2" else math.sqrt(1 / D),
    "gpt2": lambda op: 0.02 / math.sqrt(2 * L) if op in ("out", "fc2") else 0.02,
    "deepnorm": lambda op: (
        (1.0 if op in "qk" else (8 * L) ** (-1 / 4))
        * (xavier(D, D_FF) if op.startswith("fc") else xavier(D, D))
    ),
}


@pytest.fixture(scope="module", params=STD)
def named(request: pytest.FixtureRequest) -> tuple[str, dict[str, Tensor]]:
    model = build_model(model_config("pre-ln", "micro", init=request.param), seed=0)
    return request.param, {name: p.detach() for name, p in model.named_parameters()}


def test_matrices_have_the_standard_deviation_of_the_formula(
    named: tuple[str, dict[str, Tensor]],
) -> None:
    init, parameters = named
    for matrix in MATRICES:
        op = matrix.rpartition(".")[2]
        values = [parameters[f"blocks.{layer}.{matrix}.weight"].flatten() for layer in range(L)]
        pooled, std = torch.cat(values).double(), STD[init](op)
        # The standard error of a sample's std: σ / √2n for a normal one, less for a uniform one.
        assert abs(pooled.std() / std - 1) < 5 / math.sqrt(2 * len(pooled)), op
        assert abs(pooled.mean()) < 5 * std / math.sqrt(len(pooled)), op
        fourth = (pooled / pooled.std()).pow(4).mean()
        assert fourth == pytest.approx(9 / 5 if init == "xavier" else 3, rel=0.03), op
        for layer in range(L):
            assert not parameters[f"blocks.{layer}.{matrix}.bias"].any()


def test_embeddings_are_as_wide_as_they_were_but_for_gpt2(
    named: tuple[str, dict[str, Tensor]],
) -> None:
    init, parameters = named
    std = 0.02 if init == "gpt2" else D**-0.5
    assert parameters["embed.weight"].std().item() == pytest.approx(std, rel=0.03)


@pytest.mark.parametrize(("n_layers", "start"), [(18, 0.1), (19, 1e-5), (24, 1e-5), (25, 1e-6)])
def test_layerscale_starts_smaller_in_a_deeper_model(n_layers: int, start: float) -> None:
    config = model_config("layerscale", "nano", n_layers=n_layers, d_model=8, d_ff=8)
    last = build_model(config, seed=0).blocks[-1]
    for scale in (last.attn_scale, last.ffn_scale):
        assert scale.gamma.tolist() == pytest.approx([start] * 8)


def test_a_rezero_model_is_the_identity_at_first() -> None:
    model = build_model(model_config("rezero", "nano"), seed=0)
    tokens = torch.randint(256, (2, 9), generator=torch.Generator().manual_seed(0))
    streams: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _m, inputs: streams.append(inputs[0]))
    model.blocks[-1].register_forward_hook(lambda _m, _i, out: streams.append(out))
    model(tokens)
    assert torch.equal(*streams)


# --- Admin ----------------------------------------------------------------------------------------


def omegas(model: Transformer) -> list[float]:
    """Each skip's weight, all entries of which are alike, in order of execution."""
    sums = [module.lambda_resid for module in model.modules() if isinstance(module, Residual)]
    assert all((x == x[0]).all() for x in sums)
    return [x[0].item() for x in sums]


def test_admin_weighs_a_skip_by_the_branches_before_it() -> None:
    """ω_i² = 1 + Σ Var[f_j] over the branches before, of the plain Post-LN model's."""
    found = omegas(build_model(model_config("admin", "nano"), seed=3))
    plain = build_model(model_config("post-ln", "nano"), seed=3)
    variances: list[float] = []
    for module in plain.modules():
        if isinstance(module, Residual):
            module.register_forward_pre_hook(lambda _, x: variances.append(x[1].var().item()))
    plain(torch.randint(256, (16, 64), generator=torch.Generator().manual_seed(0)))
    expected = [math.sqrt(1 + sum(variances[:i])) for i in range(len(variances))]
    assert found[0] == 1
    assert found == pytest.approx(expected, rel=0.02)  # of other tokens
    assert found[-1] > 1.2


def test_admin_starts_equal_in_every_format_and_leaves_the_generator_alone() -> None:
    config = model_config("admin", "nano", dropout=0.5)
    before = torch.get_rng_state()
    wide = build_model(config, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert wide.training
    for dtype in (torch.float16, torch.float64):
        other = dict(build_model(config, seed=3, dtype=dtype).named_parameters())
        for name, parameter in wide.named_parameters():
            assert torch.equal(other[name], parameter.to(dtype)), name
    assert omegas(build_model(config, seed=4)) != omegas(wide)


def test_admin_on_the_meta_device_has_shapes_alone() -> None:
    model = build_model(model_config("admin", "125M"), device="meta", seed=0)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_deep_layers_change_the_stream_less_under_deepnorm() -> None:
    """Its α and β bound what a layer adds, relative to the skip: 2L of them stay of order 1."""
    shape = {"d_model": 64, "n_heads": 4, "d_ff": 256, "max_seq_len": 32, "n_layers": 50}
    tokens = torch.randint(256, (2, 32), generator=torch.Generator().manual_seed(0))

    def added(**fields: str) -> float:
        model = build_model(ModelConfig(**shape, placement="post", **fields), seed=0)
        shares: list[float] = []
        for module in model.modules():
            if isinstance(module, Residual):
                module.register_forward_pre_hook(
                    lambda m, x: shares.append((x[1].norm() / (m.alpha * x[0].norm())).item() ** 2)
                )
        model(tokens)
        return sum(shares)

    assert added(skip_scale="deepnorm", init="deepnorm") < 2
    assert added() > 10
