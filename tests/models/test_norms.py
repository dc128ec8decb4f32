"""Norms against their formulas, at magnitudes that FP16 statistics would not survive."""

import pytest
import torch
from torch import Tensor

from gradlab.models.config import NORMS
from gradlab.models.norms import LayerNorm, RMSNorm, make_norm


def twin(norm: LayerNorm | RMSNorm, x: Tensor) -> Tensor:
    """The formula, row by row in float64."""
    rows = []
    for row in x.double().reshape(-1, x.shape[-1]):
        if isinstance(norm, LayerNorm):
            mean = row.sum() / len(row)
            variance = ((row - mean) ** 2).sum() / len(row)
            y = (row - mean) / (variance + 1e-5) ** 0.5
            rows.append(y * norm.weight.double() + norm.bias.double())
        else:
            mean_square = (row**2).sum() / len(row)
            rows.append(row / (mean_square + 1e-5) ** 0.5 * norm.weight.double())
    return torch.stack(rows).view(x.shape)


def random_norm(kind: str, d: int, dtype: torch.dtype) -> LayerNorm | RMSNorm:
    norm = make_norm(kind, d).to(dtype)  # type: ignore[arg-type]
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    return norm


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_float64_equals_the_formula(kind: str, scale: float) -> None:
    norm = random_norm(kind, 48, torch.float64)
    x = scale * torch.randn(2, 5, 48, dtype=torch.float64) + scale
    torch.testing.assert_close(norm(x), twin(norm, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_round_once(kind: str, dtype: torch.dtype) -> None:
    # The sum of squares is 1e9 here, far beyond 65504: statistics in FP16 would be inf.
    norm = random_norm(kind, 1000, dtype)
    x = (1e3 * torch.randn(20, 1000)).to(dtype)
    y = norm(x)
    assert y.dtype == dtype
    one_rounding = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(y.double(), twin(norm, x), rtol=1.01 * one_rounding, atol=2e-5)


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("incoming", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [torch.float16, torch.float32, torch.float64])
def test_the_result_has_the_weights_dtype(
    kind: str, incoming: torch.dtype, weights: torch.dtype
) -> None:
    norm = make_norm(kind, 8).to(weights)  # type: ignore[arg-type]
    assert norm(torch.randn(3, 8).to(incoming)).dtype == weights


@pytest.mark.parametrize("kind", NORMS)
def test_autocast_leaves_fp32_alone(kind: str) -> None:
    norm = random_norm(kind, 32, torch.float32)
    x = torch.randn(4, 32)
    with torch.autocast("cpu", dtype=torch.float16):
        inside, narrow = norm(x), norm(x.half())
    assert torch.equal(inside, norm(x))
    assert torch.equal(narrow, norm(x.half().float()))


def test_parameters() -> None:
    assert [name for name, _ in make_norm("layernorm", 3).named_parameters()] == ["weight", "bias"]
    assert [name for name, _ in make_norm("rmsnorm", 3).named_parameters()] == ["weight"]


@pytest.mark.parametrize("kind", NORMS)
def test_as_many_as_are_said(kind: str) -> None:
    for d in (3, 8):
        counted = sum(p.numel() for p in make_norm(kind, d).parameters())  # type: ignore[arg-type]
        assert counted == NORMS[kind].parameters(d)


def test_statistics_over_a_batch_are_fp32_whatever_the_weights_are() -> None:
    norm = make_norm("batchnorm", 8).half()
    assert norm.running_mean.dtype == norm.running_var.dtype == torch.float32
    norm(1e3 * torch.randn(4, 8).half())
    assert norm.running_var.max() > 65504  # of values beyond the root of FP16's range
    moved = norm.to(torch.float64)
    assert moved.running_var.dtype == torch.float64
    assert moved.running_var.max() > 65504
