"""Which of torch's operations multiply and sum FP16 tensors, and how each is emulated."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from gradlab.errors import GradlabError
from gradlab.precision.products import batched_product, matrix_product

Kernel = Callable[..., Any]
"""What the dispatcher calls: kernel(keyset, *args, **kwargs), the operation's own arguments."""

_KEY = torch._C.DispatchKey
_BELOW = torch._C._dispatch_keyset_full_after(_KEY.BackendSelect)
"""The dispatch keys after BackendSelect: where a call goes on that an emulation leaves alone."""

_CPU = torch._C.DispatchKeySet(_KEY.CPU)
_BELOW_BITS, _CPU_BITS = _BELOW.raw_repr(), _CPU.raw_repr()
_AUTOCAST = torch._C.DispatchKeySet(_KEY.AutocastCPU)

WIDENED = (
    "aten::mm",
    "aten::bmm",
    "aten::addmm",
    "aten::addmm_",
    "aten::baddbmm",
    "aten::baddbmm_",
    "aten::addbmm",
    "aten::addbmm_",
    "aten::mv",
    "aten::addmv",
    "aten::addmv_",
    "aten::dot",
    "aten::vdot",
    "aten::_addmm_activation",
    "aten::_compute_linear_combination",
    "aten::_trilinear",
    "aten::conv_tbc",
    "aten::convolution",
    "aten::convolution_backward",
    "aten::_convolution",
    "aten::_slow_conv2d_backward",
    "aten::_slow_conv2d_forward",
    "aten::mkldnn_convolution",
    "aten::slow_conv3d_forward",
    "aten::slow_conv_dilated2d",
    "aten::slow_conv_dilated3d",
    "aten::slow_conv_transpose2d",
    "aten::slow_conv_transpose3d",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
)
"""Computed by torch's own fp32 kernel on widened operands, the results rounded once."""

REFUSED = (
    "aten::_dyn_quant_matmul_4bit",
    "aten::_sparse_addmm",
    "aten::_sparse_mm_reduce_impl",
    "aten::_sparse_mm_reduce_impl_backward",
    "aten::_sparse_sparse_matmul",
    "aten::_weight_int4pack_mm_for_cpu",
    "aten::_weight_int8pack_mm",
    "aten::hspmm",
    "aten::mkldnn_linear",
    "aten::mkldnn_linear_backward",
    "aten::mkldnn_linear_backward_input",
    "aten::mkldnn_linear_backward_weights",
    "aten::mkldnn_rnn_layer",
    "aten::mkldnn_rnn_layer_backward",
    "aten::sparse_sampled_addmm",
    "aten::sspaddmm",
    "mkldnn::_convolution_pointwise",
    "mkldnn::_convolution_pointwise_",
    "mkldnn::_convolution_transpose_pointwise",
    "mkldnn::_linear_pointwise",
)
"""Kernels that multiply FP16 operands in loops of their own, and are not emulated."""

_ADVICE = {
    "aten::mkldnn_rnn_layer": "set torch.backends.mkldnn.enabled = False",
}

_LOGSUMEXP = {"aten::_scaled_dot_product_flash_attention_for_cpu": 1}
"""Index of a result that is fp32 whatever the operands are."""


@cache
def kernels() -> tuple[tuple[OpOverload, Kernel], ...]:
    """Every operation that emulation takes over, with what runs in its place."""
    aten = torch.ops.aten
    found: list[tuple[OpOverload, Kernel]] = [
        (aten.mm.default, _mm),
        (aten.addmm.default, _addmm),
        (aten.bmm.default, _bmm),
        # As compiled graphs call them.
        (aten.mm.out, _writing(aten.mm.out, _mm)),
        (aten.addmm.out, _writing(aten.addmm.out, _addmm)),
        (aten.bmm.out, _writing(aten.bmm.out, _bmm)),
    ]
    fast = {op for op, _ in found}
    for name in WIDENED:
        found += [(op, _widening(op)) for op in _overloads(name) if op not in fast]
    for name in REFUSED:
        found += [(op, _refusing(op)) for op in _overloads(name)]
    return tuple(found)


def _overloads(name: str) -> Iterator[OpOverload]:
    """The overloads of an operation that this build of torch can run on a CPU."""
    namespace, _, base = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), base, None)
    for overload in packet.overloads() if packet is not None else ():
        # An fp32 result of fp16 operands (mm.dtype and its like) exists for CUDA alone.
        if not overload.startswith("dtype"):
            yield getattr(packet, overload)


