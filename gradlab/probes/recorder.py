"""Keeps readings on the device, and copies a window of them to the host at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
        readings: The probes', in their order.
    """

    step: int
    reached: bool
    lr: float | Tensor | None
    seconds: float
    loss_scale: Tensor
    skipped: Tensor | None
    losses: tuple[Tensor, ...]
    readings: tuple[tuple[Probe, Reading], ...]


@dataclass(frozen=True)
class RecordedStep:
    """A step on the host: what is known of it, and its probes' rows by table."""

    step: Step
    updated: bool
    lr: float | None
    seconds: float
    loss: float | None
    tables: tuple[Mapping[str, Columns], ...]


def collect(pending: Sequence[PendingStep]) -> Iterator[RecordedStep]:
    """Copy the steps' numbers to the host, in one copy a device, and make their rows.

    A step's rows are made as it is asked for: probes know of no step behind the last one taken.
    """
    numbers = iter(_to_host([tensor for step in pending for tensor in _tensors(step)]))
    for step in pending:
        yield _recorded(step, [next(numbers) for _ in _tensors(step)])


def has_numbers(pending: PendingStep) -> bool:
    """Whether a step's tensors hold anything: those on the meta device have a shape only."""
    return not any(tensor.is_meta for tensor in _tensors(pending))


def _tensors(pending: PendingStep) -> list[Tensor]:
    """All of a step's tensors, in the order in which `_recorded` takes their numbers."""
    lr = [pending.lr] if isinstance(pending.lr, Tensor) else []
    skipped = [] if pending.skipped is None else [pending.skipped]
    values = [value for _, reading in pending.readings for value in reading.values.values()]
    return [pending.loss_scale, *lr, *skipped, *pending.losses, *values]


def _recorded(pending: PendingStep, numbers: list[list[float]]) -> RecordedStep:
    left = iter(numbers)
    loss_scale = next(left)[0]
    lr = next(left)[0] if isinstance(pending.lr, Tensor) else pending.lr
    skipped = pending.skipped is not None and next(left)[0] > 0
    losses = [next(left)[0] for _ in pending.losses]
    step = Step(pending.step, loss_scale, skipped)
    tables = tuple(
        probe.rows(step, {**reading.labels, **{name: next(left) for name in reading.values}})
        for probe, reading in pending.readings
    )
    loss = sum(losses) / len(losses) if losses else None
    updated = pending.reached and not skipped
    return RecordedStep(step, updated, lr, pending.seconds, loss, tables)


def _to_host(tensors: Sequence[Tensor]) -> list[list[float]]:
    """Each tensor's numbers as floats."""
    by_device: dict[torch.device, list[int]] = {}
    for index, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, []).append(index)
    numbers: list[list[float]] = [[] for _ in tensors]
    for device, indices in by_device.items():
        wide = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        flat = [tensors[index].detach().reshape(-1).to(wide) for index in indices]
        copied = torch.cat(flat).tolist()
        at = 0
        for index, part in zip(indices, flat, strict=True):
            numbers[index] = copied[at : at + len(part)]
            at += len(part)
    return numbers
