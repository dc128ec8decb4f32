"""A step's extremes on their way to the host: a few tensors, not hundreds."""

import math
from collections.abc import Callable

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
        self._host = _OnHost()
        self._devices: dict[tuple[torch.device, torch.dtype], _OnDevice] = {}
        # Not one list of pairs: objects that stay are work for Python's garbage collector.
        self._taken: list[_OnHost | _OnDevice] = []
        self._rows: list[int] = []

    def clear(self) -> None:
        """Forget what was taken."""
        self._taken.clear()
        self._rows = []
        self._host.clear()
        for kept in self._devices.values():
            kept.clear()

    def take(self, x: Tensor) -> bool:
        """Take in a tensor that has entries, in one read; both are NaN if any entry is NaN.

        Returns:
            False if it is on a CPU, where nothing waits for this look, and not finite.
        """
        kept = self._host if x.is_cpu else self._of_device(x)
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
        if not x.is_cpu or (bound := _bound(x)) is None:
            return False
        self._taken.append(self._host)
        self._rows.append(self._host.used)
        self.last = -bound, bound
        self._host.put(-bound, bound)
        return True

    def together(self) -> tuple[list[float] | Tensor, list[float] | Tensor, list[int]]:
        """What was taken since `clear`, something at least.

        Returns:
            Lows and highs, (n,) each: on the host already if all tensors were on a CPU. And for
            each tensor, in the order of taking, its row in there.
        """
        if self._host.used == len(self._rows):
            return *self._host.numbers(), self._rows
        first: dict[_OnHost | _OnDevice, int] = {self._host: 0}
        parts = [torch.tensor(self._host.numbers(), dtype=torch.float64).T]
        for kept in self._devices.values():
            first[kept] = sum(map(len, parts))
            parts.append(kept.numbers())
        whole = torch.cat([part.to(parts[-1].device) for part in parts])
        places = zip(self._taken, self._rows, strict=True)
        return whole[:, 0], whole[:, 1], [first[kept] + row for kept, row in places]

    def _of_device(self, x: Tensor) -> "_OnDevice":
        key = (x.device, x.dtype)
        if (kept := self._devices.get(key)) is None:
            kept = self._devices[key] = _OnDevice(*key)
        return kept


def _bound(x: Tensor) -> float | None:
    numel = x.numel()
    if numel < _LARGE or x.dtype is not torch.float32 or not x.is_contiguous():
        return None
    entries = x.view(-1)
    squares = torch.dot(entries, entries).item()
    return math.sqrt(squares) if _MEAN_SQUARE * numel < squares < FP16_OVERFLOW**2 else None


class _OnHost:
    """Numbers read as they are taken: one pair of tensors a dtype serves all.

    Attributes:
        used: How many tensors were taken.
    """

    def __init__(self) -> None:
        self._readers: dict[torch.dtype, tuple[tuple[Tensor, ...], Callable[[], list[float]]]] = {}
        self.clear()

    def clear(self) -> None:
        self._found: list[float] = []  # low and high in turn
        self.used = 0

    def take(self, x: Tensor) -> tuple[float, float]:
        pair, read = self._readers.get(x.dtype) or self._start(x.dtype)
        torch.aminmax(x, out=pair)
        low, high = read()
        self.put(low, high)
        return low, high

    def put(self, low: float, high: float) -> None:
        self._found += low, high
        self.used += 1

    def numbers(self) -> tuple[list[float], list[float]]:
        return self._found[::2], self._found[1::2]

    def _start(self, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], Callable[[], list[float]]]:
        pair = torch.empty(2, dtype=dtype)
        # NumPy has no bfloat16.
        read = pair.tolist if dtype is torch.bfloat16 else pair.numpy().tolist
        self._readers[dtype] = reader = pair.unbind(), read
        return reader


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
