"""The law that FP16 products obey, as a fixture: how far from the exact value they may be."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Law = Callable[..., None]


def _ulp(exact: Tensor) -> Tensor:
    """Spacing of fp16 numbers around |exact|: 2^-24 for subnormals, 32 at the largest."""
    exponent = exact.abs().clamp(2.0**-14, 65504).log2().floor()
    return torch.exp2(exponent - 10)


def _check(actual: Tensor, exact: Tensor, terms: int, magnitude: Tensor, ulps: float = 1) -> None:
    """Hold |actual − exact| ≤ ulps + terms · 2^-23 · Σ|a||b|, and infs and NaNs to their places."""
    assert actual.dtype is torch.float16
    assert actual.shape == exact.shape
    got, slack = actual.double(), terms * 2.0**-23 * magnitude
    finite = exact.isfinite()
    # Not finite because an operand is not: the same whatever the precision.
    assert torch.equal(got[~finite].nan_to_num(7), exact[~finite].nan_to_num(7))
    assert not got[finite].isnan().any()
    sure = finite & ((exact.abs() - 65520).abs() > slack)
    overflows = torch.where(exact.abs() >= 65520, exact.sign() * torch.inf, 0.0)
    assert torch.equal(got[sure].isinf(), overflows[sure].isinf())
    assert torch.equal(got[sure & got.isinf()], overflows[sure & got.isinf()])
    both = finite & got.isfinite()
    excess = ((got - exact).abs() - ulps * _ulp(exact) - slack)[both]
    assert excess.numel() == 0 or excess.max() <= 0


@pytest.fixture(scope="session")
def holds() -> Law:
    """check(actual, exact, terms, Σ|a||b|): the bound on a product of `terms` terms."""
    return _check


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
