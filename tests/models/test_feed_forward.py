"""Activations: their formulas, and that they are computed wide and returned in the asked dtype."""

import math

import pytest
import torch
from torch import Tensor, nn

from gradlab.models.feed_forward import GeGlu, Gelu, ReluSquared


def gelu(x: float) -> float:
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def relu_squared(x: float) -> float:
    return x * x if x > 0 else 0.0


@pytest.mark.parametrize(("activation", "formula"), [(Gelu(), gelu), (ReluSquared(), relu_squared)])
def test_pointwise_activations(activation: nn.Module, formula) -> None:
    x = torch.linspace(-6, 6, 241, dtype=torch.float64)
    expected = torch.tensor([formula(value) for value in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(activation(x, torch.float64), expected, rtol=1e-12, atol=1e-14)


def test_geglu_gates_with_its_first_half() -> None:
    x = torch.tensor([[1.0, -2.0, 3.0, 5.0]], dtype=torch.float64)
    expected = torch.tensor([[gelu(1.0) * 3.0, gelu(-2.0) * 5.0]], dtype=torch.float64)
    torch.testing.assert_close(GeGlu()(x, torch.float64), expected)


def exact(activation: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = activation(x.double(), torch.float64)
    return y


@pytest.mark.parametrize("activation", [Gelu(), ReluSquared(), GeGlu()])
@pytest.mark.parametrize("incoming", [torch.float16, torch.bfloat16])
def test_half_input_to_fp32_weights_is_computed_and_kept_in_fp32(
    activation: nn.Module, incoming: torch.dtype
) -> None:
    x = (3 * torch.randn(1000, generator=torch.Generator().manual_seed(0))).to(incoming)
    y = activation(x, torch.float32)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), exact(activation, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", [Gelu(), ReluSquared(), GeGlu()])
def test_half_weights_round_once(activation: nn.Module) -> None:
    x = (3 * torch.randn(1000, generator=torch.Generator().manual_seed(0))).half()
    y = activation(x, torch.float16)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.double(), exact(activation, x), rtol=2**-11 + 1e-5, atol=1e-5)


def test_a_square_beyond_fp16_overflows_only_where_the_weights_are_fp16() -> None:
    x = torch.tensor([300.0]).half()
    assert ReluSquared()(x, torch.float32).item() == 90_000
    assert ReluSquared()(x, torch.float16).item() == math.inf
