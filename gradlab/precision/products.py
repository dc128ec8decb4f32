"""Products of fp16 matrices on a CPU: operands widened exactly, sums in fp32, one rounding.

Widening costs memory traffic, not arithmetic, so it is done a tile at a time into buffers that
stay in a core's cache: an fp32 image of a large operand or result is never written to memory.
Where the CPU itself multiplies fp16 into fp32 sums, large products are left to it.
"""

import threading
from functools import cache
from itertools import repeat

import torch
from torch import Tensor

_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_mm = torch.ops.aten.mm.default.redispatch
_addmm = torch.ops.aten.addmm.default.redispatch
_bmm = torch.ops.aten.bmm.default.redispatch
_mm_out = torch.ops.aten.mm.out.redispatch
_addmm_out = torch.ops.aten.addmm.out.redispatch
_bmm_out = torch.ops.aten.bmm.out.redispatch

_TILE = 2**18
"""Elements of both operands and the result in one tile: 1 MiB of fp32, half a core's L2."""

_WHOLE = 3 * 2**17
"""Elements up to which a product is not cut: a second tile would cost more than it saves."""

_NATIVE = 2**24
"""Multiplications from which a CPU that has fp16 products is faster than widening."""

_BUFFER = 2**20
"""Elements that a buffer holds; an operand that cannot be cut to this gets memory of its own."""

_LEFT, _RIGHT, _SUMS, _ADDEND = range(4)