def _mm(keyset: Any, left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Any:
    if _multiplies(keyset, left, right, 2):
        return matrix_product(left, right, out=out)
    return _as_torch_does(torch.ops.aten.mm.default, keyset, left, right)


def _addmm(
    keyset: Any,
    bias: Tensor,
    left: Tensor,
    right: Tensor,
    *,
    out: Tensor | None = None,
    **factors: Any,
) -> Any:
    if (
        _multiplies(keyset, left, right, 2)
        and bias.dtype is torch.float16
        and (bias.shape == right.shape[1:] or _broadcasts(bias, left.shape[0], right.shape[1]))
    ):
        return matrix_product(left, right, bias, out=out, **factors)
    return _as_torch_does(torch.ops.aten.addmm.default, keyset, bias, left, right, **factors)


def _bmm(keyset: Any, left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Any:
    if _multiplies(keyset, left, right, 3) and left.shape[0] == right.shape[0]:
        return batched_product(left, right, out=out)
    return _as_torch_does(torch.ops.aten.bmm.default, keyset, left, right)


def _writing(op: OpOverload, kernel: Kernel) -> Kernel:
    """A product with out=: rounded into it, if nothing has to be resized."""
    otherwise = _widening(op)

    def written(keyset: Any, *args: Any, out: Tensor, **factors: Any) -> Any:
        left, right = args[-2:]
        if (
            left.dtype is right.dtype is out.dtype is torch.float16
            and left.dim() == right.dim() == out.dim()
            and out.shape == left.shape[:-1] + right.shape[-1:]
        ):
            result = kernel(keyset, *args, out=out, **factors)
            return out if result is out else out.copy_(result)  # as torch did it after all
        return otherwise(keyset, *args, out=out, **factors)

    return written


def _broadcasts(bias: Tensor, m: int, n: int) -> bool:
    """Whether a bias can be added to an (m, n) matrix; what is wrong else, torch says."""
    sizes = bias.shape[::-1]
    return len(sizes) <= 2 and all(a in (1, b) for a, b in zip(sizes, (n, m), strict=False))


def _multiplies(keyset: Any, left: Tensor, right: Tensor, dims: int) -> bool:
    """Whether these are dense fp16 CPU matrices that fit; what is wrong else, torch says."""
    return (
        left.dtype is torch.float16
        and right.dtype is torch.float16
        and keyset.raw_repr() & _BELOW_BITS == _CPU_BITS  # dense, by a third of the time
        and left.dim() == dims
        and right.dim() == dims
        and left.shape[-1] == right.shape[-2]
    )


def _as_torch_does(op: OpOverload, keyset: Any, *args: Any, **kwargs: Any) -> Any:
    """The call as it would have been, unless it multiplies FP16 in a sparse or packed layout."""
    for operand in _fp16((args, kwargs)):
        if operand.layout is not torch.strided:
            raise GradlabError(_refusal(op, f" of layout {operand.layout}"))
    return op.redispatch(keyset & _BELOW, *args, **kwargs)


def _widening(op: OpOverload) -> Kernel:
    """A kernel that runs the operation in fp32 and rounds what it returns or writes, once."""
    written = [
        (at, argument)
        for at, argument in enumerate(op._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    name = op._schema.name
    logsumexp = _LOGSUMEXP.get(name)
    mixes_dtypes = "attention" in name

    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        floating = [t for t in _tensors((args, kwargs)) if t.is_floating_point()]
        if (
            keyset & _BELOW != _CPU  # sparse, nested, or on several devices
            or not _fp16(floating)
            or not (mixes_dtypes or all(t.dtype is torch.float16 for t in floating))
        ):
            return _as_torch_does(op, keyset, *args, **kwargs)
        wide_args, wide_kwargs = _widen(args), _widen(kwargs)
        # torch's kernel may call others, which autocast would take for the user's and narrow.
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            wide = op.redispatch(_CPU, *wide_args, **wide_kwargs)
        if not written:
            return _round(wide, logsumexp)
        targets = []
        for at, argument in written:
            target = kwargs[argument.name] if argument.kwarg_only else args[at]
            source = wide_kwargs[argument.name] if argument.kwarg_only else wide_args[at]
            if target.shape != source.shape:  # an out= that torch's kernel resized, and warned of
                target.resize_(source.shape)
            targets.append(target.copy_(source))
        return targets[0] if len(targets) == 1 else tuple(targets)

    return kernel


def _refusing(op: OpOverload) -> Kernel:
    """A kernel that raises an error naming the operation, if it is given FP16."""

    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        if _fp16((args, kwargs)):
            raise GradlabError(_refusal(op))
        return op.redispatch(keyset & _BELOW, *args, **kwargs)

    return kernel


def _refusal(op: OpOverload, what: str = "") -> str:
    name = op._schema.name
    advice = _ADVICE.get(name, "use dense tensors and unfused operations, or another dtype")
    return (
        f"{name} multiplies FP16 tensors{what}, which emulated_fp16() does not emulate: {advice}."
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among arguments, those in lists included."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _fp16(value: Any) -> list[Tensor]:
    """The FP16 tensors on the CPU among arguments."""
    return [t for t in _tensors(value) if t.dtype is torch.float16 and t.is_cpu]


def _widen(value: Any) -> Any:
    """Arguments with fp16 tensors in fp32."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype is torch.float16 else value
    if isinstance(value, dict):
        return {name: _widen(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_widen(part) for part in value)
    return value


def _round(result: Any, logsumexp: int | None) -> Any:
    """Results with fp32 tensors rounded to fp16."""
    if isinstance(result, Tensor):
        return result.half() if result.dtype is torch.float32 else result
    if isinstance(result, list | tuple):
        return tuple(
            part if at == logsumexp else _round(part, None) for at, part in enumerate(result)
        )
    return result
