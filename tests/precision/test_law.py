"""FP16 products of a whole precision mode obey one law: emulated on a CPU, and a GPU's own."""

from collections.abc import Callable

import pytest
import torch
from devices import DEVICES
from torch import Tensor

from gradlab.config import PrecisionConfig
from gradlab.precision.precision import resolve


def products(a: Tensor, b: Tensor, device: str) -> Tensor:
    precision = resolve(PrecisionConfig(name="fp16"), torch.device(device))
    with precision.arithmetic(), precision.autocast():
        return (a.to(device) @ b.to(device)).cpu()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        pytest.param((64, 48, 32), 1.0, id="small"),
        pytest.param((8, 16384, 8), 1.0, id="long: K may be split"),
        pytest.param((64, 256, 64), 90.0, id="around the largest"),
        pytest.param((64, 64, 64), 2.0**-11, id="subnormal"),
    ],
)
def test_products(
    device: str,
    shape: tuple[int, int, int],
    size: float,
    generator: torch.Generator,
    holds: Callable[..., None],
) -> None:
    rows, terms, columns = shape
    a = (size * torch.randn(rows, terms, generator=generator)).half()
    b = (size * torch.randn(terms, columns, generator=generator)).half()
    exact, magnitude = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    holds(products(a, b, device), exact, terms, magnitude)


@pytest.mark.parametrize("device", DEVICES)
def test_sums_keep_what_an_fp16_sum_would_lose(device: str) -> None:
    a = torch.ones(16, 8192)
    a[:, 0] = 4096  # to which adding one by one changes nothing in FP16
    assert (products(a, torch.ones(8192, 16), device) == 4096 + 8191 + 1).all()


@pytest.mark.gpu
def test_a_gpu_overflows_where_the_emulation_does() -> None:
    values = torch.tensor([65503.0, 65504.0, 65519.0, 65520.0, 65521.0, 70000.0, -65520.0])
    a = torch.stack([values // 16, values % 16], 1)  # both exact in FP16
    b = torch.tensor([[16.0], [1.0]])
    assert torch.equal(products(a, b, "cpu"), products(a, b, "cuda"))
