"""The end of a backward pass: when gradients are whole, and nobody has clipped them yet."""

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from gradlab.parallel.spread import is_spread
from gradlab.probes.engine.captured import Captured


class BackwardEnd:
    """Calls back after each backward pass that changed a gradient, with the parameters it changed.

    A hook on each parameter notes the change and has autograd call back when the pass is over. The
    call is put off to the end of autograd's own list of calls, behind the ones in which
    DistributedDataParallel and FSDP2 finish their reductions. Of a pass within a pass, as reentrant
    checkpointing makes one a segment, the outer one calls back.

    Attributes:
        altered: Parameters whose `.grad` the loop changed, or cleared, between two passes since
            `forget`.

    Args:
        model: Of the parameters. With several processes its outputs tell of the pass, too: sharded
            parameters (FSDP2) get their gradients without autograd's hooks, and a reduction that
            began in a pass within may end in another.
        parameters: By name, each requiring a gradient.
        then: Called with those that changed and have not been taken.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        then: Callable[[Mapping[str, nn.Parameter]], None],
    ) -> None:
        self._then = then
        self._captured = Captured(model)
        self._changed: dict[str, nn.Parameter] = {}
        self._taken: set[str] = set()
        self._left: dict[str, tuple[int, int]] = {}
        self._passes = 0
        self._watches = True
        self.altered: dict[str, nn.Parameter] = {}
        self._queued_in = -1
        self._queued_within = False
        names = [name for name, parameter in parameters.items() if is_spread(parameter)]
        self._sharded = {name: parameters[name] for name in names}
        self.handles: list[RemovableHandle] = [
            parameter.register_post_accumulate_grad_hook(partial(self._on_gradient, name))
            for name, parameter in parameters.items()
            if name not in self._sharded
        ]
        if self._sharded or dist.is_initialized():
            self.handles.append(model.register_forward_hook(self._on_output))

    def take(self, names: Iterable[str]) -> None:
        """These parameters' gradients have been looked at within the pass that runs now."""
        for name in names:
            self._taken.add(name)
            self._changed.pop(name, None)

    def rest(self) -> None:
        """An optimizer steps: passes within are its closure's, evaluated as often as it likes."""
        self._left = {}
        self._watches = False

    def forget(self) -> None:
        """A new step begins."""
        # To note what each pass left costs something, and a loop that accumulates goes on to.
        self._watches = self._passes != 1
        self._passes = 0
        self._left = {}
        self.altered = {}

    def _on_gradient(self, name: str, parameter: Any) -> None:
        if self._left and name not in self._changed:
            self._compare(name, parameter)
        if name not in self._taken:
            self._changed[name] = parameter
        if torch._C._current_graph_task_id() != self._queued_in:
            self._queue()

    def _compare(self, name: str, parameter: nn.Parameter) -> None:
        """Whether all that happened to a gradient since the last pass is that this one added."""
        left, gradient = self._left.get(name), parameter.grad
        # With a graph of its own a gradient is made anew, as a sparse one is.
        if left is None or gradient is None or gradient.is_sparse or torch.is_grad_enabled():
            return
        if (gradient.data_ptr(), gradient._version) != (left[0], left[1] + 1):
            self.altered[name] = parameter

    def _on_output(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.requires_grad and not leaf.is_leaf:
                leaf.register_hook(self._on_output_gradient)

    def _on_output_gradient(self, gradient: Tensor) -> None:
        self._queue()

    def _queue(self) -> None:
        # A pass that raised never called back: its number tells it from the one that runs now.
        task = torch._C._current_graph_task_id()
        if task == self._queued_in:
            return
        is_within = _is_within_another()
        if is_within and self._queued_in != -1 and not self._queued_within:
            return
        self._queued_in, self._queued_within = task, is_within
        engine = torch.autograd.Variable._execution_engine
        engine.queue_callback(lambda: engine.queue_callback(self._end))

    def _end(self) -> None:
        changed, self._changed = self._changed, {}
        taken, self._taken = self._taken, set()
        self._queued_in = -1
        changed |= {n: p for n, p in self._sharded.items() if p.grad is not None}
        changed = {name: parameter for name, parameter in changed.items() if name not in taken}
        if not (changed or taken) or self._captured.now():
            return
        self._passes += 1
        if self._watches:
            self._left |= {
                n: seen for n, p in changed.items() if (seen := gradient_state(p)) is not None
            }
        self._then(changed)


def gradient_state(parameter: nn.Parameter) -> tuple[int, int] | None:
    """What tells whether a gradient has been changed: where it lies, and how often it was."""
    gradient = parameter.grad
    if type(gradient) is not Tensor or gradient.layout is not torch.strided:
        return None
    return gradient.data_ptr(), gradient._version


def _is_within_another() -> bool:
    """Whether the pass was begun by the backward of a custom function, in another pass."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is BackwardCFunction.apply.__code__:
            return True
        frame = frame.f_back
    return False
