"""A step's extremes on their way to the host: a few tensors, not hundreds."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradlab.fp16 import FP16_OVERFLOW
from gradlab.probes import fused
from gradlab.probes.headroom.together import Together

_INF = math.inf
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

    last: Sequence[float] = (1.0, 1.0)
    """Those of the tensor taken last, if it is on a CPU; else numbers that are finite and not 0."""

    def __init__(self) -> None:
        self._host = _OnHost()
        self._devices: dict[tuple[torch.device, torch.dtype], _OnDevice] = {}
        self.waiting = Together()
        # Not one list of pairs: objects that stay are work for Python's garbage collector.
        self._taken: list[_OnHost | _OnDevice | Together] = []
        self._rows: list[int] = []

    def clear(self) -> None:
        """Forget what was taken."""
        self._taken.clear()
        self._rows = []
        self._host.clear()
        self.waiting.clear()
        for kept in self._devices.values():
            kept.clear()

    def take(self, x: Tensor) -> bool:
        """Take in a tensor that has entries, in one read; both are NaN if any entry is NaN.

        Returns:
            False if it is on a CPU, where nothing waits for this look, and not finite.
        """
        if not x.is_cpu:
            self._take_there(x)
            return True
        # Few calls: a step has hundreds of looks, and most take no longer than a call does.
        host = self._host
        self._taken.append(host)
        self._rows.append(len(host.low))
        pair, read = host.readers.get(x.dtype) or host.start(x.dtype)
        torch.aminmax(x if x.is_contiguous() else fused.in_order(x), out=pair)
        self.last = low, high = read()
        host.low.append(low)
        host.high.append(high)
        return low > -_INF and high < _INF

    def take_later(self, x: Tensor) -> bool:
        """Take in a tensor that stays as it is until `waiting.read`, with others in one read.

        Returns:
            Whether it was taken: on a GPU, where there are kernels for that.
        """
        if not (self.waiting.is_safe and fused.takes(x)):
            return False
        self._taken.append(self.waiting)
        self._rows.append(self.waiting.used)
        self.waiting.note(x)
        return True

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
        self._rows.append(len(self._host.low))
        self._host.low.append(-bound)
        self._host.high.append(bound)
        self.last = [-bound, bound]
        return True

    def together(self) -> tuple[list[float] | Tensor, list[float] | Tensor, list[int]]:
        """What was taken since `clear`, something at least.

        Returns:
            Lows and highs, (n,) each: on the host already if all tensors were on a CPU. And for
            each tensor, in the order of taking, its row in there.
        """
        low, high = self._host.low, self._host.high
        if len(low) == len(self._rows):
            return low, high, self._rows
        first: dict[_OnHost | _OnDevice | Together, int] = {self._host: 0}
        parts = [torch.tensor([low, high], dtype=torch.float64, device="cpu").T] if low else []
        waiting = (self.waiting,) if self.waiting.used else ()
        for kept in (*self._devices.values(), *waiting):
            first[kept] = sum(map(len, parts))
            parts.append(kept.numbers())
        whole = torch.cat([part.to(parts[-1].device) for part in parts])
        places = zip(self._taken, self._rows, strict=True)
        return whole[:, 0], whole[:, 1], [first[kept] + row for kept, row in places]

    def _take_there(self, x: Tensor) -> None:
        key = (x.device, x.dtype)
        if (kept := self._devices.get(key)) is None:
            kept = self._devices[key] = _OnDevice(*key)
        self._taken.append(kept)
        self._rows.append(kept.used)
        self.last = Extremes.last
        kept.take(x)


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
        low, high: Of the tensors taken.
        readers: Of each dtype seen, where `aminmax` leaves its results, and what reads them.
    """

    def __init__(self) -> None:
        self.readers: dict[torch.dtype, tuple[tuple[Tensor, ...], Callable[[], list[float]]]] = {}
        self.clear()

    def clear(self) -> None:
        self.low: list[float] = []
        self.high: list[float] = []

    def start(self, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], Callable[[], list[float]]]:
        pair = torch.empty(2, dtype=dtype, device="cpu")
        # NumPy has no bfloat16.
        read = pair.tolist if dtype is torch.bfloat16 else pair.numpy().tolist
        self.readers[dtype] = reader = pair.unbind(), read
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

    def take(self, x: Tensor) -> None:
        if self.used == len(self._pairs):
            # Not by torch.cat, which autocast refuses where types mix.
            more = self._numbers.new_empty(2 * self.used, 2)
            more[: self.used] = self._numbers
            self._hold(more)
        torch.aminmax(fused.in_order(x), out=self._pairs[self.used])
        self.used += 1

    def numbers(self) -> Tensor:
        return self._numbers[: self.used]

    def _hold(self, numbers: Tensor) -> None:
        self._numbers = numbers  # (rows, 2)
        self._pairs = [row.unbind() for row in numbers]
