"""Follows a training loop's steps and calls the probes at their moments."""

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.utils.hooks import RemovableHandle

from gradlab.errors import GradlabError, GradlabWarning
from gradlab.probes.cadence import Cadence, due
from gradlab.probes.distributed.processes import Processes
from gradlab.probes.distributed.shards import whole
from gradlab.probes.engine.backward_end import BackwardEnd
from gradlab.probes.engine.own_hook import own
from gradlab.probes.engine.step_end import StepEnd
from gradlab.probes.engine.window import PendingStep, RecordedStep, has_numbers, recorded, to_host
from gradlab.probes.probe import Probe, Subject
from gradlab.probes.sites import in_backward

Optimizer = torch.optim.Optimizer

_PASSES_IN_A_STEP = 1000
"""Backward passes after which a step that has not ended has more likely been missed."""


class Session:
    """Probes at work on a model: from the loop's passes and steps to readings on the device.

    A step ends when every optimizer has stepped or skipped; with several, also when one of them
    steps again or a new forward pass, of the model or a part of it, begins after one has stepped.
    Without an optimizer to follow, `end_step` is the loop's to call.

    Args:
        subject: What the probes look at.
        probes: In the order of their readings.
        every: The cadence of those that have none of their own.
        scaler: That scales the loss, if there is one.
        first_step: Number of the step that comes first.
        on_step: Called after each step.
        processes: That train the model together, each with a session.
    """

    def __init__(
        self,
        subject: Subject,
        probes: Sequence[Probe],
        *,
        every: Cadence = 1,
        scaler: GradScaler | None = None,
        first_step: int = 0,
        on_step: Callable[[], None] = lambda: None,
        processes: Processes | None = None,
    ) -> None:
        self._processes = processes
        self._first_step = first_step
        self._subject = subject
        self._scaler = scaler
        self._on_step = on_step
        self._probes = [(p, due(every if p.every is None else p.every)) for p in probes]
        self._ones: dict[torch.device, Tensor] = {}
        self._began = time.perf_counter()
        self._pending: list[PendingStep] = []
        self._meta_said = False
        self._stepping = False
        self._handles: list[RemovableHandle] = []
        self._step_end: StepEnd | None = None
        try:
            for probe in probes:
                self._handles += probe.open(subject)
            end = BackwardEnd(subject.model, subject.parameters, self._after_backward)
            self._handles += end.handles
            self._step_end = StepEnd(subject.optimizers, scaler, self._before, self._after)
            if len(subject.optimizers) > 1:  # a loop may call parts of the model alone
                for module in subject.model.modules():
                    # The first of a module's hooks: the others see the new step.
                    hook = module.register_forward_pre_hook(self._on_forward, prepend=True)
                    self._handles.append(hook)
            own(self._handles)
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
    def ended(self) -> int:
        """Steps that have ended."""
        return self._step - self._first_step

    def close(self) -> None:
        """Take off every hook and wrapper. What is not collected yet can still be."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._step_end is not None:
            self._step_end.close()
            self._step_end = None
        for probe, _ in self._probes:
            probe.active = False

    def note_loss(self, loss: Tensor | float) -> None:
        """Keep a micro-batch's loss for the current step.

        Raises:
            GradlabError: It is not one number.
        """
        if not isinstance(loss, Tensor | float | int):
            raise GradlabError(f"a loss of type {type(loss).__name__}: give one number.")
        loss = torch.as_tensor(loss)
        if loss.numel() != 1:
            raise GradlabError(
                f"a loss of shape {tuple(loss.shape)}: give one number, its mean or sum."
            )
        # A copy: the loop may go on to divide its own in place.
        self._losses.append(whole(loss.detach()).clone())

    def end_step(self) -> None:
        """The current step is over: take its readings and begin the next."""
        readings = {
            index: reading
            for index, (probe, _) in enumerate(self._probes)
            if probe.active and (reading := probe.after_step())
        }
        reached = bool(self._stepped)
        self._pending.append(
            PendingStep(
                self._step,
                reached or not self._subject.optimizers,
                self._lr if reached else _learning_rate(self._subject.optimizers),
                time.perf_counter() - self._began,
                self._loss_scale,
                self._skipped,
                tuple(self._losses),
                readings,
            )
        )
        self._begin(self._step + 1)
        self._on_step()

    def end_unfinished(self, *, failed: bool) -> None:
        """Keep what is there of a step that will not go on: its passes, or the forward pass alone.

        Args:
            failed: Whether an error ended the training, maybe in a backward pass.
        """
        if self._passes:
            self.end_step()
        elif any(probe.saw_forward for probe in self._active):
            if self._scaler is not None:
                self._loss_scale = torch.tensor(self._scaler.get_scale())
            self.end_step()
        elif self._losses and not failed:
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
        pending, self._pending = self._pending, []
        known = [step for step in pending if has_numbers(step)]
        if len(known) < len(pending) and not self._meta_said:
            self._meta_said = True
            warnings.warn(
                "tensors on the meta device hold no numbers: what they show is not recorded.",
                GradlabWarning,
                stacklevel=2,
            )
        steps = to_host(known)
        probes = [probe for probe, _ in self._probes]
        if self._processes is None:
            parts = [[step] for step in steps]
        else:
            shared = {i for i, p in enumerate(probes) if type(p).joined is not Probe.joined}
            parts = self._processes.together(steps, shared=shared, wait=wait)
        return (recorded(part, probes) for part in parts)

    def _begin(self, step: int) -> None:
        self._step = step
        self._stepped: set[int] = set()
        self._passes = 0
        self._loss_scale = self._one_on(torch.device("cpu"))
        self._skipped: Tensor | None = None
        self._lr: float | Tensor | None = None
        self._losses: list[Tensor] = []
        self._active: list[Probe] = []
        for probe, is_due in self._probes:
            probe.active = bool(is_due(step))
            probe.saw_forward = False
            if probe.active:
                self._active.append(probe)
                probe.begin(step)

    def _after_backward(self, changed: Mapping[str, nn.Parameter]) -> None:
        self._passes += 1
        if self._passes == _PASSES_IN_A_STEP:
            warnings.warn(
                f"{_PASSES_IN_A_STEP} backward passes and no step: nothing is recorded until one "
                "ends. Give attach the optimizer that the loop steps, or call probes.step().",
                GradlabWarning,
                stacklevel=2,
            )
        one = self._one_on(next(iter(changed.values())).device)
        self._loss_scale = one if self._scaler is None else self._scaler.scale(one)
        with torch.no_grad():
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
            if self._stepping:  # in a closure of the next optimizer
                self._about_to_step()

    def _before(self, optimizer: Optimizer) -> None:
        self._look_for_scaling(optimizer)
        if id(optimizer) in self._stepped:
            self.end_step()
        if not self._stepped:
            self._about_to_step()
        self._stepping = True

    def _about_to_step(self) -> None:
        # A step may be known to be over only after its schedule has moved on.
        self._lr = _learning_rate(self._subject.optimizers)
        with torch.no_grad():
            for probe in self._active:
                probe.before_step()

    def _after(self, optimizer: Optimizer, skipped: Tensor | None) -> None:
        self._stepping = False
        self._stepped.add(id(optimizer))
        if skipped is not None:
            self._skipped = skipped if self._skipped is None else self._skipped + skipped
        if len(self._stepped) == len(self._subject.optimizers):
            self.end_step()

    def _look_for_scaling(self, optimizer: Optimizer) -> None:
        """Say once if a GradScaler steps the optimizer and was not given."""
        if self._scaling_seen:
            return
        self._scaling_seen = True
        if getattr(optimizer, "grad_scale", None) is not None or _called_by_a_scaler():
            warnings.warn(
                "a GradScaler steps this optimizer, and attach was not given it: gradients are "
                "recorded multiplied by the loss scale, and skipped steps not at all. Pass "
                "scaler= to attach.",
                GradlabWarning,
                stacklevel=2,
            )


def _called_by_a_scaler() -> bool:
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if isinstance(frame.f_locals.get("self"), GradScaler):
            return bool(frame.f_locals["self"].is_enabled())
    return False


def _learning_rate(optimizers: Sequence[Optimizer]) -> float | Tensor | None:
    if not optimizers:
        return None
    lr = optimizers[0].param_groups[0]["lr"]
    return lr.detach().clone() if isinstance(lr, Tensor) else float(lr)
