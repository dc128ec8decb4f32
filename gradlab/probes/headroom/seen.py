"""What a step's passes have shown so far: from tensors to a reading."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from gradlab.probes.headroom.extremes import Extremes
from gradlab.probes.probe import Reading
from gradlab.probes.sites import Direction, Place
from gradlab.probes.statistics import details, small_counts

Look: TypeAlias = tuple[str, Direction, torch.dtype, bool, bool]
"""A place's attributes, in their order."""


class Seen:
    """The looks of one step after another.

    Attributes:
        rank: Of the process that looks.
        extremes: Of all that was taken.
        causes: Of outputs that were not finite, by their place's index.
        ends: Sites whose outputs the model returned.
        inside: Sites that compiled graphs gave.
        zeroed: Places that were all zero though their module was handed numbers.
        broken: Whether a CPU tensor was not finite in the forward pass.
        lost: Whether one was not in either.
        fp16: Whether a tensor was FP16.
        had_fp16: Whether one was in this step or before.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self._places: list[Place] = []
        self._index: dict[Look, int] = {}
        self._unbounded: set[Look] = set()
        self.had_fp16 = False
        self.extremes = Extremes()
        self.begin(sampled=False, counting=False, bounding=False)

    def begin(self, *, sampled: bool, counting: bool, bounding: bool) -> None:
        """A step starts.

        Args:
            sampled: Whether it is written.
            counting: Whether all of its looks count.
            bounding: Whether a bound on a tensor's entries does, if all is finite and none is FP16:
                overflows have the rows of the steps before.
        """
        self._sampled, self._counting, self._bounding = sampled, counting, bounding
        self._bounded: list[int] = []
        self._order: list[int] = []
        self._entries: list[int] = []
        self._gradients: dict[str, int] = {}
        self._sums: dict[int, int] = {}  # from the place of a first look to the sum's
        self._counted: list[int] = []
        self._counted_later: list[int] = []
        self._counts: list[Tensor] = []
        self.causes: dict[int, str] = {}
        self.ends: set[str] = set()
        self.inside: set[str] = set()
        self.zeroed: list[int] = []
        self.broken = self.lost = self.fp16 = False
        self.extremes.clear()

    def state(self) -> dict[str, Any]:
        """What of earlier steps decides which looks are bounds."""
        names = [(site, way, str(dtype), *flags) for site, way, dtype, *flags in self._unbounded]
        return {"unbounded": sorted(names), "had_fp16": self.had_fp16}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.had_fp16 = state["had_fp16"]
        for site, way, dtype, masks, outside in state["unbounded"]:
            kind = getattr(torch, dtype.removeprefix("torch."))
            self._unbounded.add((site, way, kind, masks, outside))

    def index(self, look: Look) -> int:
        """A place's, from its first look on."""
        if (index := self._index.get(look)) is None:
            index = self._index[look] = len(self._places)
            self._places.append(Place(*look))
        return index

    def take(self, look: Look, x: Tensor, numel: int) -> bool:
        """Take in a tensor; False if it is on a CPU, where that costs nothing, and not finite."""
        if not x.numel():
            return True
        if x.dtype is torch.float16:
            self.fp16 = self.had_fp16 = True
        if self._bounding and self._is_bounded(look, x):
            self._bounded.append(len(self._order))
            is_finite = True
        else:
            is_finite = self.extremes.take(x)
        index = self._index.get(look)
        self._order.append(self.index(look) if index is None else index)
        self._entries.append(numel)
        if self._counting or not is_finite:
            self._counted.append(len(self._order) - 1)
            known = is_finite and x.is_cpu  # to have nothing that is not finite
            self._counts.append(F.pad(small_counts(x), (3, 0)) if known else details(x))
        return is_finite

    def _is_bounded(self, look: Look, x: Tensor) -> bool:
        if self.lost or self.had_fp16 or look in self._unbounded:
            return False
        if self.extremes.take_bound(x):
            return True
        self._unbounded.add(look)  # not to read it twice at every step
        return False

    def has_gradient(self, name: str) -> bool:
        """Whether a parameter's gradient was taken: another look sees the sum of both."""
        return name in self._gradients

    def take_gradient(self, look: Look, x: Tensor, numel: int, *, waits: bool = False) -> None:
        """Take in a parameter's gradient; a sum stands where the first look at it did.

        Args:
            look: Of it.
            x: The gradient.
            numel: Entries of the parameter.
            waits: Whether nothing changes it before its backward pass ends.
        """
        if waits and x.numel() and self.extremes.take_later(x):
            self._counted_later += [len(self._order)] * self._counting
            self._order.append(self.index(look))
            self._entries.append(numel)
        else:
            self.lost |= not self.take(look, x, numel)
        name, index = look[0], self.index(look)
        before = self._gradients.get(name, index)
        if before != index:
            self._sums[before] = index
        self._gradients[name] = index

    def reading(self, operation: Sequence[str | None]) -> Reading | None:
        """All of it, if there is something.

        Args:
            operation: That is to blame: function and source, or nothing.
        """
        if not self._order:
            return None
        low, high, rows = self.extremes.together()
        labels: dict[str, Sequence[Any]] = {
            "places": tuple(self._places),
            "order": [self._sums.get(index, index) for index in self._order],
            "rows": rows,
            "entries": self._entries,
            "bounded": self._bounded,
            "ranks": [self.rank] * len(self._order),
            "counted": self._counted + self._counted_later,
            "caused": list(self.causes),
            "causes": list(self.causes.values()),
            "ends": list(self.ends),
            "inside": list(self.inside),
            "zeroed": self.zeroed,
            "operation": operation,
            "sampled": [self._sampled],
        }
        values: dict[str, Tensor] = {}
        for name, numbers in (("low", low), ("high", high)):
            if isinstance(numbers, Tensor):
                values[name] = numbers
            else:
                labels[name] = numbers
        counts = self._counts
        if self._counted_later:
            counts = [*counts, self.extremes.waiting.counts().flatten()]
        if counts:
            first = counts[0].device
            for x in counts:
                if x.is_cuda:  # a forward pass on another stream would take its memory back at once
                    x.record_stream(torch.cuda.current_stream(x.device))
            values["counts"] = torch.cat([x.to(first) for x in counts])
        return Reading(labels, values)


class SharedSeen(Seen):
    """For a model on several GPUs, whose backward passes run at once, in a thread each."""

    def __init__(self, rank: int) -> None:
        self._one_at_a_time = threading.RLock()
        super().__init__(rank)

    def take(self, look: Look, x: Tensor, numel: int) -> bool:
        """As of one GPU: what a look adds to the columns stays together."""
        with self._one_at_a_time:
            return super().take(look, x, numel)

    def take_gradient(self, look: Look, x: Tensor, numel: int, *, waits: bool = False) -> None:
        """As of one GPU, and at once."""
        with self._one_at_a_time:
            super().take_gradient(look, x, numel)
