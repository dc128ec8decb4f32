"""The training loss, and what may be added to it."""

from torch import Tensor
from torch.nn import functional as F

from gradlab.models.numerics import at_least_fp32

UNCHOSEN = -100
"""The target of a place whose token need not be told."""


def token_loss(logits: Tensor, targets: Tensor, count: float | None = None) -> Tensor:
    """Mean cross-entropy in nats a target, from a log-softmax in fp32 or wider.

    Args:
        logits: (B, T, vocab), any floating dtype.
        targets: (B, T) int64, the token to be told at each place: of a causal model the next one,
            of a masked one what a chosen place hides, and `UNCHOSEN` elsewhere: that counts not.
        count: What the sum over targets is divided by, where they are part of a batch; their own
            number unless given.

    Returns:
        A scalar in fp32, or float64 for float64 logits.
    """
    wide = logits.flatten(0, -2).to(at_least_fp32(logits.dtype))
    if count is None:
        return F.cross_entropy(wide, targets.flatten(), ignore_index=UNCHOSEN)
    total = F.cross_entropy(wide, targets.flatten(), ignore_index=UNCHOSEN, reduction="sum")
    return total / count


def z_loss(logits: Tensor, targets: Tensor, count: float | None = None) -> Tensor:
    """Mean of (ln Z)², Z the sum of a token's exponentiated logits (Wortsman et al., 2023, 3.1.2).

    Added to the loss with a small weight it keeps the logits near where ln Z is 0.

    Args:
        logits: (B, T, vocab), any floating dtype.
        targets: As of `token_loss`; the mean is over the places that it counts.
        count: As of `token_loss`.

    Returns:
        A scalar in fp32, or float64 for float64 logits.
    """
    wide = logits.to(at_least_fp32(logits.dtype))
    counted = targets != UNCHOSEN
    return wide.logsumexp(dim=-1).square().where(counted, 0.0).sum() / (
        counted.sum() if count is None else count
    )
