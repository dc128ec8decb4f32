"""What a probe is: what it looks at, what it computes on the device, and which table it fills."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradlab.config import Events
from gradlab.probes.cadence import Cadence

Columns: TypeAlias = Mapping[str, Sequence[Any]]
"""Rows of a table, by column."""


@dataclass(frozen=True)
class Subject:
    """What a probe looks at.

    Attributes:
        model: The user's module, out of the wrappers that it may have come in.
        parameters: Those that require gradients, by dotted name, a shared one once.
        modules: All but the model itself, by dotted name.
        trained: What an optimizer holds of each parameter: the parameter itself, or its fp32
            master copy. Those that no optimizer holds are left out.
        optimizers: That train it.
    """

    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
    modules: Mapping[str, nn.Module]
    trained: Mapping[str, Tensor]
    optimizers: tuple[torch.optim.Optimizer, ...]


@dataclass(frozen=True)
class Reading:
    """Rows of a probe's table for one step, while their numbers are still on the device.

    Attributes:
        labels: Columns that are known on the host.
        values: Columns on the device, 1-D, of any dtype: copied once a window.
    """

    labels: Columns
    values: Mapping[str, Tensor]


@dataclass(frozen=True)
class Step:
    """What the host knows of a step once its numbers have been copied.

    Attributes:
        step: 0-based attempt of the loop, skipped or not.
        loss_scale: What the loss was multiplied by (1 without scaling).
        skipped: Whether a gradient that was not finite kept the optimizer from stepping.
        left_over: Parameters whose optimizer, of several, did not step: a gradient there is left
            over from another one's step.
        event: Whether it was skipped, or a loss or something that a probe saw was not finite: its
            rows are written whatever the cadence.
    """

    step: int
    loss_scale: float
    skipped: bool
    left_over: frozenset[str] = frozenset()
    event: bool = False


class Probe:
    """One quantity. Override the moments that it needs; all do nothing here.

    The moments of a step, in order: `begin`; the passes, where hooks see tensors; after each
    backward pass `after_backward`; `before_step`; the optimizer's step, or its being skipped;
    `after_step`. They are called on the steps of the probe's cadence (of one that is `exact`, at
    every step), and `active` is true from `begin` to `after_step`. None of them may read a device
    value on the host (`.item()`, `float`, `if tensor`): that would stall a GPU. `rows` may do as it
    likes.

    Attributes:
        table: The table that it fills.
        columns: Name and type (int, float, str or bool) of the columns beside `step`, for a table
            that is not gradlab's own.
        every: Its cadence; None for that of `attach`.
        always: Whether its `every` gives way to that of `attach` where no other steps are to be
            looked at (`events="sampled"`).
        exact: Whether it looks at every step, so that one with an event has its rows whatever the
            cadence; the readings of the others between are left out on the host.
        looks_inside: Whether it hooks modules, which a compiled model does not call.
        active: Whether it looks at the current step; set by whoever follows the loop.
        is_open: Whether it is at work on a model; set by whoever follows the loop.
        due: Whether the current step is on its cadence; set by whoever follows the loop.
        saw_forward: Whether it has something of the current step's forward passes, to be kept also
            if no backward pass follows: a loop may end where its loss is NaN. Set to False as a
            step begins.
    """

    table: str
    columns: Mapping[str, type] = {}
    every: Cadence | None = None
    looks_inside: bool = False
    always: bool = False
    exact: bool = False
    active: bool = False
    is_open: bool = False
    due: bool = False
    saw_forward: bool = False

    def tables(self) -> tuple[str, ...]:
        """The tables that it fills."""
        return (self.table,)

    def open(self, subject: Subject) -> Iterable[RemovableHandle]:
        """Choose what to look at. Hooks that it puts on are returned, to be taken off at the end.

        Raises:
            GradlabError: There is nothing in this model that it could look at.
        """
        return ()

    def begin(self, step: int) -> None:
        """A step starts, before its first forward pass."""

    def after_backward(self, changed: Mapping[str, nn.Parameter], loss_scale: Tensor) -> None:
        """A backward pass has ended.

        Args:
            changed: The parameters whose `.grad` it changed: accumulated and reduced over
                processes, still multiplied by the loss scale, not clipped yet.
            loss_scale: 0-dim, on the device.
        """

    def before_step(self) -> None:
        """The optimizer is about to step, or to skip."""

    def after_step(self) -> Reading | None:
        """The optimizer has stepped or skipped: the step's rows, if there are any."""
        return None

    def notices(self, columns: Columns) -> bool:
        """Whether a reading, copied to the host, shows something that was not finite.

        Asked once for each, in the order of the steps, and before `rows` of its window.
        """
        return False

    def between(self, step: Step, columns: Columns) -> Mapping[str, Columns]:
        """Rows of a step that is not on the cadence and had no event: none, unless overridden."""
        return {}

    def grad_norm(self, step: Step, columns: Columns) -> float | None:
        """L2 norm over all gradients, of a probe that sees every one; else None.

        Args:
            step: The reading's.
            columns: Its labels and values, copied to the host.
        """
        return None

    def held_back(self) -> Mapping[str, Columns]:
        """Rows of the last steps that were held back, to be written as the run has broken."""
        return {}

    def state(self) -> Mapping[str, Any]:
        """What it carries from the steps that have ended into those to come, for a checkpoint.

        Nothing, unless overridden. JSON must be able to hold it, numbers that are not finite
        included. Asked between two steps, once the rows of all before were made; `begin` of the
        next one may have been called, and counts as not.
        """
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave: called after `open`, before the first step's `begin`.

        Args:
            state: As JSON gives it back: tuples are lists, keys are strings.
        """

    def standing(self) -> Mapping[str, Any]:
        """What it adds to a run's `Progress`, of the last step whose rows were made; by field."""
        return {}

    def joined(self, readings: Sequence[Columns]) -> Columns:
        """What several processes saw of one step, each with its share of the batch, as one reading.

        The first one's, unless overridden: reduced gradients are the same in every process.

        Args:
            readings: Labels and values, copied to the host, one of each process that has some.
        """
        return readings[0]

    def rows(self, step: Step, columns: Columns) -> Mapping[str, Columns]:
        """Rows by table, from a reading that has been copied to the host.

        Args:
            step: The reading's.
            columns: Its labels and values. Numbers are floats; a whole one fits an int column.
        """
        count = len(next(iter(columns.values()), ()))
        return {self.table: {"step": [step.step] * count, **columns}}


def cadence_of(probe: Probe, every: Cadence, events: Events) -> Cadence:
    """The steps at which a probe is due.

    Args:
        probe: The probe.
        every: The cadence of `attach`.
        events: As `attach` has it.
    """
    own = None if probe.always and events == "sampled" else probe.every
    return every if own is None else own
