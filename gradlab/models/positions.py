"""What is added to the token embeddings so that order matters."""

import math

import torch
from torch import Tensor, nn

FIRST_POSITION = 2
"""fairseq counts positions from its padding index (1) + 1."""


def sinusoidal_table(length: int, d_model: int) -> Tensor:
    """Positions 2 … length + 1 in fairseq's layout: [sin half | cos half].

    Frequencies are exp(−i · ln 10000 / (d_model/2 − 1)), so the last is 1/10000.

    Returns:
        (length, d_model), float64, on the CPU.
    """
    half = d_model // 2
    index = torch.arange(half, dtype=torch.float64, device="cpu")
    frequency = torch.exp(index * (-math.log(10000.0) / max(half - 1, 1)))
    position = torch.arange(length, dtype=torch.float64, device="cpu") + FIRST_POSITION
    angle = position[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class SinusoidalPositions(nn.Module):
    """Fixed sinusoids (Vaswani et al., 2017) in fairseq's layout and the weights' dtype."""

    table: Tensor

    def __init__(self, max_seq_len: int, d_model: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.empty(max_seq_len, d_model), False)
        self._fill()

    def forward(self, length: int) -> Tensor:
        """The first `length` positions, (length, d_model)."""
        return self.table[:length]

    def _fill(self) -> None:
        if not self.table.is_meta:
            exact = sinusoidal_table(*self.table.shape)
            self.table = exact.to(self.table.device, self.table.dtype)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Converting a rounded table to a wider dtype would keep the rounding, and a model that
        # leaves the meta device gets empty memory: the table is made anew.
        self._fill()
        return self


class LearnedPositions(nn.Module):
    """A learned vector for each position: `weight`, (max_seq_len, d_model)."""

    def __init__(self, max_seq_len: int, d_model: int) -> None:
        super().__init__()
        weight = torch.empty(max_seq_len, d_model)
        self.weight = nn.Parameter(weight if weight.is_meta else weight.normal_(std=d_model**-0.5))

    def forward(self, length: int) -> Tensor:
        """The first `length` positions, (length, d_model)."""
        return self.weight[:length]
