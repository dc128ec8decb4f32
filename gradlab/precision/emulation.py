"""FP16 matrix products as a tensor core computes them, on a CPU that has none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


@contextmanager
def emulated_fp16() -> Iterator[None]:
    """Within it, FP16 contractions of CPU tensors have fp16 operands, fp32 sums, fp16 results."""
    with _Emulation():
        yield


def _is_fp16(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.float16 and value.is_cpu


def _contraction(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not _is_fp16(args[0]):
        return func(*args, **kwargs)
    wide = [a.float() if _is_fp16(a) else a for a in args]
    return func(*wide, **kwargs).half()


def _several(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not _is_fp16(args[0]):
        return func(*args, **kwargs)
    wide = [a.float() if _is_fp16(a) else a for a in args]
    return tuple(None if r is None else r.half() for r in func(*wide, **kwargs))


def _attention(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not _is_fp16(args[0]):
        return func(*args, **kwargs)
    wide = [a.float() if _is_fp16(a) else a for a in args]
    out, logsumexp = func(*wide, **kwargs)
    return out.half(), logsumexp


_HANDLERS: dict[Any, Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]] = {
    aten.mm.default: _contraction,
    aten.bmm.default: _contraction,
    aten.addmm.default: _contraction,
    aten.baddbmm.default: _contraction,
    aten.addbmm.default: _contraction,
    aten.mv.default: _contraction,
    aten.addmv.default: _contraction,
    aten.dot.default: _contraction,
    aten.vdot.default: _contraction,
    aten.linear.default: _contraction,
    aten.matmul.default: _contraction,
    aten.convolution.default: _contraction,
    aten.convolution_backward.default: _several,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _several,
}


class _Emulation(TorchDispatchMode):
    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ):
        handler = _HANDLERS.get(func)
        if handler is None:
            return func(*args, **kwargs) if kwargs else func(*args)
        return handler(func, args, kwargs or {})
