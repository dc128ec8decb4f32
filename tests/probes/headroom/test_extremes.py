import math

import pytest
import torch
from torch import Tensor

from gradlab.probes.headroom.extremes import Extremes

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def shown(extremes: Extremes) -> list[list[float]]:
    low, high, rows = extremes.together()
    return [[float(low[row]), float(high[row])] for row in rows]


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


@pytest.mark.parametrize("dtype", DTYPES)
def test_however_a_tensor_lies_in_memory(dtype: torch.dtype) -> None:
    whole = torch.arange(-5.0, 19.0).view(2, 3, 4).to(dtype)
    views = (whole.mT, whole.permute(2, 0, 1), whole[:, ::2, 1:], whole[:, :1].expand(2, 3, 4))
    for x in (*views, whole[1, 2, 3], whole[:, 1:2].transpose(0, 2)):
        extremes = Extremes()
        extremes.take(x)
        assert shown(extremes) == [[x.min().item(), x.max().item()]]


def test_what_was_handed_out_stays() -> None:
    extremes = Extremes()
    extremes.take(torch.ones(3))
    handed_out = extremes.together()
    extremes.clear()
    extremes.take(torch.zeros(3))
    assert handed_out == ([1], [1], [0])


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


LARGE = 2**15


@pytest.mark.parametrize("at", [0, 5, LARGE - 1])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan, 65520.0, -1e30, 3e38])
def test_no_bound_where_an_entry_is_not_finite_or_leaves_fp16(bad: float, at: int) -> None:
    extremes = Extremes()
    x = torch.randn(LARGE, generator=torch.Generator().manual_seed(0))
    assert extremes.take_bound(x)
    x[at] = bad
    assert not extremes.take_bound(x)
    extremes.take(x)
    assert len(shown(extremes)) == 2


def test_a_bound_is_none_below_the_largest_entry() -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-10, 1e-3, 1.0, 30.0):
        x = scale * torch.randn(LARGE, generator=generator).pow(3)
        extremes = Extremes()
        assert extremes.take_bound(x)
        ((low, high),) = shown(extremes)
        assert low == -high
        assert x.abs().max() <= high <= 1.0001 * x.double().norm()


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(LARGE - 1),
        torch.ones(LARGE, dtype=torch.float16),
        torch.ones(LARGE, dtype=torch.bfloat16),
        torch.ones(LARGE, dtype=torch.float64),
        torch.ones(2, LARGE)[:, ::2],
        torch.zeros(LARGE),
        torch.full((LARGE,), 1e-25),
        torch.full((LARGE,), 1e3),
        torch.ones(LARGE, device="meta"),
    ],
    ids=["small", "fp16", "bf16", "fp64", "gaps", "zero", "tiny", "many", "meta"],
)
def test_no_bound_where_squares_say_nothing_or_cost_more(x: Tensor) -> None:
    assert not Extremes().take_bound(x)
