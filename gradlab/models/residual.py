"""The residual sum, a module of its own so that a hook can attach to it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """λ_resid ⊙ x + Sublayer(x); without λ_resid the plain sum (NormFormer, section 3.1).

    Dropout stands on the sublayer's output. The sum has the dtype of the skip, which is the
    weights' dtype: a narrower sublayer output is promoted.

    Args:
        scale: Length of λ_resid: d_model for a vector, 1 for a scalar, 0 for none.
        dropout: Probability of zeroing an entry of the sublayer's output in training.
    """

    def __init__(self, scale: int, dropout: float) -> None:
        super().__init__()
        self.lambda_resid = nn.Parameter(torch.ones(scale)) if scale else None
        self.dropout = dropout

    def forward(self, skip: Tensor, sublayer: Tensor) -> Tensor:
        """Sum two (B, T, d_model) tensors."""
        if self.dropout:
            sublayer = F.dropout(sublayer, self.dropout, self.training)
        if self.lambda_resid is not None:
            skip = self.lambda_resid * skip
        return skip + sublayer
