"""From what the host knows of a step's sites to rows of `headroom`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch

from gradlab.fp16 import headroom_bits
from gradlab.probes.faults import dtype_name
from gradlab.probes.headroom.overflows import site_label
from gradlab.probes.probe import Columns
from gradlab.probes.roles import role
from gradlab.probes.sites import Details, Place, SiteStep


@dataclass(frozen=True)
class ReadStep:
    """A step as its numbers came to the host, of which most are never asked for more."""

    step: int
    columns: Columns

    @cached_property
    def sites(self) -> SiteStep:
        """What it showed."""
        return site_step(self.step, self.columns)


def site_step(step: int, columns: Columns) -> SiteStep:
    """One entry a place, in the places' order, from a step whose micro-batches each passed it."""
    places = tuple(columns["places"])
    n = len(places)
    low, high = [math.nan] * n, [math.nan] * n
    seen: dict[int, int] = {}  # entries, in order
    ranks: dict[int, int] = {}  # of the first process that was not finite there
    order, lows, highs = columns["order"], columns["low"], columns["high"]
    looks = zip(order, columns["rows"], columns["entries"], columns["ranks"], strict=True)
    uncounted: dict[int, float] = {}  # largest magnitude in the looks that were finite
    bounds = set(columns["bounded"])
    for look, (index, row, entries, rank) in enumerate(looks):
        lo, hi = lows[row], highs[row]
        if look not in bounds and math.isfinite(lo) and math.isfinite(hi):
            uncounted[index] = max(uncounted.get(index, 0.0), -lo, hi)
        if index not in ranks and not places[index].finite(lo, hi):
            ranks[index] = rank
        if index not in seen:
            low[index], high[index] = lo, hi
            seen[index] = entries
        else:
            seen[index] += entries
            # A NaN must win, and min() keeps its first argument where nothing compares.
            low[index] = lo if math.isnan(lo) else min(low[index], lo)
            high[index] = hi if math.isnan(hi) else max(high[index], hi)
    bounded = frozenset(order[look] for look in columns["bounded"])
    merged: dict[int, Details] = {}
    counts = columns.get("counts", [])
    for at, look in enumerate(columns["counted"]):
        index, row = order[look], columns["rows"][look]
        largest, *numbers = counts[5 * at : 5 * at + 5]
        if math.isfinite(lows[row]) and math.isfinite(highs[row]):
            largest = max(-lows[row], highs[row])
        infinite, nan, normal, nonzero = map(int, numbers)
        counted = Details(largest, infinite, nan, nonzero - normal - nan, nonzero)
        if before := merged.get(index):
            counted = Details(
                max(before.max_abs, counted.max_abs),
                before.infinite + counted.infinite,
                before.nan + counted.nan,
                before.subnormal + counted.subnormal,
                before.nonzero + counted.nonzero,
            )
        merged[index] = counted
    for index, largest in uncounted.items():
        if index in merged:
            merged[index] = replace(merged[index], max_abs=max(merged[index].max_abs, largest))
    of_sites = [index for index in seen if not places[index].outside]
    shown = {
        i: (places[i].dtype, seen[i], low[i], high[i])
        for i in (of_sites if columns["inside"] else ())
        if places[i].site in columns["inside"] and math.isfinite(low[i]) and math.isfinite(high[i])
    }
    return SiteStep(
        step,
        columns["sampled"][0],
        places,
        _without_passed_on(of_sites, places, shown),
        low,
        high,
        merged,
        seen,
        dict(zip(columns["caused"], columns["causes"], strict=True)),
        tuple(index for index in seen if places[index].outside),
        frozenset(columns["ends"]),
        frozenset(columns["zeroed"]),
        _operation(columns["operation"]),
        ranks,
        bounded,
    )


def _without_passed_on(
    order: Sequence[int], places: Sequence[Place], shown: Mapping[int, Any]
) -> tuple[int, ...]:
    """Leave out modules in compiled graphs that only pass on what a part of theirs gave.

    Outside, it is the same tensor. In a graph nothing tells but the numbers: those of the part,
    directly before. Where they are not finite, they tell nothing, and both are kept.

    Args:
        order: Indices of the places passed.
        places: By index.
        shown: Type, entries and extremes of those in compiled graphs that were finite.
    """
    kept: list[int] = []
    for index in order:
        whole, part = places[index], places[kept[-1]] if kept else None
        if (
            part is not None
            and part.direction == whole.direction
            and part.site.startswith(f"{whole.site.partition('[')[0]}.")
            and shown.get(index, ()) == shown.get(kept[-1])
        ):
            continue
        kept.append(index)
    return tuple(kept)


def _operation(names: Sequence[str]) -> tuple[str | None, str | None]:
    """Function and source of the first process that has found them."""
    return (names[0], names[1] or None) if names else (None, None)


def joined_columns(readings: Sequence[Columns]) -> Columns:
    """Several processes' readings of one step, as if they were micro-batches."""
    places = dict.fromkeys(place for reading in readings for place in reading["places"])
    index = {place: at for at, place in enumerate(places)}
    whole: dict[str, list[Any]] = {name: [] for name in readings[0]}
    for reading in readings:
        at = [index[place] for place in reading["places"]]
        looks = list(range(len(whole["order"]), len(whole["order"]) + len(reading["order"])))
        becomes = {"order": at, "caused": at, "zeroed": at}
        becomes |= {"rows": looks, "counted": looks, "bounded": looks}
        for name, column in reading.items():
            if name in becomes:
                column = [becomes[name][i] for i in column]
            whole.setdefault(name, []).extend(column)
    return {**whole, "places": tuple(places)}


def tightest(sites: SiteStep) -> tuple[float | None, str | None]:
    """The least headroom of a step and its site, the first of equals in execution order.

    Where there are FP16 tensors only those count: no other can overflow. Else all do.
    """
    if not sites.order:
        return None, None
    fp16 = [i for i in sites.order if sites.places[i].dtype is torch.float16]
    index = max(
        fp16 or sites.order,
        key=lambda i: sites.max_abs(i) if sites.finite(i) else math.inf,
    )
    bits = headroom_bits(sites.max_abs(index), nonfinite=not sites.finite(index))
    return bits, site_label(sites.places[index])


Rows: TypeAlias = Sequence[Sequence[Any]]
"""A step's rows of `headroom`, in the order of its columns."""


def rows_of(step: SiteStep) -> Rows:
    """A step's rows: those of every place that it passed, but for mere bounds."""
    return [
        _headroom_row(step, index, step.places[index])
        for index in step.order
        if not (index in step.bounded and step.finite(index))
    ]


def headroom_rows(steps: Iterable[Rows]) -> Columns:
    """The rows of several steps, by column; nothing if there are none."""
    rows = [row for step in steps for row in step]
    return dict(zip(_COLUMNS, zip(*rows, strict=True), strict=True)) if rows else {}


_COLUMNS = (
    *("step", "site", "layer", "op", "direction", "dtype"),
    *("max_abs", "headroom_bits", "underflow_frac", "nonfinite"),
)


def _headroom_row(sites: SiteStep, index: int, place: Place) -> tuple[Any, ...]:
    counts = sites.details.get(index)
    finite = sites.finite(index)
    max_abs = sites.max_abs(index)
    uncounted = 0 if finite else None
    return (
        sites.step,
        place.site,
        *role(place.site),
        place.direction,
        dtype_name(place.dtype),
        max_abs,
        headroom_bits(max_abs, nonfinite=not finite),
        counts.subnormal / max(1, counts.nonzero) if counts else None,
        counts.infinite + counts.nan if counts and not finite else uncounted,
    )
