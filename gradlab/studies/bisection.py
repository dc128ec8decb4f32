"""Bisection over learning rates: the highest of a row of them that is survived."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gradlab.errors import ConfigError

_MOST = 1000


@dataclass(frozen=True)
class Rates:
    """Rates from `lowest` to `highest` at most, each `factor` times the last.

    They are rounded to four digits, so that the runs at them have names that one can read.

    Raises:
        ConfigError: There are fewer than two such rates, or more than a thousand.
    """

    lowest: float
    highest: float
    factor: float

    def __post_init__(self) -> None:
        if not (0 < self.lowest < self.highest < math.inf and 1 < self.factor < math.inf):
            raise ConfigError(
                f"lowest = {self.lowest:g}, highest = {self.highest:g}, factor = {self.factor:g}: "
                "the rates rise from the lowest to the highest, each by a factor over 1."
            )
        if not 1 <= self._steps <= _MOST:
            raise ConfigError(
                f"factor = {self.factor:g} makes {self._steps + 1} rates of {self.lowest:g} to "
                f"{self.highest:g}: choose one that makes 2 to {_MOST}."
            )

    @property
    def _steps(self) -> int:
        steps = math.log(self.highest / self.lowest) / math.log(self.factor)
        return math.floor(steps + 1e-9)

    @property
    def all(self) -> list[float]:
        """Every rate, in order."""
        each = range(self._steps + 1)
        return [float(f"{self.lowest * self.factor**power:.4g}") for power in each]

    def bracket(self, survived: Mapping[float, bool]) -> tuple[float | None, float | None]:
        """The highest rate survived, and the lowest not, as far as bisection has come.

        A rate under one that was survived counts as survived, unless bisection itself found
        otherwise, and one over one that was not as not.

        Args:
            survived: Of the rates tried, whether each was.

        Returns:
            None for the first where the lowest was not survived or none has been yet, and for the
            second where the highest was or none has failed yet.
        """
        low, high, _ = self._search(survived)
        rates = self.all
        return (rates[low] if low >= 0 else None), (rates[high] if high < len(rates) else None)

    def next(self, survived: Mapping[float, bool]) -> float | None:
        """The rate to be tried next; None where the two ends are neighbours."""
        return self._search(survived)[2]

    def _search(self, survived: Mapping[float, bool]) -> tuple[int, int, float | None]:
        """Places of the ends, one before the first and one behind the last at the beginning."""
        rates = self.all
        low, high = -1, len(rates)
        while high - low > 1:
            middle = (low + high) // 2
            if rates[middle] not in survived:
                return low, high, rates[middle]
            low, high = (middle, high) if survived[rates[middle]] else (low, middle)
        return low, high, None
