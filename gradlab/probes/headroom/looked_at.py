"""What of a model and its tensors is looked at."""

import inspect
from collections.abc import Mapping, Sequence
from inspect import Parameter
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gradlab.models.attention import Scores
from gradlab.parallel.spread import own_part

_OUR_HOOKS = 2
"""On the gradient of a parameter: of `BackwardEnd`, and of `Headroom`."""


def plain(x: Tensor) -> Tensor:
    """What this process holds of a tensor, without its history."""
    x = own_part(x)
    return x.data if x.requires_grad else x  # in half the time of x.detach()


def has_unused(module: nn.Module) -> bool:
    """Whether what a module gives are scores of which those above the diagonal go unused."""
    return isinstance(module, Scores) and module.causal


def entries(module: nn.Module, output: Tensor) -> int:
    """How many entries of a module's output its model uses."""
    if not has_unused(module):
        return output.numel()
    # A causal model never uses a score above the diagonal, nor its gradient (zero).
    length = output.shape[-1]
    return output.numel() * (length + 1) // (2 * length)


def hooked(parameter: nn.Parameter) -> bool:
    """Whether others have hooks on its gradient: they may change it, or use it up, in the pass."""
    hooks: Any = parameter._post_accumulate_grad_hooks
    return len(hooks or ()) > _OUR_HOOKS


def used_by(module: nn.Module, given: Any) -> list[nn.Parameter]:
    """The parameters that a call of a module uses: its own, and those handed to it."""
    handed = (x for x in tree_leaves(given) if isinstance(x, nn.Parameter))
    return [*module.parameters(recurse=False), *handed]


class Arguments:
    """The names of a model's arguments."""

    def __init__(self, model: nn.Module) -> None:
        try:
            parameters = inspect.signature(model.forward).parameters.values()
        except (TypeError, ValueError):  # of a scripted one they are not known
            parameters = {}.values()
        by_place = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        self._named = tuple(p.name for p in parameters if p.kind in by_place)
        self._rest = next((p.name for p in parameters if p.kind == Parameter.VAR_POSITIONAL), "")

    def of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """What a call was given, in its order: `x`, or `xs[1]` of those that `*xs` takes."""
        names = list(self._named[: len(args)])
        if self._rest:
            names += [f"{self._rest}[{at}]" for at in range(len(args) - len(names))]
        return [*zip(names, args, strict=False), *kwargs.items()]
