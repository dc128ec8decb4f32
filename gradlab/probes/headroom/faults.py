"""From what the host knows of a step's sites to rows of `faults`."""

from collections.abc import Sequence

from gradlab.probes.faults import Fault, What, dtype_name
from gradlab.probes.headroom.overflows import Overflow, arrived, kind_and_count, producer
from gradlab.probes.sites import SiteStep


def site_faults(step: SiteStep, events: Sequence[Overflow]) -> list[Fault]:
    """The faults of a step's sites.

    The first place in execution order that is not finite, unless that is an overflow event; the
    inputs that were not, if a site then was not either; a gradient that came so from the loss; and
    the sites that made zeros of something else.
    """
    found = [_zeros(step, order, index) for order, index in enumerate(step.order)]
    faults = [fault for fault in found if fault is not None]
    lost = next(((o, i) for o, i in enumerate(step.order) if not step.finite(i)), None)
    if lost is None:
        return faults
    order, index = lost
    place = step.places[index]
    if place.direction == "forward":
        faults += [
            _fault(step, i, "input")
            for i in step.outside
            if step.places[i].direction == "forward" and not step.finite(i)
        ]
    came = place.direction == "backward" and arrived(step, index)
    if not events or came:
        what: What = "activation" if place.direction == "forward" else "gradient"
        faults.append(_fault(step, index, what, order))
    return faults


def _zeros(step: SiteStep, order: int, index: int) -> Fault | None:
    if index not in step.zeroed or not step.low[index] == step.high[index] == 0:
        return None
    place, numel = step.places[index], step.entries[index]
    return Fault(
        step.step,
        "activation",
        place.site,
        "zero",
        order=order,
        direction=place.direction,
        dtype=dtype_name(place.dtype),
        count=numel,
        numel=numel,
    )


def _fault(step: SiteStep, index: int, what: What, order: int | None = None) -> Fault:
    place = step.places[index]
    kind, count = kind_and_count(step, index)
    function, source = (None, None) if what == "input" else step.operation
    return Fault(
        step.step,
        what,
        place.site,
        kind,
        rank=step.ranks.get(index, 0),
        order=order,
        direction=None if what == "input" else place.direction,
        dtype=dtype_name(place.dtype),
        count=count,
        numel=step.entries[index],
        producer=None if what == "input" else producer(step, index),
        function=function,
        source=source,
    )
