"""Looks at tensors inside the graphs of torch.compile.

A hook that is there before a model is compiled is traced into its graph. There it may call no
Python of ours; what it leaves is an operator, whose Python runs each time that the graph does, and
decides then what to do. So no graph depends on anything that changes from step to step.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from gradlab.parallel.spread import own_part
from gradlab.probes.sites import floats_of

Act: TypeAlias = Callable[[str, Tensor], None]
"""Takes what a tensor's place in an output adds to a site's name, and the tensor."""

CAN_LOOK_INSIDE: bool = torch.__version__ >= "2.13"
"""Whether this torch traces hooks on the tensors between a graph's operations."""

COMPILED = (
    "no headroom is recorded there. Attach before the model, or another of its class, first runs "
    "compiled; or call torch._dynamo.reset() once attached."
    if CAN_LOOK_INSIDE
    else "no headroom is recorded there. The parameters' gradients are seen; attach Headroom to a "
    "model that is not compiled."
)
"""What is said of a compiled model whose graphs were made without the hooks."""

_acts: OrderedDict[int, Act] = OrderedDict()

_library = torch.library.Library("gradlab", "FRAGMENT")


def _look(x: Tensor, act: int, suffix: str) -> None:
    if (found := _acts.get(act)) is not None:  # else the probes are gone, and the graph is not
        found(suffix, x)


def _look_at_none(x: Tensor, act: int, suffix: str) -> None:
    """While a graph is made, there are no numbers."""


def _pass_over(*_: Any) -> tuple[None, None]:
    """What torch.vmap computes with is left out, as it is outside of graphs."""
    return None, None


def _define() -> None:
    from torch._library.effects import EffectType  # torch 2.9 has no such module

    _library.define(
        "look(Tensor x, int act, str suffix) -> ()",
        # A CUDA graph repeats kernels and runs no Python: the operator stays out of those.
        tags=(torch.Tag.pt2_compliant_tag, torch.Tag.cudagraph_unsafe),
    )
    _library.impl("look", _look, "CompositeExplicitAutograd")
    torch.library.register_fake("gradlab::look", _look_at_none, lib=_library)
    torch.library.register_vmap("gradlab::look", _pass_over, lib=_library)
    # It gives nothing, and is kept all the same, in its order. To say instead that it changes a
    # tensor, autograd would find that tensor changed where two forward passes precede a backward.
    torch.library._register_effectful_op("gradlab::look", EffectType.ORDERED, lib=_library)


if CAN_LOOK_INSIDE:
    _define()


class CompiledLooks:
    """What a hook has done when torch.compile traces it.

    Args:
        on_value: Called with each tensor that the hook is given, whenever the graph runs.
        on_gradient: With the gradient there.

    Attributes:
        handles: To be removed with the hook.
    """

    def __init__(self, on_value: Act | None, on_gradient: Act | None) -> None:
        self.handles: list[RemovableHandle] = []
        self._value, self._gradient = map(self._number, (on_value, on_gradient))

    def trace(self, output: Any, prefix: str = "") -> None:
        """Look at the tensors of an output, or an argument. Traced, so it reads no state."""
        if not CAN_LOOK_INSIDE or not torch.is_grad_enabled() or torch.compiler.is_exporting():
            return
        for suffix, x in floats_of(output):
            if self._value:
                _see(self._value, prefix + suffix, x)
            if self._gradient and x.requires_grad and not x.is_leaf:
                x.register_hook(partial(_see, self._gradient, prefix + suffix))

    def _number(self, act: Act | None) -> int:
        if act is None:
            return 0
        handle = RemovableHandle(_acts)
        _acts[handle.id] = act
        self.handles.append(handle)
        return handle.id


def _see(act: int, suffix: str, x: Tensor) -> None:
    x = own_part(x)
    torch.ops.gradlab.look(x.detach(), act, suffix)
