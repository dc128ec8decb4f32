"""The places of a computation that a probe can look at, and what one step showed at each."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils._pytree import tree_leaves

Direction = Literal["forward", "backward"]

_WITH_EXTREMES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

HANDED = ""
"""Cause of a place whose module was handed something that was not finite already."""


@dataclass(frozen=True)
class Place:
    """A site in one direction: what one measurement belongs to.

    Attributes:
        site: Dotted name of the module whose output it is, or of the parameter.
        direction: `forward` for the output, `backward` for the gradient there.
        dtype: Of the tensor as it exists. Of a parameter's gradient, the dtype that its one
            product had before autocast widened it; its own where it sums several (a tied
            parameter, micro-batches), as a sum may leave the range of its terms.
        masks: Whether −inf there is taken for a mask: in scores, and what has no parameters; and in
            an argument that is not the first, if it has no entry above 0.
        outside: Whether it is no site, but what the model is handed: `forward` an argument by its
            name, `backward` the gradient of what the model returned.
    """

    site: str
    direction: Direction
    dtype: torch.dtype
    masks: bool = False
    outside: bool = False

    def finite(self, low: float, high: float) -> bool:
        """Whether all entries between these extremes are finite, but for −inf that masks."""
        if self.masks and low == -math.inf:
            return math.isfinite(high) and (high <= 0 or not self.outside)
        return math.isfinite(low) and math.isfinite(high)


@dataclass(frozen=True)
class Details:
    """Counts at one place in one step."""

    max_abs: float
    infinite: int
    nan: int
    subnormal: int
    nonzero: int


@dataclass(frozen=True)
class SiteStep:
    """What one step showed: `places[i]` had the extremes `low[i]` and `high[i]`.

    `order` has the places that the step passed, as it first came to them, and `entries` how many
    entries were looked at there, over all micro-batches (at the scores: the visible pairs); at the
    others the extremes are NaN. `details` holds the counts of the places
    that were counted in full or, on a CPU, not finite.

    `causes` has, of places that were not finite, what their module had that was not either: the
    parameter or buffer, or `HANDED` if it was only handed to it. `outside` has places like `order`
    that are no sites, `ends` the sites whose outputs the model returned, `zeroed` the places that
    were all zero though their module was handed numbers and has weights. `operation` is the
    function that made the first thing that was not finite, and the line that called it. `ranks` has
    the first process that saw a place not finite. At places of `bounded` that are finite, `low` and
    `high` are bounds.
    """

    step: int
    sampled: bool
    places: tuple[Place, ...]
    order: tuple[int, ...]
    low: list[float]
    high: list[float]
    details: dict[int, Details]
    entries: dict[int, int] = field(default_factory=dict)
    causes: Mapping[int, str] = field(default_factory=dict)
    outside: tuple[int, ...] = ()
    ends: frozenset[str] = frozenset()
    zeroed: frozenset[int] = frozenset()
    operation: tuple[str | None, str | None] = (None, None)
    ranks: Mapping[int, int] = field(default_factory=dict)
    bounded: frozenset[int] = frozenset()

    def finite(self, index: int) -> bool:
        """Whether every entry at that place is finite, but for −inf that masks."""
        return self.places[index].finite(self.low[index], self.high[index])

    def max_abs(self, index: int) -> float:
        """Largest magnitude at that place over the finite entries; NaN if that was not counted."""
        low, high = self.low[index], self.high[index]
        if math.isfinite(low) and math.isfinite(high):
            return max(-low, high)
        return self.details[index].max_abs if index in self.details else math.nan


def sites(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The named modules whose outputs are sites: all but those that only pass values on."""
    for name, module in model.named_modules():
        if name and not isinstance(module, nn.Identity | nn.Dropout):
            yield name, module


def floats_of(output: Any) -> list[tuple[str, Tensor]]:
    """The floating-point tensors of a module's output, each with what its place adds to the name.

    Those without extremes to take are left out: nested, sparse and 8-bit ones, and what
    `torch.func` computes with.

    >>> [suffix for suffix, _ in floats_of((torch.ones(1), torch.ones(1)))]
    ['', '[1]']
    """
    if isinstance(output, Tensor):
        return [("", output)] if has_extremes(output) else []
    return [
        (f"[{index}]" if index else "", leaf)
        for index, leaf in enumerate(tree_leaves(output))
        if isinstance(leaf, Tensor) and has_extremes(leaf)
    ]


def hook_gradient(x: Tensor, hook: Callable[[Tensor], None]) -> None:
    """Have a hook called with the gradient of a tensor that has a history, for as long as it lives.

    What `Tensor.register_hook` does, without the handle that it makes, which takes several times as
    long.
    """
    if type(x) is not Tensor:
        x.register_hook(hook)
        return
    hooks = x._backward_hooks
    if hooks is None:
        x._backward_hooks = hooks = OrderedDict()
        cast(Any, x.grad_fn)._register_hook_dict(x)
    hooks[id(hook)] = hook


def has_extremes(x: Tensor) -> bool:
    """Whether a tensor's smallest and largest entry can be taken."""
    return (
        x.dtype in _WITH_EXTREMES
        and x.layout is torch.strided
        and not x.is_nested
        # torch.compile cannot trace this question; the operator that it does trace needs no answer.
        and (torch.compiler.is_compiling() or not is_functorch_wrapped_tensor(x))
    )


def version_of(x: Tensor) -> int:
    """How many changes of a tensor torch has counted: none of one made in inference mode."""
    return 0 if x.is_inference() else x._version


def in_backward() -> bool:
    """Whether a backward pass is running: a forward hook then sees activations recomputed."""
    return torch._C._current_graph_task_id() != -1
