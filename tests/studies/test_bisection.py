import math

import pytest

from gradlab.errors import ConfigError
from gradlab.studies.bisection import Rates


@pytest.mark.parametrize("limit", [*range(-1, 9), 8])
def test_bisection_ends_at_the_limit(limit: int) -> None:
    """Against a walk from the lowest rate upwards."""
    rates = Rates(1e-3, 0.256, 2.0)
    assert rates.all == [1e-3 * 2**power for power in range(9)]
    tried: dict[float, bool] = {}
    while (rate := rates.next(tried)) is not None:
        assert rate not in tried
        tried[rate] = rates.all.index(rate) <= limit
    below = [rate for place, rate in enumerate(rates.all) if place <= limit]
    above = rates.all[len(below) :]
    assert rates.bracket(tried) == (below[-1] if below else None, above[0] if above else None)
    assert len(tried) <= math.ceil(math.log2(len(rates.all) + 1))


def test_what_is_known_on_the_way() -> None:
    rates = Rates(1.0, 8.0, 2.0)  # 1, 2, 4, 8
    assert rates.bracket({}) == (None, None)
    assert rates.next({}) == 2.0
    assert rates.bracket({2.0: True}) == (2.0, None)
    assert rates.next({2.0: False, 8.0: True}) == 1.0  # what lies beyond does not count


def test_the_rates_can_be_named() -> None:
    assert Rates(1e-3, 1e-2, 1.7).all == [1e-3, 1.7e-3, 2.89e-3, 4.913e-3, 8.352e-3]


@pytest.mark.parametrize(
    ("lowest", "highest", "factor"),
    [
        *((1.0, 1.0, 2.0), (2.0, 1.0, 2.0), (0.0, 1.0, 2.0), (-1.0, 1.0, 2.0)),
        *((1.0, 2.0, 1.0), (1.0, 2.0, 0.5), (1.0, 2.0, 3.0), (1e-6, 1.0, 1 + 1e-6)),
        *((math.nan, 1.0, 2.0), (1.0, math.inf, 2.0), (1.0, 2.0, math.nan)),
    ],
)
def test_no_row_of_rates(lowest: float, highest: float, factor: float) -> None:
    with pytest.raises(ConfigError):
        Rates(lowest, highest, factor).next({})
