"""Keeps readings on the device, and copies a window of them to the host at once."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradlab.errors import GradlabWarning, in_words
from gradlab.probes.faults import Fault, fault_rows, kind_of
from gradlab.probes.probe import Columns, Probe, Reading, Step


@dataclass(frozen=True)
class PendingStep:
    """A step whose numbers are still on the device.

    Attributes:
        step: Its number.
        reached: Whether it came to the optimizer, which may have skipped.
        lr: The first optimizer's learning rate; None without an optimizer.
        seconds: Since the recording began.
        loss_scale: 0-dim.
        skipped: 0-dim, above 0 if the optimizer did not step; None if that cannot be.
        losses: 0-dim each, those of the micro-batches.
        readings: By the probe's position among the follower's.
        left_over: As `Step` has it.
        due: The probes that have this step on their cadence, by position.
        grad_norm: 0-dim, where the loop took it itself.
        faults: What the loop did to gradients.
    """

    step: int
    reached: bool
    lr: float | Tensor | None
    seconds: float
    loss_scale: Tensor
    skipped: Tensor | None
    losses: tuple[Tensor, ...]
    readings: Mapping[int, Reading]
    left_over: frozenset[str] = frozenset()
    due: frozenset[int] = frozenset()
    grad_norm: Tensor | None = None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class HostStep:
    """A step whose numbers have been copied to the host: what one process saw of it.

    Attributes:
        step: Its number.
        updated: Whether the optimizer stepped.
        lr: The first optimizer's learning rate; None without an optimizer.
        seconds: Since the recording began.
        loss_scale: What the loss was multiplied by.
        skipped: Whether a gradient that was not finite kept the optimizer from stepping.
        losses: Those of the micro-batches.
        readings: Columns by the probe's position among the follower's.
        event: Whether this process saw one, as `Step` has it.
        left_over: As `Step` has it.
        due: The probes that have this step on their cadence, by position.
        rank: Of the process.
        grad_norm: As the loop took it; None if it did not.
        faults: What the loop did to gradients.
    """

    step: int
    updated: bool
    lr: float | None
    seconds: float
    loss_scale: float
    skipped: bool
    losses: tuple[float, ...]
    readings: dict[int, Columns]
    event: bool = False
    left_over: frozenset[str] = frozenset()
    due: frozenset[int] = frozenset()
    rank: int = 0
    grad_norm: float | None = None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class RecordedStep:
    """What is known of a step, and its probes' rows by table."""

    step: Step
    updated: bool
    lr: float | None
    seconds: float
    loss: float | None
    grad_norm: float | None
    tables: tuple[Mapping[str, Columns], ...]


def to_host(pending: Sequence[PendingStep], probes: Sequence[Probe]) -> list[HostStep]:
    """Copy the steps' numbers to the host, in one copy a device, and a second where events were.

    Of a step between two of a probe's cadence only what tells of an event is copied at first, and
    the rest if there was one.
    """
    at_once = [
        [
            index
            for index in step.readings
            if index in step.due or type(probes[index]).notices is not Probe.notices
        ]
        for step in pending
    ]
    numbers = iter(
        host_numbers([x for s, of in zip(pending, at_once, strict=True) for x in _tensors(s, of)])
    )
    steps = [
        _on_host(step, of, [next(numbers) for _ in _tensors(step, of)])
        for step, of in zip(pending, at_once, strict=True)
    ]
    steps = [replace(step, event=_has_event(step, probes)) for step in steps]
    left = [
        [i for i in waiting.readings if i not in step.readings] if step.event else []
        for waiting, step in zip(pending, steps, strict=True)
    ]
    more = iter(
        host_numbers([x for s, of in zip(pending, left, strict=True) for x in _values(s, of)])
    )
    return [
        replace(step, readings=step.readings | _columns(waiting, of, more)) if of else step
        for waiting, of, step in zip(pending, left, steps, strict=True)
    ]


def completed(parts: Sequence[HostStep], pending: PendingStep) -> Sequence[HostStep]:
    """A step's parts, with what was left on the device here, if another process saw an event.

    Args:
        parts: What each process saw of it, this one first.
        pending: The step, as it ended in this process.
    """
    own, *others = parts
    left = [index for index in pending.readings if index not in own.readings]
    if not left or not any(part.event for part in others):
        return parts
    columns = _columns(pending, left, iter(host_numbers(_values(pending, left))))
    return [replace(own, readings=own.readings | columns), *others]


def recorded(parts: Sequence[HostStep], probes: Sequence[Probe]) -> RecordedStep:
    """A step's rows.

    Args:
        parts: What each process saw of it; that of the process that writes is the first.
        probes: The follower's.
    """
    own = parts[0]
    event = any(part.event for part in parts)
    step = Step(own.step, own.loss_scale, own.skipped, own.left_over, event)
    tables = []
    grad_norm = own.grad_norm
    for index, probe in enumerate(probes):
        readings = [part.readings[index] for part in parts if index in part.readings]
        if not readings:
            continue
        make = probe.rows if event or index in own.due else probe.between
        if (rows := _rows(probe, make, step, readings)) and _fit(probe, rows):
            tables.append(rows)
        if grad_norm is None:
            grad_norm = probe.grad_norm(step, readings[0])
    losses = [loss for part in parts for loss in part.losses]
    loss = sum(losses) / len(losses) if losses else None
    if faults := [*own.faults, *(fault for part in parts for fault in _lost_losses(part))]:
        tables.append({"faults": fault_rows(faults)})
    return RecordedStep(step, own.updated, own.lr, own.seconds, loss, grad_norm, tuple(tables))


