"""Functions of torch as a module's forward pass calls them: modes that stay in no other code.

A hook enters such a mode as the pass begins and leaves it as that ends. Ctrl-C in between calls no
hook: a mode is then left as the next pass begins, or with the hooks.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle


class PassMode(TorchFunctionMode):
    """A mode that is on within forward passes. With several devices, each thread has its own."""

    def __init__(self) -> None:
        super().__init__()
        self._of_thread = threading.local()

    def turn(self, *, on: bool) -> None:
        """Put it on the stack of modes, or take it off, unless that is so already."""
        if on is getattr(self._of_thread, "is_on", False):
            return
        if on:
            torch._C._push_on_torch_function_stack(self)
        else:
            self._take_off()
        self._of_thread.is_on = on

    def _take_off(self) -> None:
        """Wherever it is: a hook of the user's may have put one on it."""
        count = torch._C._len_torch_function_stack()
        stack = [torch._C._pop_torch_function_stack() for _ in range(count)]
        for other in reversed(stack):
            if other is not self:
                torch._C._push_on_torch_function_stack(other)


class Reset(RemovableHandle):
    """Among the hooks' handles: leaves a mode that a broken pass left on, as they are removed."""

    def __init__(self, reset: Callable[[], object]) -> None:
        super().__init__(OrderedDict())
        self._reset = reset

    def remove(self) -> None:
        """Leave it."""
        self._reset()
