import math

import pytest
import torch
from torch import Tensor

from gradlab.probes.headroom.extremes import Extremes

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def shown(extremes: Extremes) -> list[list[float]]:
    numbers, rows = extremes.together()
    return [numbers[row].tolist() for row in rows]


def tensors(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1 + n % 7, 3, generator=generator).to(DTYPES[n % len(DTYPES)])
        for n in range(count)
    ]


def test_each_tensor_has_its_own_in_the_order_of_taking() -> None:
    extremes = Extremes()
    for count in (5, 700, 3):  # more than a buffer first holds, and fewer again
        extremes.clear()
        given = tensors(count)
        assert all(extremes.take(x) for x in given)
        assert shown(extremes) == [[x.min().item(), x.max().item()] for x in given]


def test_what_was_handed_out_stays() -> None:
    extremes = Extremes()
    extremes.take(torch.ones(3))
    numbers, _ = extremes.together()
    extremes.clear()
    extremes.take(torch.zeros(3))
    assert numbers.tolist() == [[1, 1]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_on_a_cpu_it_says_what_is_not_finite(dtype: torch.dtype, bad: float) -> None:
    extremes = Extremes()
    x = torch.ones(4, dtype=dtype)
    assert extremes.take(x)
    x[2] = bad
    assert not extremes.take(x)
    assert extremes.take(torch.ones(4, dtype=dtype))


def test_elsewhere_nothing_is_read() -> None:
    assert Extremes().take(torch.ones(4, device="meta"))