def _has_event(step: HostStep, probes: Sequence[Probe]) -> bool:
    # Each is asked at each step: what a probe notices may be a change.
    noticed = [probes[index].notices(columns) for index, columns in step.readings.items()]
    numbers = step.losses if step.grad_norm is None else (*step.losses, step.grad_norm)
    return step.skipped or not all(map(math.isfinite, numbers)) or any(noticed)


def _lost_losses(part: HostStep) -> list[Fault]:
    """That a process's loss, in one of its micro-batches or more, was not finite.

    In `steps` such a loss could not be told from one that was not given.
    """
    infinite = sum(map(math.isinf, part.losses))
    nan = sum(map(math.isnan, part.losses))
    if not infinite + nan:
        return []
    kind, of = kind_of(infinite, nan), len(part.losses)
    return [Fault(part.step, "loss", "loss", kind, rank=part.rank, count=infinite + nan, numel=of)]


def _rows(
    probe: Probe,
    make: Callable[[Step, Columns], Mapping[str, Columns]],
    step: Step,
    readings: Sequence[Columns],
) -> Mapping[str, Columns]:
    if len(readings) > 1:
        try:
            return make(step, probe.joined(readings))
        except Exception as error:  # what others sent may be anything: whoever reaches the store
            warnings.warn(
                f"step {step.step}: what the processes saw cannot be put together "
                f"({in_words(error)}): the first one's share is recorded.",
                GradlabWarning,
                stacklevel=2,
            )
    return make(step, readings[0])


def _fit(probe: Probe, rows: Mapping[str, Columns]) -> bool:
    """Whether a user's own probe gives the columns that it declares; a warning says if not."""
    columns, declared = rows.get(probe.table), ["step", *probe.columns]
    if not probe.columns or columns is None:
        return True
    lengths = {name: _length(column) for name, column in columns.items()}
    same = len(set(lengths.values())) == 1 and None not in lengths.values()
    if set(columns) == set(declared) and same:
        return True
    given = ", ".join(f"{name} ({length})" for name, length in lengths.items())
    warnings.warn(
        f"{type(probe).__name__} gives rows of {probe.table} with the columns {given}: they are "
        f"left out. Give {', '.join(declared)} at each step, all of one length.",
        GradlabWarning,
        stacklevel=2,
    )
    return False


def _length(column: object) -> int | None:
    """Rows of a column; None if it is none."""
    try:
        return len(column)  # type: ignore[arg-type]
    except TypeError:
        return None


def has_numbers(pending: PendingStep) -> bool:
    """Whether a step's tensors hold anything: those on the meta device have a shape only."""
    return not any(tensor.is_meta for tensor in _tensors(pending, pending.readings))


def _tensors(pending: PendingStep, of: Iterable[int]) -> list[Tensor]:
    """A step's tensors with these probes' readings, in the order in which `_on_host` takes them."""
    lr = [pending.lr] if isinstance(pending.lr, Tensor) else []
    skipped = [] if pending.skipped is None else [pending.skipped]
    norm = [] if pending.grad_norm is None else [pending.grad_norm]
    return [pending.loss_scale, *lr, *skipped, *norm, *pending.losses, *_values(pending, of)]


def _values(pending: PendingStep, of: Iterable[int]) -> list[Tensor]:
    return [value for index in of for value in pending.readings[index].values.values()]


def _columns(
    pending: PendingStep, of: Iterable[int], numbers: Iterator[list[float]]
) -> dict[int, Columns]:
    """The readings of these probes, with numbers for their tensors."""
    found: dict[int, Columns] = {}
    for index in of:
        reading = pending.readings[index]
        found[index] = {**reading.labels, **{name: next(numbers) for name in reading.values}}
    return found


def _on_host(pending: PendingStep, of: Sequence[int], numbers: list[list[float]]) -> HostStep:
    left = iter(numbers)
    loss_scale = next(left)[0]
    lr = next(left)[0] if isinstance(pending.lr, Tensor) else pending.lr
    skipped = pending.skipped is not None and next(left)[0] > 0
    grad_norm = None if pending.grad_norm is None else next(left)[0]
    losses = tuple(next(left)[0] for _ in pending.losses)
    return HostStep(
        pending.step,
        pending.reached and not skipped,
        lr,
        pending.seconds,
        loss_scale,
        skipped,
        losses,
        _columns(pending, of, left),
        left_over=pending.left_over,
        due=pending.due,
        grad_norm=grad_norm,
        faults=pending.faults,
    )


def host_numbers(tensors: Sequence[Tensor]) -> list[list[float]]:
    """Each tensor's numbers as floats, in one copy a device."""
    by_device: dict[torch.device, list[int]] = {}
    for index, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, []).append(index)
    numbers: list[list[float]] = [[] for _ in tensors]
    for indices in by_device.values():
        flat = [tensors[index].detach().reshape(-1).to(torch.float64) for index in indices]
        copied = torch.cat(flat).tolist()
        at = 0
        for index, part in zip(indices, flat, strict=True):
            numbers[index] = copied[at : at + len(part)]
            at += len(part)
    return numbers
