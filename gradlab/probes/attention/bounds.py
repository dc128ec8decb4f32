"""The largest attention scores: of scores that exist, and bounds on those that a kernel hides."""

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from gradlab.parallel.spread import is_spread

MASKING = -1e4
"""What is filled in or added to mask: this or less. Biases by distance stay well above it."""

_CHUNK = 2**22
"""Scores that are computed aside at once: 16 MB in fp32."""


@dataclass(frozen=True)
class Largest:
    """Over the scores of each (batch, head): the largest, and the largest magnitude.

    Both −inf where there is no score. Any number of leading dimensions.
    """

    high: Tensor
    max_abs: Tensor


@dataclass(frozen=True)
class FusedCall:
    """The scores that a fused attention computes: q·k, scaled, not yet masked.

    Query heads that share a key head (grouped-query attention) have a dimension of their own,
    which is 1 without sharing.

    Attributes:
        q: (..., key heads, sharing, T, d_head).
        k: (..., key heads, 1, S, d_head).
        scale: Of q·k.
        offset: Query i sees keys up to i + offset; None if it is not causal.
        mask: Broadcasts to (..., key heads, sharing, T, S): true where a pair is visible, or a
            number that is added to the score; None if there is none.
    """

    q: Tensor
    k: Tensor
    scale: float
    offset: int | None
    mask: Tensor | None

    def hidden(self) -> Tensor | None:
        """The mask, true where a pair is not visible."""
        return None if self.mask is None else masked(self.mask)


def masked(mask: Tensor) -> Tensor:
    """True where a mask hides a pair."""
    return ~mask if mask.dtype is torch.bool else mask <= MASKING


def fused_call(
    query: Tensor,
    key: Tensor,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    autocast: torch.dtype | None = None,
) -> FusedCall | None:
    """What `scaled_dot_product_attention` makes of its arguments; None if it cannot be told.

    Nested and distributed tensors cannot be looked at, and an empty one has no scores.

    Args:
        query: And what follows: the function's own.
        key: As above.
        attn_mask: As above.
        is_causal: As above.
        scale: As above.
        enable_gqa: As above.
        autocast: What autocast makes of q and k before the kernel reads them.
    """
    q, k = query.detach(), key.detach()
    if q.is_nested or is_spread(q) or q.dim() < 2 or not (q.numel() and k.numel()):
        return None
    if autocast is not None:
        q, k = (x if x.dtype is torch.float64 else x.to(autocast) for x in (q, k))
    queries, keys = q.shape[-2], k.shape[-2]
    offset = 0 if is_causal else None
    # Importing that module takes seconds, and without it there can be no such mask.
    biases = sys.modules.get("torch.nn.attention.bias")
    if biases is not None and isinstance(attn_mask, biases.CausalBias):
        lower_right = attn_mask.variant is biases.CausalVariant.LOWER_RIGHT
        offset, attn_mask = keys - queries if lower_right else 0, None
    if q.dim() == 2:
        q, k = q[None], k[None]
    sharing = q.shape[-3] // k.shape[-3] if enable_gqa else 1
    if attn_mask is not None and attn_mask.dim() > 2:
        each = sharing > 1 and attn_mask.shape[-3] > 1
        attn_mask = _shared(attn_mask, sharing) if each else attn_mask.unsqueeze(-3)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    mask = None if attn_mask is None else attn_mask.detach()
    return FusedCall(_shared(q, sharing), k.unsqueeze(-3), factor, offset, mask)


@contextmanager
def aside(device: torch.device) -> Iterator[torch.dtype | None]:
    """Computing what is no part of the step: no gradients, no autocast, unseen by dispatch modes.

    Selective checkpointing is a mode that hands a step's own results out again, in their order.

    Yields:
        The dtype of the autocast that is turned off meanwhile; None if there is none.
    """
    kind = device.type
    with ExitStack() as stack:
        stack.enter_context(_disable_current_modes())
        stack.enter_context(torch.no_grad())
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
            yield torch.get_autocast_dtype(kind)
        else:
            yield None


def largest(scores: Tensor, hidden: Tensor | None = None) -> Largest:
    """Of scores that are there, (..., T, S); `hidden` is true at those that do not count."""
    high = (scores if hidden is None else scores.masked_fill(hidden, -_INF)).amax((-2, -1))
    low = (scores if hidden is None else scores.masked_fill(hidden, _INF)).amin((-2, -1))
    return Largest(high, torch.maximum(high, -low))


def unmasked(scores: Tensor, masked: float) -> Largest:
    """Of scores (..., T, S) of which those at or below a number do not count."""
    high = scores.amax((-2, -1))
    low = scores.masked_fill(scores <= masked, _INF).amin((-2, -1))
    high = torch.where(high <= masked, -_INF, high)
    return Largest(high, torch.maximum(high, -low))


def causal(scores: Tensor) -> Largest:
    """Of scores (..., T, T) of which those above the diagonal do not count."""
    return largest(scores, _later(scores.shape[-2], scores.shape[-1], 0, scores.device))


def upper_bound(call: FusedCall) -> Tensor:
    """No score of a (batch, head) is larger in magnitude: max‖q‖ · max‖k‖ · |scale|.

    Cauchy–Schwarz, widened by what rounding and underflow can take off.
    """
    info = torch.finfo(_wide(call.q))
    product = _longest(call.q) * _longest(call.k) * abs(call.scale)
    return (product * (1 + 4 * info.eps) + info.tiny).flatten(-2)


