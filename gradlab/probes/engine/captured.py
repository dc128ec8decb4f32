"""What a CUDA graph captures: kernels, which it repeats without calling Python."""

import warnings
import weakref
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from gradlab.errors import GradlabWarning

P = ParamSpec("P")
T = TypeVar("T")

_said: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


class Captured:
    """Leaves out what a CUDA graph would capture, and says so once a model.

    Looks that are captured would go on writing into memory that is no longer theirs at each replay,
    and no step could be told from another.

    Args:
        model: That is looked at. Nothing of a model on a CPU is captured.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._on_cuda = any(parameter.is_cuda for parameter in model.parameters())

    def now(self) -> bool:
        """Whether what is computed now is being captured."""
        if not self._on_cuda or not torch.cuda.is_current_stream_capturing():
            return False
        model = self._model()
        if model is not None and model not in _said:
            _said.add(model)
            warnings.warn(
                "a CUDA graph captures a part of this model: nothing is recorded there, as no "
                "Python runs when it is replayed. To look at it, train without the graph.",
                GradlabWarning,
                stacklevel=2,
            )
        return True

    def left_out(self, hook: Callable[P, T]) -> Callable[P, T | None]:
        """The hook, called unless what it would do is captured."""
        if not self._on_cuda:
            return hook

        def unless_captured(*args: P.args, **kwargs: P.kwargs) -> T | None:
            if not torch.compiler.is_compiling() and self.now():
                return None
            return hook(*args, **kwargs)

        return unless_captured
