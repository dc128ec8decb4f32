"""Gradients of parameters that wait for the end of their backward pass, to be read at once."""

import math

import torch
from torch import Tensor

from gradlab.probes import fused


class Together:
    """Statistics of tensors that one read takes, after several were noted.

    Nothing else may change them before `read`. What torch counts of that is noticed afterwards.

    Attributes:
        used: How many were noted.
        is_safe: Whether nothing has been seen to change one that waited, ever.
    """

    def __init__(self) -> None:
        self.is_safe = True
        self.clear()

    def clear(self) -> None:
        """Forget what was noted."""
        self.used = 0
        self._waiting: list[Tensor] = []
        self._versions: list[int] = []
        self._read: list[Tensor] = []

    def note(self, x: Tensor) -> None:
        """Have a tensor read with the next ones: one that `fused.takes`."""
        self.used += 1
        self._waiting.append(x)
        self._versions.append(x._version)

    def read(self) -> None:
        """Read those that wait."""
        if self._waiting:
            found = fused.statistics(self._waiting)
            assert found is not None  # each is one that the kernels take
            self._read.append(found)
            self.is_safe &= [x._version for x in self._waiting] == self._versions
            self._waiting, self._versions = [], []

    def numbers(self) -> Tensor:
        """(n, 2): bounds of all entries in the order of noting, both NaN if one is NaN."""
        largest, infinite, nan = self._rows()[:, 2:5].unbind(1)
        largest = largest.masked_fill(infinite > 0, math.inf).masked_fill_(nan > 0, math.nan)
        return torch.stack([-largest, largest], 1)

    def counts(self) -> Tensor:
        """(n, 5): as `details` has them."""
        return self._rows()[:, 2:]

    def _rows(self) -> Tensor:
        self.read()
        return self._read[0] if len(self._read) == 1 else torch.cat(self._read)
