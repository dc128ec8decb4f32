"""FP16 matrix products as a tensor core computes them, on a CPU that has none."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gradlab.errors import GradlabError
from gradlab.precision.contractions import kernels

_lock = threading.Lock()
_open = 0
_libraries: dict[str, torch.library.Library] = {}


@contextmanager
def emulated_fp16() -> Iterator[None]:
    """Within it, FP16 products of CPU tensors have fp16 operands, fp32 sums and an fp16 result.

    Around any model, one with half weights or one under `torch.autocast("cpu", torch.float16)`,
    backward included::

        with gradlab.emulated_fp16():
            loss = model(inputs)
            loss.backward()

    The result is rounded to nearest once, a bias or an addend included in the sum before: what
    rounds to 65520 or more is inf, subnormals are kept, inf and NaN spread as in fp32. A CPU that
    has such products itself (AVX512-FP16; it is tried out once) computes the large ones.

    Emulated: `mm`, `bmm`, `addmm`, `baddbmm`, `addbmm`, `mv`, `addmv`, `dot`, `vdot`, with their
    out= and in-place forms; convolutions, transposed ones included, and their backward; the fused
    CPU attention and its backward (fp32 inside, results rounded); `bilinear`, `conv_tbc`. And so
    whatever torch builds on these: `linear`, `matmul`, `einsum`, `tensordot`, `cdist`, grouped
    products, RNN, LSTM and GRU, attention's other paths, the fused encoder layer — with and
    without autograd, under inference mode too.

    Everything else runs as it would: elementwise operations, sums and means (embedding bags with
    them), tensors that are not FP16 or not on a CPU.

    It works by kernels on the dispatcher's BackendSelect key, which every call passes just before
    the CPU's own kernel, wherever it comes from: Python, autograd, autocast or another kernel. A
    `TorchDispatchMode` would see each of a step's operations in Python, and would not see the
    products that fused kernels call. It holds for the process, not for a thread, while any such
    context is open; on leaving the last, nothing of it remains. Contexts nest. Entering and leaving
    take a millisecond together: a loop of short steps is best put within one.

    Raises:
        GradlabError: An FP16 product that is not emulated is called (the sentence names it: sparse
            and quantised products, oneDNN's recurrent layers and packed tensors), or fp32 products
            are set to be computed in bf16.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def is_emulating() -> bool:
    """Whether such a context is open."""
    return _open > 0


def _enter() -> None:
    global _open
    backend = torch.backends.mkldnn
    if "bf16" in (getattr(backend, kind).fp32_precision for kind in ("matmul", "conv")):
        raise GradlabError(
            "emulated_fp16() needs fp32 products in fp32, but they are set to bf16: "
            'call torch.set_float32_matmul_precision("highest").'
        )
    with _lock:
        if not _open:
            try:
                for op, kernel in kernels():
                    namespace = op.namespace
                    if namespace not in _libraries:
                        _libraries[namespace] = torch.library.Library(namespace, "IMPL")
                    _libraries[namespace].impl(op, kernel, "BackendSelect", with_keyset=True)
            except BaseException:  # Ctrl-C half-way through
                _remove_kernels()
                raise
        _open += 1


def _leave() -> None:
    global _open
    with _lock:
        if _open == 1:
            _remove_kernels()
        _open -= 1


def _remove_kernels() -> None:
    for library in _libraries.values():
        library._destroy()
    _libraries.clear()
