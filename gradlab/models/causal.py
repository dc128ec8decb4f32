"""What a causal mask leaves of scores, by bits on a CPU.

There `masked_fill` and `tril` go from entry to entry, which takes up to ten times as long as an
operation on whole vectors: in a small model longer than the softmax. An AND with all bits or none
keeps or clears an entry whatever it holds, inf and NaN included: the results are theirs to the bit.
"""

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor
from torch.autograd import forward_ad

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def masked(scores: Tensor, hidden: Tensor) -> Tensor:
    """`scores.masked_fill(hidden, -inf)`.

    Args:
        scores: (..., T, T), floating.
        hidden: (T, T) bool.
    """
    if _is_plain(scores):
        result: Tensor = _Masked.apply(scores, hidden)  # type: ignore[no-untyped-call]
        return result
    return scores.masked_fill(hidden, -torch.inf)


def lower_triangle(x: Tensor) -> Tensor:
    """`x.tril()` of a tensor (..., T, T) without a history."""
    if not _is_plain(x):
        return x.tril()
    bits = _BITS[x.itemsize]
    kept = torch.full(x.shape[-2:], -1, dtype=bits, device=x.device).tril_()
    return (x.view(bits) & kept).view(x.dtype)


def _is_plain(x: Tensor) -> bool:
    """Whether it is computed with here and now, and nobody has to know of the operation's name."""
    return (
        type(x) is Tensor
        and x.is_cpu
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and not torch._C._len_torch_function_stack()
        and not is_functorch_wrapped_tensor(x)
        and not is_legacy_batchedtensor(x)
        and forward_ad._current_level < 0
    )


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, hidden: Tensor) -> Tensor:
        ctx.save_for_backward(hidden)
        bits = _BITS[scores.itemsize]
        kept = hidden.to(bits).sub_(1)  # all bits where it is False, none where it is True
        lowest = torch.full((), -torch.inf, dtype=scores.dtype, device="cpu").view(bits)
        return (scores.view(bits) & kept).bitwise_or_(lowest & ~kept).view(scores.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (hidden,) = ctx.saved_tensors
        return _kept(gradient, hidden), None


def _kept(gradient: Tensor, hidden: Tensor) -> Tensor:
    if not _is_plain(gradient):  # several at a time, as for a Jacobian
        return gradient.masked_fill(hidden, 0.0)
    result: Tensor = _Kept.apply(gradient, hidden)  # type: ignore[no-untyped-call]
    return result


class _Kept(torch.autograd.Function):
    """0 where hidden: the gradient there, and its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, hidden: Tensor) -> Tensor:
        ctx.save_for_backward(hidden)
        bits = _BITS[x.itemsize]
        return (x.view(bits) & hidden.to(bits).sub_(1)).view(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (hidden,) = ctx.saved_tensors
        return _kept(gradient, hidden), None