def lower_bound(call: FusedCall, upper: Tensor) -> Largest | None:
    """From the scores of each query and the key at its own place, where they are visible.

    Without a causal mask the place is the index, in cross-attention too; with one, it is the last
    that the query sees. None if there is no such pair; less is certain where a mask hides them.

    Args:
        call: The attention.
        upper: Its upper bound, on which the error of these scores depends.
    """
    offset = call.offset or 0
    queries, keys, d_head = call.q.shape[-2], call.k.shape[-2], call.q.shape[-1]
    first, last = max(0, -offset), min(queries, keys - offset)
    if first >= last:
        return None
    wide = _wide(call.q)
    q, k = call.q[..., first:last, :], call.k[..., first + offset : last + offset, :]
    scores = torch.linalg.vecdot(q.to(wide), k.to(wide)) * call.scale
    hidden = call.hidden()
    if hidden is not None:
        every = hidden.expand(*hidden.shape[:-2], queries, keys)
        hidden = every.diagonal(offset, -2, -1).unsqueeze(-2)
    seen = largest(scores.unsqueeze(-2), hidden)
    info = torch.finfo(wide)
    error = (2 * d_head + 8) * info.eps * upper + d_head * info.tiny * (1 + abs(call.scale))
    high, max_abs = (
        torch.where(error.isinf(), -_INF, x.flatten(-2) - error) for x in (seen.high, seen.max_abs)
    )
    return Largest(high, max_abs)


@dataclass(frozen=True)
class SomeScores:
    """A part of a fused attention's scores, computed aside.

    Attributes:
        batch: Which of the leading dimensions, as one; all their heads are there.
        scores: (batch, key heads, sharing, T', S'), in fp32 or wider.
        mask: The call's, of the same shape; None if there is none.
        later: (T', S'), true at keys beyond what the query sees; None if it is not causal.
    """

    batch: slice
    scores: Tensor
    mask: Tensor | None
    later: Tensor | None


def some_scores(call: FusedCall, chunk: int = _CHUNK) -> Iterator[SomeScores]:
    """All visible pairs, computed in fp32 or wider, so many scores at once or one query's."""
    lead = torch.broadcast_shapes(call.q.shape[:-3], call.k.shape[:-3])
    sharing, queries, d_head = call.q.shape[-3:]
    keys = call.k.shape[-2]
    q = call.q.expand(*lead, -1, -1, -1).reshape(-1, *lead[-1:], sharing, queries, d_head)
    k = call.k.expand(*lead, -1, -1, -1).reshape(-1, *lead[-1:], keys, d_head)
    mask = call.mask
    if mask is not None:
        mask = mask.expand(*lead, sharing, queries, keys).reshape(*q.shape[:-1], keys)
    a_query = lead[-1] * sharing * keys
    batch = max(1, chunk // (a_query * queries))
    rows = min(queries, max(1, chunk // a_query))
    for b in range(0, len(q), batch):
        wide_k = k[b : b + batch].to(_wide(k)).mT
        for row in range(0, queries, rows):
            some_q = q[b : b + batch, :, :, row : row + rows]
            end = keys if call.offset is None else row + some_q.shape[-2] + call.offset
            end = min(keys, end)
            if end <= 0:
                continue
            wide_q = some_q.to(wide_k.dtype).flatten(2, 3)
            scores = (wide_q @ wide_k[..., :end] * call.scale).unflatten(2, (sharing, -1))
            yield SomeScores(
                slice(b, b + batch),
                scores,
                None if mask is None else mask[b : b + batch, :, :, row : row + rows, :end],
                None
                if call.offset is None
                else _later(scores.shape[-2], end, row + call.offset, scores.device),
            )


def exact(call: FusedCall, chunk: int = _CHUNK) -> Largest:
    """Over all visible pairs, computed in fp32 or wider, so many scores at once or one query's."""
    lead = torch.broadcast_shapes(call.q.shape[:-3], call.k.shape[:-3])
    shape = (lead[:-1].numel(), lead[-1], call.q.shape[-3])
    high = torch.full(shape, -_INF, dtype=_wide(call.k), device=call.k.device)
    max_abs = high.clone()
    for some in some_scores(call, chunk):
        hidden = None if some.mask is None else masked(some.mask)
        if some.later is not None:
            hidden = some.later if hidden is None else hidden | some.later
        seen = largest(some.scores, hidden)
        high[some.batch] = torch.maximum(high[some.batch], seen.high)
        max_abs[some.batch] = torch.maximum(max_abs[some.batch], seen.max_abs)
    return Largest(*(x.reshape(*lead[:-1], -1) for x in (high, max_abs)))


_INF = math.inf


def _shared(x: Tensor, sharing: int) -> Tensor:
    """(..., heads, T, S) → (..., key heads, sharing, T, S)."""
    return x.unsqueeze(-3) if sharing == 1 else x.unflatten(-3, (-1, sharing))


def _later(queries: int, keys: int, offset: int, device: torch.device) -> Tensor:
    """(queries, keys), true where the key is beyond query + offset."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).triu(offset + 1)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _longest(x: Tensor) -> Tensor:
    """(..., T, d) → (...): at least the largest length of a row."""
    info, d = torch.finfo(_wide(x)), x.shape[-1]
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, dtype=_wide(x)).amax(-1)
    # Squares below the smallest normal number may be lost: each takes off that much at most.
    return length * (1 + (d + 4) * info.eps) + math.sqrt(d * info.tiny)
