"""When a step is looked at down to the operation, and how."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.utils.hooks import RemovableHandle

from gradlab.probes.modes import Reset
from gradlab.probes.operations.calls import Calls, called_modules, is_new_pass
from gradlab.probes.operations.culprit import Culprit
from gradlab.probes.operations.trace import OperationTrace

_MOST = 20
"""Steps of a run that are looked at for their own sake: each takes several times as long."""


class Operations:
    """Finds the operation to blame for a step in which something was not finite.

    On a CPU such a step's calls of the model are made again, on a copy, before the optimizer
    changes anything. With several processes one cannot make the collective calls of a pass again by
    itself: there the next step is followed as it runs. Of a streak of such steps the first is
    looked at, and of a run `_MOST`. On a GPU, where it is too late by the time that it is known,
    only the steps are followed that `every` chooses.

    Args:
        model: Whose calls are followed.
        every: Steps between two that are followed as they run, whatever they hold; None for none.
    """

    def __init__(self, model: nn.Module, every: int | None = None) -> None:
        self._model = model
        self._every = every
        self._steps = 0
        self._calls = Calls(model)
        self._is_alone = not dist.is_initialized() or dist.get_world_size() == 1
        on_cpu = all(parameter.is_cpu for parameter in model.parameters())
        self._left = _MOST if on_cpu else 0
        self._was_broken = self._is_next = False
        self._looked = True
        self._trace: OperationTrace | None = None
        self._inside = ExitStack()
        self.found: Culprit | None = None

    def hooks(self) -> Iterable[RemovableHandle]:
        """Hooks on the model, or on its parts where it is only a container of them."""
        if self._left and self._is_alone:
            yield from self._calls.hooks()
        yield Reset(self._inside.close)
        for module in called_modules(self._model) if self._every or not self._is_alone else ():
            yield module.register_forward_pre_hook(self._follow)
            yield module.register_forward_hook(self._leave, always_call=True)

    def state(self) -> dict[str, Any]:
        """What one process carries from the steps that have ended."""
        ended = self._steps - (not self._looked)
        return {"steps": ended, "left": self._left, "was_broken": self._was_broken}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._steps, self._left = state["steps"], state["left"]
        self._was_broken = state["was_broken"]

    def begin(self) -> None:
        """A step starts."""
        self._calls.begin()
        self._inside.close()
        self.found = None
        self._looked = False
        due = self._every is not None and self._steps % self._every == 0
        self._trace = OperationTrace(self._model) if due or self._is_next else None
        self._is_next = False
        self._steps += 1

    def pass_ended(self, *, broken: bool) -> None:
        """A backward pass has ended.

        Args:
            broken: Whether something was not finite so far.
        """
        self._calls.pass_ended(broken=broken)

    def look(self, *, broken: bool) -> None:
        """The step's passes are over, and nothing is changed yet. A second call does nothing.

        Args:
            broken: Whether something in them was not finite, as far as that is known.
        """
        if self._looked:
            return
        self._looked = True
        if self._trace is not None:
            self.found = self._trace.culprit
        first, self._was_broken = broken and not self._was_broken, broken
        if first and self._left and self.found is None:
            self._left -= 1
            self._is_next = not self._is_alone
            if self._is_alone:
                self.found = self._calls.again()
        self._calls.end()

    def _follow(self, module: nn.Module, args: Any) -> None:
        self._inside.close()  # of a pass that Ctrl-C broke off
        if self._trace is not None and is_new_pass():
            self._inside.enter_context(self._trace.following(module))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside.close()
        if self._trace is not None and is_new_pass():
            self._trace.ended(output)
