import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradlab.fp16 import headroom_bits
from gradlab.probes import statistics
from gradlab.probes.statistics import details, extremes

halves = hnp.arrays(np.float16, st.integers(1, 40), elements=st.floats(width=16, allow_nan=True))


@given(halves)
def test_details_are_numpys_counts(values: np.ndarray) -> None:
    wide = values.astype(np.float64)
    finite = np.abs(wide[np.isfinite(wide)])
    expected = [
        finite.max(initial=0.0),
        np.isinf(wide).sum(),
        np.isnan(wide).sum(),
        (np.abs(wide) >= 2.0**-14).sum(),
        (wide != 0).sum(),  # NaN and inf are not zero
    ]
    assert details(torch.from_numpy(values)).tolist() == expected


@pytest.mark.parametrize("shape", [(1000,), (7, 11, 13), (1000, 1), (1, 1001), (3, 1, 333)])
@pytest.mark.parametrize("piece", [1, 10, 64])
def test_details_of_pieces_are_those_of_the_whole(
    shape: tuple[int, ...], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 2.0**-14
    x.view(-1)[[3, 5, -1]] = torch.tensor([math.inf, math.nan, -math.inf])
    forms = [x, x.movedim(0, -1), x.half(), x.repeat_interleave(2, -1)[..., ::2]]
    wholes = [details(form) for form in forms]
    monkeypatch.setattr(statistics, "_PIECE", piece)
    for form, whole in zip(forms, wholes, strict=True):
        assert max(part.numel() for part in statistics._pieces(form)) <= piece
        assert torch.equal(details(form), whole)


@given(halves)
def test_extremes_show_whatever_is_not_finite(values: np.ndarray) -> None:
    low, high = (bound.item() for bound in extremes(torch.from_numpy(values)))
    if np.isnan(values).any():
        assert math.isnan(low)
        assert math.isnan(high)
    else:
        assert (low, high) == (values.min(), values.max())


@pytest.mark.parametrize(
    ("max_abs", "bits"),
    [(65504.0, 0.0), (32752.0, 1.0), (1.0, math.log2(65504)), (131008.0, -1.0), (0.0, math.inf)],
)
def test_headroom_bits(max_abs: float, bits: float) -> None:
    assert headroom_bits(max_abs) == pytest.approx(bits)
    assert headroom_bits(max_abs, nonfinite=True) == -math.inf
