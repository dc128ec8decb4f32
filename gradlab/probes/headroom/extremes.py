"""A step's extremes on their way to the host: a few tensors, not hundreds."""

import math

import torch
from torch import Tensor

from gradlab.fp16 import FP16_OVERFLOW

_LARGE = 2**15
"""Entries from which a sum of squares is read in less time than extremes are."""
_MEAN_SQUARE = 1e-30
"""Below it, the squares of many entries are below the range of fp32."""
_ROWS = 128
"""Rows of a new buffer; one that is full doubles."""


class Extremes:
    """Smallest and largest entry of the tensors that a step shows.

    On a GPU they stay there: their memory is used again at every step, no tensor's numbers are
    allocated, and a step's are put together at once. On a CPU they are read at once, without a call
    into torch.
    """

    last = (1.0, 1.0)
    """Those of the tensor taken last, if it is on a CPU; else numbers that are finite and not 0."""

    def __init__(self) -> None:
        self._kept: dict[tuple[torch.device, torch.dtype], _OnHost | _OnDevice] = {}
        # Not one list of pairs: objects that stay are work for Python's garbage collector.
        self._taken: list[_OnHost | _OnDevice] = []
        self._rows: list[int] = []

    def clear(self) -> None:
        """Forget what was taken."""
        self._taken.clear()
        self._rows.clear()
        for kept in self._kept.values():
            kept.clear()

    def take(self, x: Tensor) -> bool:
        """Take in a tensor that has entries, in one read; both are NaN if any entry is NaN.

        Returns:
            False if it is on a CPU, where nothing waits for this look, and not finite.
        """
        kept = self._kept.get((x.device, x.dtype)) or self._start(x)
        self._taken.append(kept)
        self._rows.append(kept.used)
        self.last = low, high = kept.take(x)
        return -math.inf < low and high < math.inf

    def take_bound(self, x: Tensor) -> bool:
        """Take in what no entry of a large tensor exceeds: the root of the sum of their squares.

        That is half the work. As no square is negative, none was infinite or NaN where the sum is
        finite; and where it is less than the square of what FP16 overflows at, so is each.

        Returns:
            Whether it was taken: not if the tensor is not fp32 and on a CPU, or its entries are so
            small (all zero, too), so large or so many that their squares do not say that.
        """
        kept = self._kept.get((x.device, x.dtype)) or self._start(x)
        if not isinstance(kept, _OnHost) or (bound := _bound(x)) is None:
            return False
        self._taken.append(kept)
        self._rows.append(kept.used)
        self.last = -bound, bound
        kept.put(-bound, bound)
        return True

    def together(self) -> tuple[Tensor, list[int]]:
        """What was taken since `clear`, something at least.

        Returns:
            (n, 2), low and high, those of one dtype and device together; and for each tensor, in
            the order of taking, its row in there.
        """
        first: dict[_OnHost | _OnDevice, int] = {}
        parts: list[Tensor] = []
        for kept in self._kept.values():
            first[kept] = sum(map(len, parts))
            parts.append(kept.numbers())
        whole = torch.cat([part.to(parts[0].device) for part in parts])
        places = zip(self._taken, self._rows, strict=True)
        return whole, [first[kept] + row for kept, row in places]

    def _start(self, x: Tensor) -> "_OnHost | _OnDevice":
        kept = _OnHost(x.dtype) if x.is_cpu else _OnDevice(x.device, x.dtype)
        self._kept[x.device, x.dtype] = kept
        return kept


def _bound(x: Tensor) -> float | None:
    numel = x.numel()
    if numel < _LARGE or x.dtype is not torch.float32 or not x.is_contiguous():
        return None
    entries = x.view(-1)
    squares = torch.dot(entries, entries).item()
    return math.sqrt(squares) if _MEAN_SQUARE * numel < squares < FP16_OVERFLOW**2 else None


class _OnHost:
    """Numbers of one dtype, read as they are taken: one pair of tensors serves all.

    Attributes:
        used: How many tensors were taken.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        pair = torch.empty(2, dtype=dtype)
        self._low, self._high = self._pair = pair.unbind()
        # NumPy has no bfloat16.
        self._read = None if dtype is torch.bfloat16 else pair.numpy().tolist
        self.clear()

    def clear(self) -> None:
        self._found: list[float] = []
        self.used = 0

    def take(self, x: Tensor) -> tuple[float, float]:
        torch.aminmax(x, out=self._pair)
        low, high = self._read() if self._read else (self._low.item(), self._high.item())
        self.put(low, high)
        return low, high

    def put(self, low: float, high: float) -> None:
        self._found += low, high
        self.used += 1

    def numbers(self) -> Tensor:
        return torch.tensor(self._found, dtype=torch.float64).view(-1, 2)


class _OnDevice:
    """Rows of a buffer of one dtype on one device.

    Attributes:
        used: Rows that are taken.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.used = 0
        self._hold(torch.empty(_ROWS, 2, device=device, dtype=dtype))

    def clear(self) -> None:
        self.used = 0

    def take(self, x: Tensor) -> tuple[float, float]:
        if self.used == len(self._pairs):
            # Not by torch.cat, which autocast refuses where types mix.
            more = self._numbers.new_empty(2 * self.used, 2)
            more[: self.used] = self._numbers
            self._hold(more)
        torch.aminmax(x, out=self._pairs[self.used])
        self.used += 1
        return Extremes.last

    def numbers(self) -> Tensor:
        return self._numbers[: self.used]

    def _hold(self, numbers: Tensor) -> None:
        self._numbers = numbers  # (rows, 2)
        self._pairs = [row.unbind() for row in numbers]
