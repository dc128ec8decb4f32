"""Initial values: the closed-form distributions, and equal starts across architectures."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradlab.models.blocks import make_block
from gradlab.models.build import build_model
from gradlab.models.linear import Linear
from gradlab.models.presets import ARCHITECTURES, model_config

D, D_FF = 128, 512  # micro

UNIFORM = {
    # parameter: half-width of its uniform distribution
    "attention.q.weight": math.sqrt(1 / 2) * math.sqrt(6 / (2 * D)),
    "attention.k.weight": math.sqrt(1 / 2) * math.sqrt(6 / (2 * D)),
    "attention.v.weight": math.sqrt(1 / 2) * math.sqrt(6 / (2 * D)),
    "attention.out.weight": math.sqrt(6 / (2 * D)),
    "attention.q.bias": 1 / math.sqrt(D),
    "attention.k.bias": 1 / math.sqrt(D),
    "attention.v.bias": 1 / math.sqrt(D),
    "feed_forward.fc1.weight": 1 / math.sqrt(D),
    "feed_forward.fc1.bias": 1 / math.sqrt(D),
    "feed_forward.fc2.weight": 1 / math.sqrt(D_FF),
    "feed_forward.fc2.bias": 1 / math.sqrt(D_FF),
}


@pytest.fixture(scope="module")
def parameters() -> dict[str, Tensor]:
    config = model_config("normformer-resscale", "micro", qkv_norm=True, positions="learned")
    return {name: p.detach() for name, p in build_model(config, seed=0).named_parameters()}


def pooled(parameters: dict[str, Tensor], role: str) -> Tensor:
    """All layers' values of one parameter."""
    return torch.cat([parameters[f"blocks.{i}.{role}"].flatten() for i in range(12)]).double()


@pytest.mark.parametrize("role", UNIFORM)
def test_linear_maps_are_uniform(parameters: dict[str, Tensor], role: str) -> None:
    values, bound = pooled(parameters, role), UNIFORM[role]
    std = bound / math.sqrt(3)
    # The standard error of a uniform variable's sample std is std · √(0.2 / n).
    assert abs(values.std() / std - 1) < 5 * math.sqrt(0.2 / len(values))
    assert abs(values.mean()) < 5 * std / math.sqrt(len(values))
    assert 0.99 * bound < values.abs().max() <= bound * (1 + 1e-6)
    # Uniform, not merely bounded: a quarter of the values in each quarter of the range.
    shares = torch.histc(values, bins=4, min=-bound, max=bound) / len(values)
    assert (shares - 0.25).abs().max() < 5 * math.sqrt(0.1875 / len(values))


def test_qkv_have_the_std_of_the_fused_xavier_matrix() -> None:
    # Xavier uniform of one (3d, d) matrix: std √(2 / 4d) = √(0.5 / d).
    assert UNIFORM["attention.q.weight"] / math.sqrt(3) == pytest.approx(math.sqrt(0.5 / D))


@pytest.mark.parametrize("name", ["embed.weight", "positions.weight"])
def test_embeddings_are_normal(parameters: dict[str, Tensor], name: str) -> None:
    values = parameters[name].flatten().double() * math.sqrt(D)
    assert abs(values.std() - 1) < 5 / math.sqrt(2 * len(values))
    assert abs(values.mean()) < 5 / math.sqrt(len(values))
    kurtosis = values.pow(4).mean() / values.square().mean() ** 2
    assert abs(kurtosis - 3) < 5 * math.sqrt(24 / len(values))


def test_norms_scales_and_the_output_bias_are_constants(parameters: dict[str, Tensor]) -> None:
    checked = 0
    for name, value in parameters.items():
        if "norm" in name or name.endswith(("gamma", "lambda_resid", "out.bias")):
            expected = 0.0 if name.endswith("bias") else 1.0
            assert value.eq(expected).all(), name
            checked += 1
    assert checked == 12 * (2 * 7 + 1 + 1 + 1) + 2


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_name_starts_equal_in_every_architecture(arch: str) -> None:
    everything = model_config("normformer-resscale", "nano", qkv_norm=True, positions="learned")
    reference = dict(build_model(everything, seed=3).named_parameters())
    model = build_model(model_config(arch, "nano", init="fairseq"), seed=3)
    shared = {name: p for name, p in model.named_parameters() if name in reference}
    assert set(reference) - set(shared) <= {
        n
        for n in reference
        if "_norm" in n or "gamma" in n or "lambda" in n or n == "positions.weight"
    }
    for name, parameter in shared.items():
        if parameter.shape == reference[name].shape:  # a head's norm is narrower
            assert torch.equal(parameter, reference[name]), name


def test_names_layers_and_seeds_start_differently() -> None:
    config = model_config("pre-ln", "nano")
    one, other = (dict(build_model(config, seed=seed).named_parameters()) for seed in (0, 1))
    drawn = [name for name, p in one.items() if p.std() > 0]
    for name in drawn:
        assert not torch.equal(one[name], other[name]), name
    firsts = [one[name].flatten()[0].item() for name in drawn]
    assert len(set(firsts)) == len(drawn) > 6 * 10


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_generator_alone() -> None:
    config = model_config("normformer", "nano")
    before = torch.get_rng_state()
    models = [build_model(config, seed=7) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


def test_without_a_seed_the_global_generator_decides() -> None:
    config = model_config("pre-ln", "nano")

    def embedding(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return build_model(config).embed.weight

    assert torch.equal(embedding(0), embedding(0))
    assert not torch.equal(embedding(0), embedding(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_another_dtype_starts_at_the_rounded_values(dtype: torch.dtype) -> None:
    config = model_config("normformer", "nano")
    wide = dict(build_model(config, seed=0).named_parameters())
    for name, parameter in build_model(config, seed=0, dtype=dtype).named_parameters():
        assert torch.equal(parameter, wide[name].to(dtype)), name


def test_on_the_meta_device_nothing_is_made() -> None:
    model = build_model(model_config("pre-ln", "2.7B"), device="meta", dtype=torch.float16)
    assert all(p.is_meta and p.dtype == torch.float16 for p in model.parameters())
    assert all(buffer.is_meta for buffer in model.buffers())


class Called(TorchDispatchMode):
    """Notes the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_layer_without_memory_draws_nothing() -> None:
    """Torch would find out in Python, and slowly, which shapes its draws have."""
    config = model_config("normformer", "nano")
    with Called() as without, torch.device("meta"):
        make_block(config, 0)
    with Called() as on_cpu:
        make_block(config, 0)
    assert without.names & {"uniform_", "triu", "empty"} == {"empty"}
    assert on_cpu.names >= {"uniform_", "triu", "empty"}


def test_elsewhere_a_linear_map_starts_as_torchs() -> None:
    torch.manual_seed(0)
    ours = Linear(3, 2)
    torch.manual_seed(0)
    torchs = nn.Linear(3, 2)
    assert torch.equal(ours.weight, torchs.weight)
    assert torch.equal(ours.bias, torchs.bias)
