import pytest
import torch
from torch import nn

from gradlab.probes.engine.again import is_lost


def test_a_norm_beyond_fp16_of_finite_gradients_is_no_loss() -> None:
    weight = nn.Parameter(torch.zeros(64, 64, dtype=torch.float16))
    weight.grad = torch.full_like(weight, 7000.0)  # their norm is 448,000
    assert not is_lost([{"weight": weight}], None)
    weight.grad[3, 5] = torch.inf
    assert is_lost([{"weight": weight}], None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nor_is_one_whose_squares_are_beyond_fp32(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.zeros(8, dtype=dtype))
    weight.grad = torch.full_like(weight, 1e30)
    assert not is_lost([{"weight": weight}], None)
    for lost in (torch.inf, -torch.inf, torch.nan):
        weight.grad[5] = lost
        assert is_lost([{"weight": weight}], None)


def test_an_empty_gradient_is_none_that_is_lost() -> None:
    weight, empty = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(0, 8))
    weight.grad, empty.grad = torch.full_like(weight, 1e30), torch.zeros_like(empty)
    held = [{"weight": weight, "empty": empty}]
    assert not is_lost(held, None)
    for lost in (torch.inf, torch.nan):
        weight.grad[5] = lost
        assert is_lost(held, None)
