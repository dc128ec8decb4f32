"""A step's extremes on their way to the host: rows of a few buffers, not hundreds of tensors."""

import math

import torch
from torch import Tensor

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
        kind = x.device, x.dtype
        buffer = self._buffers.get(kind)
        if buffer is None:
            buffer = self._buffers[kind] = _Buffer(*kind)
        self._taken.append((buffer, buffer.used))
        self.last = low, high = buffer.take(x)
        return low > -math.inf and high < math.inf

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
    """Rows of one dtype on one device."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.used = 0
        self._hold(torch.empty(_ROWS, 2, device=device, dtype=dtype))

    def _hold(self, numbers: Tensor) -> None:
        self.numbers = numbers  # (rows, 2)
        self._on_cpu = numbers.is_cpu
        self._pairs = [row.unbind() for row in numbers]
        # NumPy has no bfloat16.
        readable = numbers.is_cpu and numbers.dtype is not torch.bfloat16
        self._number = numbers.numpy().item if readable else None

    def take(self, x: Tensor) -> tuple[float, float]:
        """Take in a tensor: what `Extremes.last` then is."""
        row = self.used
        if row == len(self._pairs):
            # Not by torch.cat, which autocast refuses where types mix.
            more = self.numbers.new_empty(2 * row, 2)
            more[:row] = self.numbers
            self._hold(more)
        self.used += 1
        pair = self._pairs[row]
        torch.aminmax(x, out=pair)
        if not self._on_cpu:
            return 1.0, 1.0
        if self._number is None:
            return pair[0].float().numpy().item(), pair[1].float().numpy().item()
        return self._number(row, 0), self._number(row, 1)
