"""Overflow events: which FP16 tensors of a step were not finite, and which came first."""

from dataclasses import dataclass
from typing import Literal

import torch

from gradlab.probes.headroom import Place, SiteStep
from gradlab.probes.statistics import FP16_OVERFLOW

Kind = Literal["inf", "nan", "both", "cast"]


@dataclass(frozen=True)
class Overflow:
    """One FP16 tensor with entries that are not finite.

    Attributes:
        order: Position in the step's execution, forward before backward.
        place: Where.
        kind: What the tensor holds; `cast` where it is the rounding of a wider, finite tensor.
        count: Entries that are not finite.
        producer: Whether it is the step's first in execution order: all that came before it was
            finite, so nothing else can have caused it. What follows it may be its doing.
    """

    order: int
    place: Place
    kind: Kind
    count: int
    producer: bool


def overflows(step: SiteStep) -> list[Overflow]:
    """The overflow events of a step in execution order; the first is the producer.

    A tensor wider than FP16 is an event only as the first: then it is the widened copy of an FP16
    product that overflowed on the way to it, as a gradient is that a matrix product hands back
    to an fp32 operand. Without FP16 in the model there are no events.
    """
    if all(place.dtype is not torch.float16 for place in step.places):
        return []
    events: list[Overflow] = []
    for index, place in enumerate(step.places):
        if step.finite(index) or (events and place.dtype is not torch.float16):
            continue
        found = step.details[index]
        kind: Kind = "both" if found.infinite and found.nan else "nan" if found.nan else "inf"
        producer = not events
        if producer and _cast_from_too_large(step, index):
            kind = "cast"
        events.append(Overflow(index, place, kind, found.infinite + found.nan, producer))
    return events


def site_label(place: Place) -> str:
    """A place as the verdict names it: its site, said to be the gradient where it is."""
    return place.site if place.direction == "forward" else f"{place.site} gradient"


def _cast_from_too_large(step: SiteStep, index: int) -> bool:
    """Whether that place is FP16 and the last wider tensor before it finite but past its range.

    That tensor is what was cast to make the first FP16 tensor after it: in the forward pass a
    norm's or activation's output, in the backward pass the gradient of a residual sum.
    """
    if step.places[index].dtype is not torch.float16:
        return False
    wider = (i for i in range(index - 1, -1, -1) if step.places[i].dtype is not torch.float16)
    source = next(wider, None)
    return source is not None and step.finite(source) and step.max_abs(source) >= FP16_OVERFLOW
