"""Headroom: how near every site comes to leaving the FP16 range, forward and backward.

Sites are the outputs of the modules that have no children, the gradients there, and the gradients
of the parameters, which a loss scale makes the first to overflow. At every step, one read of each
tensor gives its extremes: enough to know the headroom and whether anything overflowed. The counts
that take more reads are made on sampled steps, and wherever an extreme is not finite.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradlab.models.attention import Scores
from gradlab.probes.statistics import details, extremes

Direction = Literal["forward", "backward"]


@dataclass(frozen=True)
class Place:
    """A site in one direction: what one measurement belongs to.

    Attributes:
        site: Dotted name of the module whose output it is, or of the parameter.
        direction: `forward` for the output, `backward` for the gradient there.
        dtype: Of the tensor as it exists. Of a parameter's gradient, the dtype that its one
            product had before autocast widened it; its own where it sums several (a tied
            parameter, micro-batches), as a sum may leave the range of its terms.
        numel: Entries looked at (at the scores: the visible pairs).
    """

    site: str
    direction: Direction
    dtype: torch.dtype
    numel: int


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
    """What one step showed, in execution order: `places[i]` had the extremes `low[i]`, `high[i]`.

    `details` holds the counts of the places that were sampled or not finite.
    """

    step: int
    sampled: bool
    places: tuple[Place, ...]
    low: list[float]
    high: list[float]
    details: dict[int, Details]

    def finite(self, index: int) -> bool:
        """Whether every entry at that place is finite."""
        return math.isfinite(self.low[index]) and math.isfinite(self.high[index])

    def max_abs(self, index: int) -> float:
        """Largest magnitude at that place, over the finite entries."""
        if self.finite(index):
            return max(-self.low[index], self.high[index])
        return self.details[index].max_abs


@dataclass
class _Pending:
    step: int
    sampled: bool
    order: list[int]
    low: list[Tensor]
    high: list[Tensor]
    counted: list[int]
    counts: list[Tensor]


class Headroom:
    """Watches the outputs of a model's leaf modules, the gradients there and its parameters'.

    Every gradient is seen as it exists: multiplied by the loss scale. Hooks are put on in the
    constructor and taken off by `close`; they compute nothing between `end` and the next `begin`,
    and nothing in passes without gradients.
    """

    def __init__(self, model: nn.Module, *, every: int) -> None:
        self.every = every
        self._places: list[Place] = []
        self._index: dict[tuple[str, Direction], int] = {}
        self._current: _Pending | None = None
        self._pending: list[_Pending] = []
        self._used_as: dict[nn.Parameter, list[torch.dtype]] = {}
        self._handles: list[RemovableHandle] = [
            *(
                module.register_forward_hook(partial(self._on_forward, name))
                for name, module in sites(model)
            ),
            *(
                parameter.register_post_accumulate_grad_hook(partial(self._on_gradient, name))
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            ),
        ]

    def close(self) -> None:
        """Take off every hook."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def begin(self, step: int) -> None:
        """Start recording a step's forward and backward passes."""
        self._current = _Pending(step, step % self.every == 0, [], [], [], [], [])

    def end(self) -> None:
        """Stop recording; the step's values stay on the device until `collect`."""
        assert self._current is not None
        self._pending.append(self._current)
        self._current = None

    def collect(self) -> list[SiteStep]:
        """The steps recorded since the last call, copied from the device."""
        steps = [self._to_host(pending) for pending in self._pending]
        self._pending.clear()
        return steps

    def _on_forward(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if self._current is None or not isinstance(output, Tensor) or not output.requires_grad:
            return
        if (name, "forward") not in self._index:
            self._note_use(module, args, output.dtype)
        seen, numel = output.detach(), output.numel()
        if isinstance(module, Scores):
            # A causal model never uses a score above the diagonal, nor its gradient (zero).
            length = output.shape[-1]
            seen, numel = seen.tril(), numel * (length + 1) // (2 * length)
        self._see(name, "forward", seen, numel)
        output.register_hook(partial(self._on_backward, name, numel))

    def _on_backward(self, name: str, numel: int, gradient: Tensor) -> None:
        if self._current is not None:
            self._see(name, "backward", gradient, numel)

    def _on_gradient(self, name: str, parameter: Tensor) -> None:
        current, gradient = self._current, parameter.grad
        if current is None or gradient is None:
            return
        uses = self._used_as.get(cast(nn.Parameter, parameter), [])
        index = self._index.get((name, "backward"))
        if index is not None and index in current.order:  # a sum over micro-batches
            self._places[index] = replace(self._places[index], dtype=gradient.dtype)
        narrowed = len(uses) == 1 and uses[0].itemsize < gradient.dtype.itemsize
        dtype = uses[0] if narrowed else gradient.dtype
        self._see(name, "backward", gradient, parameter.numel(), dtype)

    def _note_use(self, module: nn.Module, args: Any, dtype: torch.dtype) -> None:
        """Note in which dtype a module used its parameters, its own or those handed to it."""
        given = (arg for arg in args if isinstance(arg, nn.Parameter))
        for parameter in (*module.parameters(recurse=False), *given):
            self._used_as.setdefault(parameter, []).append(dtype)

    def _see(
        self,
        name: str,
        direction: Direction,
        x: Tensor,
        numel: int,
        dtype: torch.dtype | None = None,
    ) -> None:
        current = self._current
        assert current is not None
        index = self._index.get((name, direction))
        if index is None:
            index = self._index[name, direction] = len(self._places)
            self._places.append(Place(name, direction, dtype or x.dtype, numel))
        low, high = extremes(x)
        current.order.append(index)
        current.low.append(low)
        current.high.append(high)
        # On the CPU a look costs nothing, so the counts are made only where something is off.
        # Elsewhere a look would stall the device, and the counts cost less than that.
        if (
            current.sampled
            or x.device.type != "cpu"
            or not math.isfinite(low.item())
            or not math.isfinite(high.item())
        ):
            current.counted.append(index)
            current.counts.append(details(x))

    def _to_host(self, pending: _Pending) -> SiteStep:
        low = _numbers(pending.low)
        high = _numbers(pending.high)
        counts = torch.stack(pending.counts).tolist() if pending.counts else []
        return _merge(
            SiteStep(pending.step, pending.sampled, tuple(self._places), low, high, {}),
            pending.order,
            [
                (index, Details(row[0], *(int(count) for count in row[1:])))
                for index, row in zip(pending.counted, counts, strict=True)
            ],
        )


def sites(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The named modules that compute something themselves: those without children."""
    for name, module in model.named_modules():
        leaf = next(module.children(), None) is None
        if name and leaf and not isinstance(module, nn.Identity | nn.Dropout):
            yield name, module


def _numbers(scalars: list[Tensor]) -> list[float]:
    """0-dim tensors of any dtypes as floats, in one copy."""
    return torch.stack([scalar.float() for scalar in scalars]).tolist() if scalars else []


def _merge(step: SiteStep, order: list[int], counts: list[tuple[int, Details]]) -> SiteStep:
    """One entry a place, in the places' order, from a step whose micro-batches each passed it."""
    n = len(step.places)
    low, high = [math.nan] * n, [math.nan] * n
    seen = [False] * n
    for index, lo, hi in zip(order, step.low, step.high, strict=True):
        if not seen[index]:
            low[index], high[index], seen[index] = lo, hi, True
        else:
            # A NaN must win, and min() keeps its first argument where nothing compares.
            low[index] = lo if math.isnan(lo) else min(low[index], lo)
            high[index] = hi if math.isnan(hi) else max(high[index], hi)
    merged: dict[int, Details] = {}
    for index, counted in counts:
        if before := merged.get(index):
            counted = Details(
                max(before.max_abs, counted.max_abs),
                before.infinite + counted.infinite,
                before.nan + counted.nan,
                before.subnormal + counted.subnormal,
                before.nonzero + counted.nonzero,
            )
        merged[index] = counted
    return SiteStep(step.step, step.sampled, step.places, low, high, merged)