class _Scratch(threading.local):
    """A thread's buffers, and the views of them that were asked for.

    Making a view costs calls into torch, as much time as a small product: each step asks for the
    same few, thousands of times. They are forgotten before they become many.
    """

    def __init__(self) -> None:
        self.buffers: list[Tensor] = []
        self.views: dict[tuple[int, torch.Size, bool], Tensor] = {}
        self.triples: dict[object, tuple[Tensor, Tensor, Tensor]] = {}

    def view(self, slot: int, shape: torch.Size, columns: bool = False) -> Tensor:
        """A buffer as a tensor of this shape; `columns` makes its last dimension but one dense."""
        key = (slot, shape, columns)
        found = self.views.get(key)
        if found is None:
            if len(self.views) >= 512:
                self.views.clear()
            found = self.views[key] = self._make(slot, shape, columns)
        return found

    def _make(self, slot: int, shape: torch.Size, columns: bool) -> Tensor:
        # A tensor made under inference mode could not be written to outside it.
        with torch.inference_mode(mode=False):
            if not self.buffers:
                self.buffers = [
                    torch.empty(_BUFFER, dtype=torch.float32, device="cpu") for _ in range(4)
                ]
            flat = self.buffers[slot][: shape.numel()]
            if not columns:
                return flat.view(shape)
            return flat.view(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2)

    def triple(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views for both operands of a product, and for its sums."""
        key = (left.shape, right.shape, left.stride(), right.stride())
        found = self.triples.get(key)
        if found is None:
            if len(self.triples) >= 512:
                self.triples.clear()
            found = self.triples[key] = (
                self.view(_LEFT, left.shape, _in_columns(left)),
                self.view(_RIGHT, right.shape, _in_columns(right)),
                self.view(_SUMS, left.shape[:-1] + right.shape[-1:]),
            )
        return found


_scratch = _Scratch()


def _in_columns(operand: Tensor) -> bool:
    """Whether an operand is the transpose of one that lies row by row, or a slice of such."""
    return operand.dim() > 1 and operand.stride(-2) == 1 and operand.stride(-1) != 1


def _widened(slot: int, operand: Tensor) -> Tensor:
    """The operand in fp32, in the buffer of its slot; valid until the slot is asked for again."""
    if operand.numel() > _BUFFER:
        return operand.float()
    return _scratch.view(slot, operand.shape, _in_columns(operand)).copy_(operand)


def _sums(*shape: int) -> Tensor:
    """Where a product's fp32 result goes before it is rounded."""
    size = torch.Size(shape)
    if size.numel() > _BUFFER:
        return torch.empty(size, dtype=torch.float32, device="cpu")
    return _scratch.view(_SUMS, size)


@cache
def _cpu_sums_in_fp32() -> bool:
    """Whether oneDNN has fp16 products on this CPU, and whether they are what is emulated here.

    Seen, not believed: the sums pass through 131008, end in ones that fp16 would drop at 2048, and
    take a bias before they are rounded.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)
    if supported is None or not supported():
        return False
    row = torch.ones(256, dtype=torch.float16, device="cpu")
    # Their sum with the ones that follow is 2048 + 251.
    row[:5] = torch.tensor([65504.0, 65504.0, -65504.0, -65504.0, 2048.0], device="cpu")
    left, ones = row.repeat(256, 1), torch.ones_like(row).repeat(256, 1)
    for a in (left, left.t().contiguous().t()):
        for b in (ones, ones.t()):
            whole = _bmm(_CPU, a[None], b[None])[0]
            moved = _addmm(_CPU, 0 * row + 65504, a, b * 32, beta=-1)  # 73568 - 65504
            if not ((_mm(_CPU, a, b) == 2300) & (whole == 2300) & (moved == 8064)).all():
                return False
    return True


def _left_to_the_cpu(multiplications: int) -> bool:
    if multiplications < _NATIVE or not torch.backends.mkldnn.enabled:
        return False
    return _cpu_sums_in_fp32()


def _rounded(sums: Tensor, out: Tensor | None) -> Tensor:
    return sums.half() if out is None else out.copy_(sums)


def matrix_product(
    left: Tensor,
    right: Tensor,
    bias: Tensor | None = None,
    *,
    beta: float = 1,
    alpha: float = 1,
    out: Tensor | None = None,
) -> Tensor:
    """The sum beta · bias + alpha · left @ right, in fp32, rounded once to fp16.

    Args:
        left: fp16, (m, k), on the CPU.
        right: fp16, (k, n).
        bias: fp16, broadcast to (m, n).
        beta: Factor of the bias, which is not read where beta is 0.
        alpha: Factor of the product.
        out: fp16, (m, n), to be written instead of a new tensor.

    Returns:
        fp16, (m, n), contiguous unless it is `out`; inf where the fp32 value rounds to 65520 or
        more.
    """
    m, k = left.shape
    n = right.shape[1]
    if _left_to_the_cpu(m * k * n):
        native: Tensor = (
            _mm(_CPU, left, right)
            if bias is None
            else _addmm(_CPU, bias, left, right, beta=beta, alpha=alpha)
        )
        return native if out is None else out.copy_(native)
    addend = None if bias is None else _widened(_ADDEND, bias)

    def multiply(a: Tensor, b: Tensor, c: Tensor | None, sums: Tensor) -> Tensor:
        if c is None:
            _mm_out(_CPU, a, b, out=sums)
        else:
            _addmm_out(_CPU, c, a, b, beta=beta, alpha=alpha, out=sums)
        return sums

    if m * k + k * n + m * n <= _WHOLE:
        a, b, sums = _scratch.triple(left, right)
        return _rounded(multiply(a.copy_(left), b.copy_(right), addend, sums), out)
    if addend is not None and addend.dim() != 1:
        a, b = _widened(_LEFT, left), _widened(_RIGHT, right)
        return _rounded(multiply(a, b, addend, _sums(m, n)), out)
    if k >= m and k >= n:
        step = max(64, _TILE // (m + n))
        sums = _sums(m, n)
        parts = zip(left.split(step, 1), right.split(step), strict=True)
        for at, (lefts, rights) in enumerate(parts):
            a, b = _widened(_LEFT, lefts), _widened(_RIGHT, rights)
            if at == 0:
                multiply(a, b, addend, sums)
            else:
                _addmm_out(_CPU, sums, a, b, alpha=alpha, out=sums)
        return _rounded(sums, out)
    result = torch.empty((m, n), dtype=torch.float16, device="cpu") if out is None else out
    if m >= n:
        step = max(64, _TILE // (k + n))
        b = _widened(_RIGHT, right)
        for lefts, results in zip(left.split(step), result.split(step), strict=True):
            a = _widened(_LEFT, lefts)
            results.copy_(multiply(a, b, addend, _sums(len(lefts), n)))
    else:
        step = max(64, _TILE // (k + m))
        a = _widened(_LEFT, left)
        addends = repeat(None) if addend is None else addend.expand(n).split(step)
        columns = zip(right.split(step, 1), result.split(step, 1), addends, strict=False)
        for rights, results, c in columns:
            b = _widened(_RIGHT, rights)
            results.copy_(multiply(a, b, c, _sums(m, rights.shape[1])))
    return result


def batched_product(left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The products left @ right of a batch, in fp32, rounded once to fp16.

    Args:
        left: fp16, (batch, m, k), on the CPU.
        right: fp16, (batch, k, n).
        out: fp16, (batch, m, n), to be written instead of a new tensor.

    Returns:
        fp16, (batch, m, n), contiguous unless it is `out`.
    """
    batch, m, k = left.shape
    n = right.shape[2]
    if _left_to_the_cpu(batch * m * k * n):
        native: Tensor = _bmm(_CPU, left, right)
        return native if out is None else out.copy_(native)
    one = m * k + k * n + m * n
    if batch * one <= _WHOLE:
        a, b, sums = _scratch.triple(left, right)
        _bmm_out(_CPU, a.copy_(left), b.copy_(right), out=sums)
        return _rounded(sums, out)
    result = out
    if result is None:
        result = torch.empty((batch, m, n), dtype=torch.float16, device="cpu")
    step = max(1, _TILE // one)
    tiles = zip(left.split(step), right.split(step), result.split(step), strict=True)
    for lefts, rights, results in tiles:
        a, b = _widened(_LEFT, lefts), _widened(_RIGHT, rights)
        sums = _sums(len(lefts), m, n)
        _bmm_out(_CPU, a, b, out=sums)
        results.copy_(sums)
    return result
