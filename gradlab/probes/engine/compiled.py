"""What torch.compile takes out of a probe's sight."""

import sys
import warnings
from collections.abc import Iterable
from types import FrameType

from torch import nn

from gradlab.errors import GradlabWarning
from gradlab.probes.selection import clean_name, is_compiled


class CompiledLater:
    """Says once if modules were compiled before hooks were put on them, or leave hooks out.

    Args:
        model: That has the hooks.
        missing: What is then not recorded, to end a sentence with.
        inside: Names of those with hooks that torch.compile takes along; by default it takes none.
    """

    def __init__(self, model: nn.Module, missing: str, inside: Iterable[str] = ()) -> None:
        self._model = model
        self._missing = missing
        self._inside = tuple(inside)
        self._is_first = True
        self._said = False

    def look(
        self, *, hooks_called: bool, seen: Iterable[str] = (), trained: Iterable[str] = ()
    ) -> None:
        """A step with a backward pass has ended.

        Args:
            hooks_called: Whether one of its forward passes called a hook.
            seen: Names of those whose hooks were called.
            trained: Names of the parameters that it gave gradients.
        """
        if self._said:
            return
        # Which modules are compiled takes a walk over all of them: once, after the first step.
        first, self._is_first = self._is_first, False
        if hooks_called and not (first and self._any_left_out(seen, trained)):
            return
        if not _has_compiled():
            return
        self._said = True
        some = "some of the" if hooks_called else "the"
        warnings.warn(
            f"torch.compile left out {some} modules that probes were attached to: {self._missing}",
            GradlabWarning,
            stacklevel=2,
        )

    def _any_left_out(self, seen: Iterable[str], trained: Iterable[str]) -> bool:
        compiled = {clean_name(n) for n, m in self._model.named_modules() if is_compiled(m)}
        if not self._inside:
            return bool(compiled)
        # A part that this step does not use calls no hook either, and gets no gradient.
        return any(
            _any_in(part, self._inside) and _any_in(part, trained) and not _any_in(part, seen)
            for part in compiled
        )


def _any_in(part: str, names: Iterable[str]) -> bool:
    """Whether any of the names is of something in a part of the model, or in all of it."""
    return any(not part or name.startswith(f"{part}.") for name in names)


def in_compiled_call() -> bool:
    """Whether what runs was called through torch.compile: its calls are no calls of Python's."""
    if (dynamo := sys.modules.get("torch._dynamo.eval_frame")) is None:
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != dynamo.__file__:
        frame = frame.f_back
    return frame is not None


def _has_compiled() -> bool:
    """Whether torch.compile has been at work in this process.

    Without it, hooks that were not called belong to a part of the model that the step does not use.
    """
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and dynamo.counters["stats"]["unique_graphs"] > 0
