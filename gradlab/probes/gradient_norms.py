"""Gradient norms of every parameter: what the paper's figures 3 and 7 are made of."""

import math
from collections.abc import Iterable, Mapping
from itertools import compress

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradlab.probes.cadence import Cadence
from gradlab.probes.distributed.shards import over_shards
from gradlab.probes.gradient_statistics import gradient_statistics
from gradlab.probes.probe import Columns, Probe, Reading, Step, Subject
from gradlab.probes.roles import role
from gradlab.probes.selection import Patterns, select

_VALUES = ("grad_l1", "grad_l2", "grad_max_abs", "nonfinite")


class GradientNorms(Probe):
    """L1, L2 and largest magnitude of each parameter's gradient, and how many are not finite.

    Unscaled, before clipping, accumulated over micro-batches, reduced over processes; within 1e-6
    of float64 at any size. The norms are over the finite entries. A parameter without a gradient
    at a step has no row there, nor has one whose optimizer, of several, did not step.

    Args:
        params: Patterns over the parameters' names.
        every: Cadence; None for that of `attach`.
    """

    table = "grad_norms"
    exact = True

    def __init__(self, params: Patterns = "*", *, every: Cadence | None = None) -> None:
        self.every = every
        self._patterns = params

    def open(self, subject: Subject) -> Iterable[RemovableHandle]:
        """Choose the parameters."""
        chosen = select(subject.parameters, self._patterns, "parameters")
        self._places = {name: (*role(name), p.numel()) for name, p in chosen.items()}
        self._read: list[tuple[list[str], Tensor]] = []
        return ()

    @property
    def covers_all(self) -> bool:
        """Whether no parameter is left out."""
        return self._patterns == "*"

    def begin(self, step: int) -> None:
        """Forget the last step's."""
        self._read = []

    def after_backward(self, changed: Mapping[str, nn.Parameter], loss_scale: Tensor) -> None:
        """Read the gradients that this pass changed."""
        by_device: dict[torch.device, dict[str, Tensor]] = {}
        for name in self._places:
            if name in changed and (gradient := changed[name].grad) is not None:
                by_device.setdefault(gradient.device, {})[name] = gradient
        for device, gradients in by_device.items():
            found = over_shards(list(gradients.values()), gradient_statistics)
            found[:, 1].sqrt_()
            found[:, :3].div_(loss_scale.to(device, found.dtype))
            self._read.append((list(gradients), found))

    def after_step(self) -> Reading | None:
        """A row for each parameter that got a gradient, as its last pass left it."""
        if not self._read:
            return None
        names, table = self._read[0]
        if len(self._read) > 1:
            last: dict[str, Tensor] = {}
            for read, rows in self._read:
                last |= dict(zip(read, rows.to(table.device).unbind(), strict=True))
            names, table = list(last), torch.stack(list(last.values()))
        layers, ops, numels = zip(*(self._places[name] for name in names), strict=True)
        values = dict(zip(_VALUES, table.unbind(1), strict=True))
        return Reading({"param": names, "layer": layers, "op": ops, "numel": numels}, values)

    def nonfinite(self) -> Tensor:
        """0-dim, on the device: entries of the current step's gradients that are not finite."""
        if not self._read:
            return torch.zeros((), device="cpu")
        first = self._read[0][1]
        found = [rows[:, _VALUES.index("nonfinite")].sum() for _, rows in self._read]
        return torch.stack([x.to(first.device) for x in found]).sum()

    def notices(self, columns: Columns) -> bool:
        """Whether a gradient was not finite."""
        return any(columns["nonfinite"])

    def grad_norm(self, step: Step, columns: Columns) -> float | None:
        """L2 norm over all gradients, if none is left out; inf where an entry is not finite."""
        if not self.covers_all:
            return None
        own = _of_the_step(step, columns)
        return math.inf if any(own["nonfinite"]) else math.hypot(*own["grad_l2"])

    def rows(self, step: Step, columns: Columns) -> Mapping[str, Columns]:
        """All but those of parameters whose optimizer did not step."""
        return super().rows(step, _of_the_step(step, columns))


class TotalNorm(GradientNorms):
    """For `steps` alone: the norm over all gradients, and that one was not finite."""

    def tables(self) -> tuple[str, ...]:
        """None of its own."""
        return ()

    def rows(self, step: Step, columns: Columns) -> Mapping[str, Columns]:
        """None."""
        return {}


def _of_the_step(step: Step, columns: Columns) -> Columns:
    if not step.left_over:
        return columns
    is_own = [name not in step.left_over for name in columns["param"]]
    return {name: list(compress(column, is_own)) for name, column in columns.items()}
