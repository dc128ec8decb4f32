"""When a run will overflow, from how its headroom has fallen so far. Needs no torch."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gradlab.fp16 import headroom_bits

HALF_LIFE = 50
"""Steps after which a row counts half; `LEAST_ROWS` rows where those are further apart."""

LEAST_ROWS = 5
"""Rows of a site from which on it has a trend."""

NEAR_BITS = 3.0
"""Bits left from which on a trend counts: early in training headroom falls fast and then stops."""

HORIZON = 200
"""Steps ahead that a trend is followed."""

Tables: TypeAlias = Iterable[Mapping[str, Mapping[str, Sequence[Any]]]]
"""Rows of a step by table and column, of each probe."""


@dataclass(frozen=True)
class Forecast:
    """That a run will overflow.

    Attributes:
        site: Where.
        overflow_step: At which step.
    """

    site: str
    overflow_step: int


class Forecaster:
    """Follows the headroom of every FP16 site, and says which is used up first, and when.

    Through a site's bits goes a straight line by least squares, in which a row counts half as much
    `HALF_LIFE` steps later (discounted least squares; R. G. Brown, Smoothing, Forecasting and
    Prediction of Discrete Time Series, 1963). Where the line stands at `NEAR_BITS` or less and
    comes to 0 within `HORIZON` steps, that is the forecast. Bits are logarithms: what grows by the
    same factor each step loses the same number of bits. Many things grow ever more slowly, and
    then jump: the last bit goes in a few steps. So the line is early at first, and late at the end.

    Only what was seen up to a step is used, six numbers a site. Of the passes only the forward one
    counts: where a gradient overflows, a loss scaler skips the step and goes on.
    """

    def __init__(self) -> None:
        self._step = 0
        self._sites: dict[str, int] = {}
        self._sums = np.zeros((6, 0))

    def state(self) -> dict[str, Any]:
        """What it has seen so far, for `restore`; JSON can hold it."""
        return {"step": self._step, "sites": [*self._sites], "sums": self._sums.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, and JSON gave back."""
        self._step = state["step"]
        self._sites = {site: index for index, site in enumerate(state["sites"])}
        self._sums = np.array(state["sums"], np.float64).reshape(6, -1)

    def take(self, step: int, tables: Tables) -> Forecast | None:
        """Take in a step's rows of `headroom` and `scores`; the overflow that is nearest now.

        None if nothing is within `HORIZON` steps, and where a site has overflowed: such a step
        says nothing of the others, and is not counted.

        Args:
            step: Later than that of the last call.
            tables: Rows of earlier steps among them are not looked at.
        """
        bits = _narrow_bits(step, tables)
        if not bits or not all(left > -math.inf for left in bits.values()):  # or it is NaN
            return None
        finite = {site: left for site, left in bits.items() if left < math.inf}
        if not finite:
            return None
        for site in finite:
            self._sites.setdefault(site, len(self._sites))
        seen = [self._sites[site] for site in finite]
        self._add(step, seen, np.array([*finite.values()]))
        return self._nearest(step, [*finite], self._sums[:, seen])

    def _add(self, step: int, seen: Sequence[int], bits: "np.ndarray[Any, Any]") -> None:
        """Let the rows so far grow older, and add one of each site that was seen."""
        new = len(self._sites) - self._sums.shape[1]
        rows, w, wa, waa, wb, wab = np.pad(self._sums, [(0, 0), (0, new)])
        age, self._step = step - self._step, step
        less = 0.5 ** min(age / HALF_LIFE, 1 / LEAST_ROWS)
        aged = (w, wa + age * w, waa + 2 * age * wa + age * age * w, wb, wab + age * wb)
        self._sums = np.stack([rows, *(less * one for one in aged)])
        for index, more in ((0, 1.0), (1, 1.0), (4, bits)):
            self._sums[index, seen] += more

    def _nearest(
        self, step: int, sites: Sequence[str], sums: "np.ndarray[Any, Any]"
    ) -> Forecast | None:
        """Where the lines of these sites come to 0 first.

        With the weight w, age a (0 now) and bits b of a row, the sums are of 1, w, wa, wa², wb and
        wab; the line is b = level + fall · a.
        """
        rows, w, wa, waa, wb, wab = sums
        det = w * waa - wa * wa
        det[(rows < LEAST_ROWS) | (det <= 0)] = np.inf
        level, fall = (wb * waa - wab * wa) / det, (wab * w - wb * wa) / det
        falls = (fall > 0) & (level <= NEAR_BITS)
        left = np.where(falls, np.maximum(0.0, level) / np.where(falls, fall, 1.0), np.inf)
        first = int(left.argmin())
        if left[first] > HORIZON:
            return None
        return Forecast(sites[first], step + max(1, round(left[first])))


def _narrow_bits(step: int, tables: Tables) -> dict[str, float]:
    """Bits left at a step in the forward pass, by FP16 site; −inf where one has overflowed.

    Attention scores have no dtype in their table: they count where they are tensors, as those of
    fused attention are not, which have an upper bound, and where other tensors are FP16.

    Args:
        step: The step.
        tables: Its rows.
    """
    found: dict[str, float] = {}
    scores: dict[str, float] = {}
    fused = set()
    for rows in tables:
        found |= {
            site: left
            for site, direction, dtype, left in _at(step, rows.get("headroom"), _HEADROOM)
            if direction == "forward" and dtype == "float16"
        }
        for site, high, size, bound in _at(step, rows.get("scores"), _SCORES):
            lost = not high < math.inf
            if bound == "upper":
                fused.add(site)
            elif bound == "exact" and (lost or size < math.inf):  # a score of −inf does no harm
                left = headroom_bits(size, nonfinite=lost)
                scores[site] = min(left, scores.get(site, math.inf))
    if found:  # a module with scores inside is a site by what it gives, too
        of = {site: left for site, left in scores.items() if site not in fused}
        found |= {site: min(left, found.get(site, math.inf)) for site, left in of.items()}
    return found


_HEADROOM = ("site", "direction", "dtype", "headroom_bits")
_SCORES = ("site", "max", "max_abs", "bound")


def _at(
    step: int, table: Mapping[str, Sequence[Any]] | None, columns: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """These columns of a step's rows."""
    if table is not None:
        steps, rows = table["step"], zip(*(table[name] for name in columns), strict=True)
        yield from (row for at, row in zip(steps, rows, strict=True) if at == step)
