"""Overflow events: which FP16 tensors of a step were not finite, and which came first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from gradlab.fp16 import FP16_OVERFLOW
from gradlab.probes.faults import NotFinite, kind_of
from gradlab.probes.probe import Columns, Step
from gradlab.probes.roles import role
from gradlab.probes.sites import HANDED, Place, SiteStep

Kind = Literal["inf", "nan", "both", "cast"]


@dataclass(frozen=True)
class Overflow:
    """One FP16 tensor with entries that are not finite.

    Attributes:
        order: Position in the step's execution, forward before backward.
        place: Where.
        kind: What the tensor holds; `cast` where it is the rounding of a wider, finite tensor.
            Where nothing was counted, `nan` may stand for both.
        count: Entries that are not finite; None where they were not counted.
        producer: Name of the site where it arose, if it is the step's first in execution order:
            all that came before it was finite, so nothing else can have caused it. What follows
            it may be its doing.
    """

    order: int
    place: Place
    kind: Kind
    count: int | None
    producer: str | None


def overflows(step: SiteStep) -> list[Overflow]:
    """The overflow events of a step in execution order; the first has the producer.

    A tensor wider than FP16 is an event only as the first: then it is the widened copy of an FP16
    product that overflowed on the way to it, as a gradient is that a matrix product hands back
    to an fp32 operand. Without FP16 in the model there are no events.
    """
    if all(place.dtype is not torch.float16 for place in step.places):
        return []
    events: list[Overflow] = []
    for order, index in enumerate(step.order):
        place = step.places[index]
        if step.finite(index) or (events and place.dtype is not torch.float16):
            continue
        held, count = kind_and_count(step, index)
        first = not events
        kind: Kind = "cast" if first and _cast_from_too_large(step, order) else held
        source = producer(step, index) if first else None
        events.append(Overflow(order, place, kind, count, source))
    return events


def overflow_rows(sites: SiteStep, events: Sequence[Overflow], step: Step) -> Columns:
    """The events as rows of `overflows`."""
    places = [event.place for event in events]
    indices = [sites.order[event.order] for event in events]
    return {
        "step": [sites.step] * len(events),
        "order": [event.order for event in events],
        "rank": [sites.ranks.get(index) for index in indices],
        "site": [place.site for place in places],
        "layer": [role(place.site)[0] for place in places],
        "op": [role(place.site)[1] for place in places],
        "direction": [place.direction for place in places],
        "kind": [event.kind for event in events],
        "count": [event.count for event in events],
        "numel": [sites.entries[i] for i in indices],
        "producer": [events[0].producer] * len(events),
        "function": [sites.operation[0]] * len(events),
        "source": [sites.operation[1]] * len(events),
        "loss_scale": [step.loss_scale] * len(events),
        "skipped": [step.skipped] * len(events),
    }


def site_label(place: Place) -> str:
    """A place as the verdict names it: its site, said to be the gradient where it is."""
    return place.site if place.direction == "forward" else f"{place.site} gradient"


def producer(step: SiteStep, index: int) -> str:
    """Where it arose that the step's first place that is not finite, at `index`, is not."""
    place = step.places[index]
    if place.direction == "backward" and arrived(step, index):
        return "the loss"
    cause = step.causes.get(index)
    if cause is None:
        return site_label(place)
    if cause != HANDED:
        return cause
    # Its input was not finite already, and no module had given that.
    inputs = [i for i in step.outside if step.places[i].direction == "forward"]
    if lost := [i for i in inputs if not step.finite(i)]:
        return f"{step.places[lost[0]].site} (input)"
    parent = place.site.rpartition(".")[0] or "the model"
    return f"{parent} (between its modules)"


def arrived(step: SiteStep, index: int) -> bool:
    """Whether the step's first gradient that is not finite, at `index`, came so from the loss.

    Of an FP16 model an infinite one did not: multiplied by the loss scale, and cast to FP16 where
    the model's output is, it left the range there.
    """
    place = step.places[index]
    if place.dtype is torch.float16 and kind_and_count(step, index)[0] == "inf":
        return False
    returned = [i for i in step.outside if step.places[i].direction == "backward"]
    return place.site in step.ends or any(not step.finite(i) for i in returned)


def kind_and_count(step: SiteStep, index: int) -> tuple[NotFinite, int | None]:
    """What a tensor that is not finite holds, and how many such entries."""
    found = step.details.get(index)
    if found is None:
        return ("nan" if math.isnan(step.high[index]) else "inf"), None
    return kind_of(found.infinite, found.nan), found.infinite + found.nan


def _cast_from_too_large(step: SiteStep, order: int) -> bool:
    """Whether the place that came as number `order` was cast from a wider one that did not fit.

    Then it is FP16, and the last wider tensor before it finite but past FP16's range: that was
    cast to make the first FP16 tensor after it, in the forward pass a norm's or activation's
    output, in the backward pass the gradient of a residual sum.
    """
    if step.places[step.order[order]].dtype is not torch.float16:
        return False
    before = reversed(step.order[:order])
    source = next((i for i in before if step.places[i].dtype is not torch.float16), None)
    return source is not None and step.finite(source) and step.max_abs(source) >= FP16_OVERFLOW
