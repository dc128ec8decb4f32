"""Follows a training loop's steps and calls the probes at their moments."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.utils.hooks import RemovableHandle

from gradlab.config import Events
from gradlab.crash.keeper import Keeper
from gradlab.errors import GradlabWarning
from gradlab.parallel.spread import whole
from gradlab.probes.arguments import loss_of
from gradlab.probes.cadence import Cadence, due
from gradlab.probes.distributed.processes import Processes
from gradlab.probes.engine.again import Again
from gradlab.probes.engine.arithmetic import own_arithmetic
from gradlab.probes.engine.backward_end import BackwardEnd
from gradlab.probes.engine.bad_step import BadStep, Now
from gradlab.probes.engine.captured import Captured
from gradlab.probes.engine.carried_over import CarriedOver
from gradlab.probes.engine.ended import Ended
from gradlab.probes.engine.own_hook import LeftOut, own
from gradlab.probes.engine.step_end import (
    StepEnd,
    is_stepping,
    is_unscaled,
    learning_rate,
    say_if_scaled,
)
from gradlab.probes.engine.unfrozen import Unfrozen
from gradlab.probes.engine.unheld import Unheld
from gradlab.probes.engine.window import PendingStep, RecordedStep
from gradlab.probes.faults import Fault
from gradlab.probes.probe import Probe, Subject, cadence_of
from gradlab.probes.sites import in_backward
from gradlab.probes.subject import held_by, left_over

Optimizer = torch.optim.Optimizer

_PASSES_IN_A_STEP = 1000
"""Backward passes after which a step that has not ended has more likely been missed."""


class LoopFollower:
    """Probes at work on a model: from the loop's passes and steps to readings on the device.

    A step ends when every optimizer has stepped or skipped; with several, also when one of them
    steps again or a new forward pass, of the model or a part of it, begins after one has stepped.
    If they step within a backward pass, as each parameter's gradient is there, the step ends with
    that pass, unless it gave gradients to others. Without an optimizer to follow, `end_step` is the
    loop's to call.

    Args:
        subject: What the probes look at.
        probes: In the order of their readings.
        optimizers: Those to follow, wrappers too, each with the one inside; None: the subject's.
        every: The cadence of those that have none of their own.
        events: As `attach` has it.
        scaler: That scales the loss, if there is one.
        first_step: Number of the step that comes first.
        carried: What `carried` of this loop's last follower gave, to go on from.
        on_step: Called after each step.
        processes: That train the model together, each with a follower.
        keeper: Keeps bad steps.
    """

    def __init__(
        self,
        subject: Subject,
        probes: Sequence[Probe],
        *,
        optimizers: Mapping[Optimizer, Optimizer] | None = None,
        every: Cadence = 1,
        events: Events = "exact",
        scaler: GradScaler | None = None,
        first_step: int = 0,
        carried: Mapping[str, Any] | None = None,
        on_step: Callable[[], None] = lambda: None,
        processes: Processes | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.probes = tuple(probes)
        self._subject = subject
        self._scaler = scaler
        self._is_scaled = scaler is not None and scaler.is_enabled()
        self._on_step = on_step
        self._exact = events == "exact"
        again: Again | None = None
        if events == "skipped":
            again = Again(subject.model, probes, has_optimizer=self.follows_optimizers)
        self._probes = [(p, due(cadence_of(p, every, events))) for p in probes]
        self._ones: dict[torch.device, Tensor] = {}
        self._began = time.perf_counter() - (carried["seconds"] if carried else 0.0)
        self._past = Ended(self.probes, processes)
        self._altered_said = False
        self._handles: list[RemovableHandle] = []
        self._left_out: Sequence[LeftOut] = ()
        self._step_end: StepEnd | None = None
        self._carried_over = CarriedOver()
        self._held = {id(one): held_by(one, subject) for one in subject.optimizers}
        self._bad_step = BadStep(again, keeper, self._held.values())
        try:
            for probe in probes:
                probe.is_open = True
                self._handles += probe.open(subject)
            if carried:
                for probe, state in zip(probes, carried["probes"], strict=True):
                    probe.restore(state)
            self._backward_end = BackwardEnd(
                subject.model, subject.parameters, self._after_backward
            )
            self._handles += self._backward_end.handles
            self._handles += self._bad_step.hooks()
            followed = {o: o for o in subject.optimizers} if optimizers is None else optimizers
            self._unheld, self._unfrozen = Unheld(subject, followed), Unfrozen(subject)
            unless = Captured(subject.model).left_out
            self._step_end = StepEnd(followed, scaler, unless(self._before), unless(self._after))
            if len(subject.optimizers) > 1:  # a loop may call parts of the model alone
                for module in subject.model.modules():
                    # The first of a module's hooks: the others see the new step.
                    hook = module.register_forward_pre_hook(self._on_forward, prepend=True)
                    self._handles.append(hook)
            self._left_out = own(self._handles, subject.model)
            self._scaling_seen = scaler is not None
            self._begin(first_step)
        except BaseException:
            self.close()
            raise

    @property
    def follows_optimizers(self) -> bool:
        """Whether steps end by themselves."""
        return bool(self._subject.optimizers)

    @property
    def elapsed(self) -> float:
        """Seconds since the recording began."""
        return time.perf_counter() - self._began

    @property
    def next_step(self) -> int:
        """Number of the step after the last that has ended."""
        return self._step

    def carried(self) -> dict[str, Any]:
        """What goes into the steps to come, as `Probe.state` has it, once all were collected."""
        return {"seconds": self.elapsed, "probes": [probe.state() for probe in self.probes]}

    def close(self) -> None:
        """Take off every hook and wrapper. What is not collected yet can still be."""
        for handle in self._handles:
            handle.remove()
        for left_out in self._left_out:
            left_out.remove()
        self._handles, self._left_out = [], ()
        self._carried_over.close()
        if self._step_end is not None:
            self._step_end.close()
            self._step_end = None
        for probe, _ in self._probes:
            probe.active = probe.is_open = False

    def note_loss(self, loss: Tensor | float) -> None:
        """Keep a micro-batch's loss for the current step.

        Raises:
            GradlabError: It is not one number.
        """
        # A copy: the loop may go on to divide its own in place.
        self._losses.append(whole(loss_of(loss).detach()).clone())

    def note_grad_norm(self, norm: Tensor) -> None:
        """Keep the norm that the loop took of the current step's gradients, before the step.

        Args:
            norm: L2, over all of them, unscaled and before clipping; 0-dim.
        """
        self._norm: Tensor | None = norm

    def end_step(self) -> None:
        """The current step is over: take its readings and begin the next."""
        with own_arithmetic():
            readings = {
                index: reading
                for index, (probe, _) in enumerate(self._probes)
                if probe.active and (reading := probe.after_step())
            }
        reached = bool(self._stepped)
        self._note_altered()
        self._bad_step.ended(self._stepped)
        if reached:
            self._faults += [
                Fault(self._step, "gradient", name, "unheld", numel=parameter.numel())
                for name, parameter in self._unheld.stepped().items()
            ]
        self._past.add(
            PendingStep(
                self._step,
                reached or not self._subject.optimizers,
                self._lr if reached else learning_rate(self._subject.optimizers),
                self.elapsed,
                self._loss_scale,
                self._skipped,
                tuple(self._losses),
                readings,
                left_over(self._held, self._stepped) if reached else frozenset(),
                frozenset(i for i, (probe, _) in enumerate(self._probes) if probe.due),
                self._norm,
                tuple(self._faults),
            )
        )
        self._begin(self._step + 1)
        self._on_step()

    def _note_altered(self) -> None:
        altered = self._backward_end.altered
        if not altered or self._altered_said:
            return
        self._altered_said = True
        self._faults += [
            Fault(self._step, "gradient", name, "changed", numel=parameter.numel())
            for name, parameter in altered.items()
        ]
        warnings.warn(
            f"the loop changes gradients between micro-batches, the backward passes of one step "
            f"({next(iter(altered))} at step {self._step}): what is recorded is what .grad held "
            "after the last pass. Clip and clear once a step, after the last pass.",
            GradlabWarning,
            stacklevel=2,
        )

    def _note_carried_over(self, optimizer: Optimizer) -> None:
        name = self._carried_over.about_to_step(id(optimizer))
        if name is None:
            return
        numel = self._subject.parameters[name].numel()
        self._faults.append(Fault(self._step, "gradient", name, "kept", numel=numel))

    def end_unfinished(self, error: BaseException | None) -> None:
        """Keep what is there of a step that will not go on: its passes, or the forward pass alone.

        Args:
            error: That ended the training, maybe in a backward pass.
        """
        now = self._now()
        self._make_again(self._bad_step.at_end(now, error))
        if self._passes:
            self.end_step()
        elif any(probe.saw_forward for probe in self._active):
            if self._scaler is not None:
                scale = self._scaler.get_scale()
                self._loss_scale = torch.tensor(scale, dtype=torch.float64, device="cpu")
            self.end_step()
        elif now.has_lost_loss and not self._active:
            self.end_step()
        elif self._losses and self._active and error is None:
            warnings.warn(
                "the last loss was noted after the optimizer's step: each is then filed under the "
                "step after its own. Call probes.loss(loss) before the step.",
                GradlabWarning,
                stacklevel=2,
            )

    def collect(self, *, wait: bool = True) -> Iterator[RecordedStep]:
        """The steps that have ended since the last call, copied from the device.

        The rows of each are made as it is taken, as probes know of no step behind the last one
        taken; those of the others are lost.

        Args:
            wait: For what other processes saw of these steps. Else those come later of which it is
                not here yet.
        """
        return self._past.collect(wait=wait)

    def _begin(self, step: int) -> None:
        self._step = step
        self._stepped: set[int] = set()
        self._passes = 0
        self._loss_scale = self._one_on(torch.device("cpu"))
        self._skipped: Tensor | None = None
        self._lr: float | Tensor | None = None
        self._losses: list[Tensor] = []
        self._norm = None
        self._faults: list[Fault] = []
        self._steps_within = False
        self._backward_end.forget()
        for probe, is_due in self._probes:
            probe.due = bool(is_due(step))
            probe.active = probe.due or (probe.exact and self._exact)
            probe.saw_forward = False
        self._active: list[Probe] = [probe for probe, _ in self._probes if probe.active]
        with own_arithmetic():
            for probe in self._active:
                probe.begin(step)
        self._bad_step.begin()

    def _after_backward(self, changed: Mapping[str, nn.Parameter]) -> None:
        if changed:
            self._look_at(changed)
        if self._bad_step.is_made_again:
            return
        self._carried_over.passed(changed)
        self._passes += 1
        if self._passes == _PASSES_IN_A_STEP:
            warnings.warn(
                f"{_PASSES_IN_A_STEP} backward passes and no step: nothing is recorded until one "
                "ends. Give attach the optimizer that the loop steps, or call probes.step().",
                GradlabWarning,
                stacklevel=2,
            )
        if self._steps_within and not any(
            held.keys() & changed.keys()
            for optimizer, held in self._held.items()
            if optimizer not in self._stepped
        ):
            self.end_step()

    def _look_at(self, changed: Mapping[str, nn.Parameter], *, is_unscaled: bool = False) -> None:
        """Have the probes look at gradients that are whole."""
        devices = (parameter.device for parameter in changed.values() if not parameter.is_meta)
        one = self._one_on(next(devices, torch.device("meta")))
        self._loss_scale = one
        if self._scaler is not None and not is_unscaled:
            self._loss_scale = self._scaler.scale(one)
        with own_arithmetic():
            for probe in self._active:
                probe.after_backward(changed, self._loss_scale)

    def _one_on(self, device: torch.device) -> Tensor:
        if device not in self._ones:
            self._ones[device] = torch.ones((), device=device)
        return self._ones[device]

    def _on_forward(self, module: nn.Module, args: object) -> None:
        if torch.compiler.is_compiling():  # what follows is no part of a graph
            return
        if self._stepped and torch.is_grad_enabled() and not in_backward():
            self.end_step()
            if is_stepping():  # in a closure of the next optimizer
                self._about_to_step()

    def _before(self, optimizer: Optimizer) -> None:
        if not self._scaling_seen:
            self._scaling_seen = True
            say_if_scaled(optimizer)
        if id(optimizer) in self._stepped:
            self.end_step()
        if in_backward():  # afterwards the gradient is gone
            self._steps_within = True
            held = self._held[id(optimizer)]
            here = {name: p for name, p in held.items() if p.grad is not None}
            self._backward_end.take(here)
            if here:
                self._look_at(here)
        elif not self._passes:  # the loop may have filled in .grad itself
            held = self._held[id(optimizer)]
            if filled := {name: p for name, p in held.items() if p.grad is not None}:
                self._look_at(filled, is_unscaled=is_unscaled(self._scaler, optimizer))
        if not self._stepped:
            self._about_to_step()
        self._note_carried_over(optimizer)
        self._backward_end.rest()

    def _about_to_step(self) -> None:
        self._unfrozen.look(self._step)
        # A step may be known to be over only after its schedule has moved on.
        self._lr = learning_rate(self._subject.optimizers)
        with own_arithmetic():
            for probe in self._active:
                probe.before_step()
        self._backward_end.rest()
        # With a scaler that one optimizer skips is known only after another may have stepped.
        is_told = self._is_scaled and len(self._subject.optimizers) == 1
        self._make_again(self._bad_step.before_step(self._now(), is_told=is_told))

    def _now(self) -> Now:
        return Now(self._step, self._passes, self._losses, self._norm, self._active)

    def _make_again(self, again: Again | None) -> None:
        """Have the probes that left the step out look at it, if it is to be made again."""
        if again is not None:
            self._backward_end.rest()
            looked, self._active = self._active, again.waiting
            self._active = [*looked, *again.look(self._step)]

    def _after(self, optimizer: Optimizer, skipped: Tensor | None) -> None:
        if skipped is not None and not self._stepped:
            self._make_again(self._bad_step.skipped(self._now(), skipped))
        self._stepped.add(id(optimizer))
        self._carried_over.stepped(id(optimizer), self._held[id(optimizer)])
        if skipped is not None:
            self._skipped = skipped if self._skipped is None else self._skipped + skipped
        if len(self._stepped) == len(self._subject.optimizers) and not in_backward():
            self.end_step()
