"""Masks by bits: the same numbers, gradients and gradients' gradients as torch's own operations."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from gradlab.models.causal import lower_triangle, masked

HIDDEN = torch.ones(7, 7, dtype=torch.bool).triu(1)
ODD = (0.0, -0.0, math.inf, -math.inf, math.nan, 65504.0, -(2.0**-24), 1e-40)


def filled(scores: Tensor, hidden: Tensor) -> Tensor:
    return scores.masked_fill(hidden, -math.inf)


def scores(dtype: torch.dtype) -> Tensor:
    """Odd numbers all over, on either side of the mask."""
    torch.manual_seed(0)
    odd = torch.tensor(ODD)
    chosen = torch.where(torch.rand(2, 3, 7, 7) < 0.5, odd[torch.randint(8, (2, 3, 7, 7))], 1.0)
    return (chosen * torch.randn(2, 3, 7, 7)).to(dtype)


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8)


dtypes = pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)


@dtypes
@pytest.mark.parametrize("turned", [False, True])
def test_the_results_are_those_of_torch_to_the_bit(dtype: torch.dtype, turned: bool) -> None:
    x = scores(dtype)
    x = x.transpose(-2, -1) if turned else x
    assert torch.equal(bits(masked(x, HIDDEN)), bits(filled(x, HIDDEN)))
    assert torch.equal(bits(lower_triangle(x)), bits(x.tril()))


@dtypes
def test_and_so_are_the_gradients(dtype: torch.dtype) -> None:
    came = scores(dtype).flip(-1)
    gradients: list[Tensor] = []
    for mask in (masked, filled):
        x = scores(dtype).requires_grad_()
        gradients += torch.autograd.grad(mask(x, HIDDEN), x, came)
    assert torch.equal(bits(gradients[0]), bits(gradients[1]))


def test_gradients_of_any_order_are_right() -> None:
    x = torch.randn(2, 7, 7, dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor) -> Tensor:
        return masked(x, HIDDEN).softmax(-1).square()

    assert torch.autograd.gradcheck(loss, x)
    assert torch.autograd.gradgradcheck(loss, x)


def directional(mask: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        tangent: Tensor = forward_ad.unpack_dual(mask(dual, HIDDEN)).tangent
        return tangent.clone()


def mapped(mask: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    def total(one: Tensor) -> Tensor:
        return mask(one, HIDDEN).softmax(-1).square().sum()

    return torch.vmap(torch.func.grad(total))(x)


def many_at_once(mask: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    def per_row(x: Tensor) -> Tensor:
        return mask(x, HIDDEN).softmax(-1).square().sum((0, 2))

    found: Tensor = torch.autograd.functional.jacobian(per_row, x, vectorize=True)
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of its own use of torch.jit
@pytest.mark.parametrize("how", [directional, mapped, many_at_once])
def test_other_ways_to_differentiate(how: Callable[..., Tensor]) -> None:
    x = torch.randn(3, 7, 7)
    assert torch.equal(how(masked, x), how(filled, x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_trace_has_torch_operations_alone() -> None:
    x = torch.randn(7, 7)
    traced = torch.jit.trace(lambda x: masked(x, HIDDEN), x)
    assert "aten::masked_fill" in str(traced.graph)
    assert torch.equal(traced(2 * x), filled(2 * x, HIDDEN))


def test_a_mode_that_follows_functions_sees_the_one_of_the_mask() -> None:
    seen = []

    class Follows(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    with Follows():
        masked(torch.randn(7, 7), HIDDEN)
    assert "masked_fill" in seen
