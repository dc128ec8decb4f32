"""What torch.compile takes out of a probe's sight, once a model has been compiled."""

import sys
import warnings

from torch import nn

from gradlab.errors import GradlabWarning
from gradlab.probes.selection import is_compiled


class CompiledLater:
    """Says once if modules were compiled after hooks were put on them: it leaves those out.

    Args:
        model: That has the hooks.
        missing: What is then not recorded, to end a sentence with.
    """

    def __init__(self, model: nn.Module, missing: str) -> None:
        self._model = model
        self._missing = missing
        self._is_first = True
        self._said = False

    def look(self, *, hooks_called: bool) -> None:
        """A step with a backward pass has ended.

        Args:
            hooks_called: Whether one of its forward passes called a hook.
        """
        if self._said:
            return
        # Which modules are compiled takes a walk over all of them: once, after the first step.
        first, self._is_first = self._is_first, False
        partly = first and any(is_compiled(module) for module in self._model.modules())
        if (hooks_called and not partly) or not _has_compiled():
            return
        self._said = True
        some = "some of the" if hooks_called else "the"
        warnings.warn(
            f"torch.compile left out {some} modules that probes were attached to: {self._missing}",
            GradlabWarning,
            stacklevel=2,
        )


def _has_compiled() -> bool:
    """Whether torch.compile has been at work in this process.

    Without it, hooks that were not called belong to a part of the model that the step does not use.
    """
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and dynamo.counters["stats"]["unique_graphs"] > 0
