"""A step's extremes on their way to the host: rows of a few buffers, not hundreds of tensors."""

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

    Their memory is used again at every step. So no tensor's numbers are allocated, a step's are put
    together at once, and on a CPU they are read without a call into torch.
    """

    last = (1.0, 1.0)
    """Those of the tensor taken last, if it is on a CPU; else numbers that are finite and not 0."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.device, torch.dtype], _Buffer] = {}
        self._taken: list[tuple[_Buffer, int]] = []

    def clear(self) -> None:
        """Forget what was taken."""
        self._taken.clear()
        for buffer in self._buffers.values():
            buffer.used = 0

    def take(self, x: Tensor) -> bool:
        """Take in a tensor that has entries, in one read; both are NaN if any entry is NaN.

        Returns:
            False if it is on a CPU, where nothing waits for this look, and not finite.
        """
        buffer = self._next_row(x)
        pair = buffer.pairs[buffer.used]
        torch.aminmax(x, out=pair)
        if buffer.number is not None:
            low, high = buffer.number(buffer.used, 0), buffer.number(buffer.used, 1)
        elif buffer.numbers.is_cpu:
            low, high = pair[0].float().numpy().item(), pair[1].float().numpy().item()
        else:
            low, high = Extremes.last
        buffer.used += 1
        self.last = low, high
        is_finite: bool = -math.inf < low and high < math.inf
        return is_finite

    def take_bound(self, x: Tensor) -> bool:
        """Take in what no entry of a large tensor exceeds: the root of the sum of their squares.

        That is half the work. As no square is negative, none was infinite or NaN where the sum is
        finite; and where it is less than the square of what FP16 overflows at, so is each.

        Returns:
            Whether it was taken: not if the tensor is not fp32 and on a CPU, or its entries are so
            small (all zero, too), so large or so many that their squares do not say that.
        """
        numel = x.numel()
        if numel < _LARGE or x.dtype is not torch.float32 or not x.is_cpu or not x.is_contiguous():
            return False
        entries = x.view(-1)
        squares = torch.dot(entries, entries).item()
        if not _MEAN_SQUARE * numel < squares < FP16_OVERFLOW**2:
            return False
        buffer, largest = self._next_row(x), math.sqrt(squares)
        self.last = -largest, largest
        buffer.numbers.numpy()[buffer.used] = self.last
        buffer.used += 1
        return True

    def _next_row(self, x: Tensor) -> "_Buffer":
        """The buffer in which a tensor comes next, with room for it."""
        kind = x.device, x.dtype
        buffer = self._buffers.get(kind)
        if buffer is None:
            buffer = self._buffers[kind] = _Buffer(*kind)
        elif buffer.used == len(buffer.pairs):
            buffer.grow()
        self._taken.append((buffer, buffer.used))
        return buffer

    def together(self) -> tuple[Tensor, list[int]]:
        """What was taken since `clear`, something at least.

        Returns:
            (n, 2), low and high, those of one dtype and device together; and for each tensor, in
            the order of taking, its row in there.
        """
        first: dict[_Buffer, int] = {}
        parts: list[Tensor] = []
        for buffer in self._buffers.values():
            first[buffer] = sum(map(len, parts))
            parts.append(buffer.numbers[: buffer.used])
        whole = torch.cat([part.to(parts[0].device) for part in parts])
        return whole, [first[buffer] + row for buffer, row in self._taken]


class _Buffer:
    """Rows of one dtype on one device.

    Attributes:
        used: Rows that are taken.
        numbers: (rows, 2).
        pairs: Both numbers of each row.
        number: Reads one, by row and column, on a CPU; not of bfloat16, which NumPy has not.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.used = 0
        self._hold(torch.empty(_ROWS, 2, device=device, dtype=dtype))

    def _hold(self, numbers: Tensor) -> None:
        self.numbers = numbers
        self.pairs = [row.unbind() for row in numbers]
        readable = numbers.is_cpu and numbers.dtype is not torch.bfloat16
        self.number = numbers.numpy().item if readable else None

    def grow(self) -> None:
        """Make room for as many again."""
        # Not by torch.cat, which autocast refuses where types mix.
        more = self.numbers.new_empty(2 * self.used, 2)
        more[: self.used] = self.numbers
        self._hold(more)
