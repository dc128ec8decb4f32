"""The operation that is to blame: its function, its operands, and the line that called it."""

import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import resolve_name
from torch.utils._pytree import tree_leaves

from gradlab.parallel.spread import own_part
from gradlab.probes.faults import NotFinite, dtype_name, kind_of

_OURS = Path(__file__).parents[2]
_TORCH = Path(torch.__file__).parent
_STANDARD = Path(sysconfig.get_paths()["stdlib"])
_NOT_THE_USERS = tuple(
    f"{folder}{os.sep}" for folder in (_TORCH, _OURS / "probes", _OURS / "precision")
)

Direction = Literal["forward", "backward"]


@dataclass(frozen=True)
class Operation:
    """A call of one of torch's functions.

    Attributes:
        function: Its name with its operands' types and sizes,
            `torch.exp(float16 (2, 8))`.
        source: The line of the program that called it, `model.py:12`: the innermost one that is
            neither torch's nor gradlab's. Empty if there is none.
        module: Dotted name of the innermost module that was being called; empty outside of all.
    """

    function: str
    source: str
    module: str


@dataclass(frozen=True)
class Culprit:
    """What an operation did: all that it was given was finite, and what it gave was not.

    Attributes:
        operation: The call. Of a backward pass, the forward call whose gradient it computed.
        direction: In which pass.
        kind: What it gave.
        dtype: Of what it gave, `float16`.
        count: Entries that were not finite.
        numel: Entries in all.
    """

    operation: Operation
    direction: Direction
    kind: NotFinite
    dtype: str
    count: int
    numel: int


def signature(
    function: Any, args: Sequence[Any], kwargs: dict[str, Any], computed: torch.dtype | None = None
) -> str:
    """A call of a function of torch's: `torch.exp(float16 (2, 8))`.

    Args:
        function: The function.
        args: What it is given.
        kwargs: And by name.
        computed: The type that its floating-point operands are cast to first, as autocast does;
            None for their own.
    """
    name = resolve_name(function) or getattr(function, "__name__", str(function))
    operands = [
        _described(x, computed) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)
    ]
    return f"{name}({', '.join(operands)})"


def culprit(x: Tensor, call: Operation, direction: Direction) -> Culprit:
    """What a call did, whose result `x`, or this process's part of it, is not finite."""
    with torch._C.DisableTorchFunction(), torch.no_grad():
        x = own_part(x)
        infinite, nan = int(torch.isinf(x).sum()), int(torch.isnan(x).sum())
    kind = kind_of(infinite, nan)
    return Culprit(call, direction, kind, dtype_name(x.dtype), infinite + nan, x.numel())


def _described(x: Tensor, computed: torch.dtype | None) -> str:
    size = ", ".join(map(str, x.shape)) + ("," if x.dim() == 1 else "")
    dtype = x.dtype if computed is None or not x.is_floating_point() else computed
    return f"{dtype_name(dtype)} ({size})"


def source(repeated: CodeType | None = None) -> str:
    """The innermost line on the stack that is neither torch's nor gradlab's; empty without one.

    Args:
        repeated: Code of a function of ours that makes a `call` again: beyond it, that call's line
            takes the place of what stands there now.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is repeated:
            line: str = frame.f_locals["call"].line
            return line
        file = frame.f_code.co_filename
        if not file.startswith(_NOT_THE_USERS) and not _is_plumbing(file):
            return f"{_short(file)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _is_plumbing(file: str) -> bool:
    """Whether a file is the standard library's own (`contextlib`, `functools`)."""
    return file.startswith(f"{_STANDARD}{os.sep}") and "site-packages" not in file


def _short(file: str) -> str:
    """A file by its path from the current folder, where it lies below that."""
    path = Path(file)
    try:
        return str(path.relative_to(Path.cwd()))
    except (OSError, ValueError):
        return file
