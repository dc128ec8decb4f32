"""Keeps readings on the device, and copies a window of them to the host at once."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
        readings: By the probe's position among the session's.
        left_over: As `Step` has it.
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
        readings: Columns by the probe's position among the session's.
        left_over: As `Step` has it.
        rank: Of the process.
    """

    step: int
    updated: bool
    lr: float | None
    seconds: float
    loss_scale: float
    skipped: bool
    losses: tuple[float, ...]
    readings: Mapping[int, Columns]
    left_over: frozenset[str] = frozenset()
    rank: int = 0


@dataclass(frozen=True)
class RecordedStep:
    """What is known of a step, and its probes' rows by table."""

    step: Step
    updated: bool
    lr: float | None
    seconds: float
    loss: float | None
    tables: tuple[Mapping[str, Columns], ...]


def to_host(pending: Sequence[PendingStep]) -> list[HostStep]:
    """Copy the steps' numbers to the host, in one copy a device."""
    numbers = iter(_numbers([tensor for step in pending for tensor in _tensors(step)]))
    return [_on_host(step, [next(numbers) for _ in _tensors(step)]) for step in pending]


def recorded(parts: Sequence[HostStep], probes: Sequence[Probe]) -> RecordedStep:
    """A step's rows.

    Args:
        parts: What each process saw of it; that of the process that writes is the first.
        probes: The session's.
    """
    own = parts[0]
    step = Step(own.step, own.loss_scale, own.skipped, own.left_over)
    tables = []
    for index, probe in enumerate(probes):
        readings = [part.readings[index] for part in parts if index in part.readings]
        if readings:
            tables.append(_rows(probe, step, readings))
    losses = [loss for part in parts for loss in part.losses]
    loss = sum(losses) / len(losses) if losses else None
    if faults := [fault for part in parts for fault in _lost_losses(part)]:
        tables.append({"faults": fault_rows(faults)})
    return RecordedStep(step, own.updated, own.lr, own.seconds, loss, tuple(tables))


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


def _rows(probe: Probe, step: Step, readings: Sequence[Columns]) -> Mapping[str, Columns]:
    if len(readings) > 1:
        try:
            return probe.rows(step, probe.joined(readings))
        except Exception as error:  # what others sent may be anything: whoever reaches the store
            warnings.warn(
                f"step {step.step}: what the processes saw cannot be put together "
                f"({in_words(error)}): the first one's share is recorded.",
                GradlabWarning,
                stacklevel=2,
            )
    return probe.rows(step, readings[0])


def has_numbers(pending: PendingStep) -> bool:
    """Whether a step's tensors hold anything: those on the meta device have a shape only."""
    return not any(tensor.is_meta for tensor in _tensors(pending))


def _tensors(pending: PendingStep) -> list[Tensor]:
    """All of a step's tensors, in the order in which `_on_host` takes their numbers."""
    lr = [pending.lr] if isinstance(pending.lr, Tensor) else []
    skipped = [] if pending.skipped is None else [pending.skipped]
    values = [value for reading in pending.readings.values() for value in reading.values.values()]
    return [pending.loss_scale, *lr, *skipped, *pending.losses, *values]


def _on_host(pending: PendingStep, numbers: list[list[float]]) -> HostStep:
    left = iter(numbers)
    loss_scale = next(left)[0]
    lr = next(left)[0] if isinstance(pending.lr, Tensor) else pending.lr
    skipped = pending.skipped is not None and next(left)[0] > 0
    losses = tuple(next(left)[0] for _ in pending.losses)
    readings = {
        index: {**reading.labels, **{name: next(left) for name in reading.values}}
        for index, reading in pending.readings.items()
    }
    updated = pending.reached and not skipped
    return HostStep(
        pending.step,
        updated,
        lr,
        pending.seconds,
        loss_scale,
        skipped,
        losses,
        readings,
        pending.left_over,
    )


def _numbers(tensors: Sequence[Tensor]) -> list[list[float]]:
    """Each tensor's numbers as floats."""
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
