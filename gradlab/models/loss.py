"""The training loss."""

from torch import Tensor
from torch.nn import functional as F

from gradlab.models.numerics import at_least_fp32


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats a token, from a log-softmax in fp32 or wider.

    Args:
        logits: (B, T, vocab), any floating dtype.
        targets: (B, T) int64, the token that follows each place.

    Returns:
        A scalar in fp32, or float64 for float64 logits.
    """
    wide = logits.flatten(0, -2).to(at_least_fp32(logits.dtype))
    return F.cross_entropy(wide, targets.flatten())
