"""A run of the built-in loop as its steps come: recorded, and judged."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from gradlab.config import RunConfig
from gradlab.probes.engine.follower import LoopFollower
from gradlab.probes.engine.recorder import Recorder
from gradlab.probes.engine.window import RecordedStep
from gradlab.runs.verdict import NOT_LOOKED_AT, Reason, Verdict
from gradlab.training.progress import Progress
from gradlab.training.stability import StabilityMonitor
from gradlab.training.step import StepResult


@dataclass
class JudgedRun:
    """Follows the stability criterion over the steps that a loop's follower has seen.

    The follower keeps steps on the device. `look` copies what has gathered, in one go: the tables
    end at the step where the criterion fired, however many steps were in flight.

    Attributes:
        config: Of the run.
        follower: Of its loop.
        recorder: Of its rows.
        monitor: Judges.
    """

    config: RunConfig
    follower: LoopFollower
    recorder: Recorder
    monitor: StabilityMonitor
    _last: Progress | None = None
    _validations: dict[int, Tensor] = field(default_factory=dict)
    _broke: bool = False
    _producers: dict[int, tuple[str, bool]] = field(default_factory=dict)
    """Of a step's first overflow, and whether the step was skipped."""

    @property
    def broke(self) -> bool:
        """Whether the run had destabilised at the last look."""
        return self._broke

    @property
    def broke_at(self) -> int:
        """The step of the break, once there was one."""
        return self.monitor.broke_at

    def state(self) -> dict[str, Any]:
        """What goes into the steps to come, for `restore`: after a look. All rows are written.

        JSON can hold it, numbers that are not finite included.
        """
        self.recorder.flush()
        return {
            "recorder": self.recorder.state(),
            "monitor": self.monitor.state(),
            "last": asdict(self._last) if self._last else None,
            "broke": self._broke,
            "producers": [[step, *overflow] for step, overflow in self._producers.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, and JSON gave back."""
        self.recorder.restore(state["recorder"])
        self.monitor.restore(state["monitor"])
        self._last = Progress(**state["last"]) if state["last"] else None
        self._broke = state["broke"]
        self._producers = {
            step: (producer, skipped) for step, producer, skipped in state["producers"]
        }

    def note(self, result: StepResult) -> None:
        """Take in what a step has shown, before its optimizer steps or skips."""
        self.follower.note_loss(result.loss)
        self.follower.note_grad_norm(result.grad_norm)

    def note_validation(self, val_loss: Tensor) -> None:
        """Keep the loss of a validation made after the last step."""
        self._validations[self.follower.next_step - 1] = val_loss

    def look(self) -> bool:
        """Judge the steps since the last look; True if the run has destabilised.

        Steps after that are dropped, unless the run goes on all the same.
        """
        steps, elapsed = self.follower.collect(), self.follower.elapsed
        last = self.follower.next_step - 1
        for recorded in steps:
            if recorded.step.step == last:  # as it ended, a GPU had not come so far
                recorded = replace(recorded, seconds=elapsed)
            self._broke = self._take(recorded)
            if self._broke and self.config.stop_when_destabilised:
                break
        return self._broke

    def end(self, *, broke: bool) -> None:
        """Write what is left, and what probes held back if the run broke."""
        for probe in self.follower.probes if broke else ():
            self.recorder.add(probe.held_back())
        self.recorder.flush()

    def progress(self) -> Progress | None:
        """The last step looked at; None before the first."""
        if self._last is None:
            return None
        # What probes say of it may take a look at all sites: only when somebody asks.
        added = {k: v for probe in self.follower.probes for k, v in probe.standing().items()}
        if (forecast := self.recorder.forecast) is not None:
            added |= {"overflow_site": forecast.site, "overflow_step": forecast.overflow_step}
        return replace(self._last, **added)

    def verdict(self, otherwise: Reason) -> Verdict:
        """The run's verdict, with the first overflow at the step that it names."""
        step, lr = (self._last.step, self._last.lr) if self._last else (0, self.config.lr(0))
        verdict = self.monitor.verdict(otherwise=otherwise, step=step, lr=lr)
        if not verdict.broke or verdict.step is None:
            return verdict
        nothing = None if self._is_seen(verdict.step, verdict.reason) else NOT_LOOKED_AT
        producer, skipped = self._producers.get(verdict.step, (nothing, False))
        led = not (skipped and verdict.reason == "loss_rise")
        return verdict.replace(first_overflow=producer if led else None)

    def _is_seen(self, step: int, reason: Reason) -> bool:
        """Whether an overflow at a step that broke the run was seen if there was one."""
        if not any("overflows" in probe.tables() for probe in self.follower.probes):
            return False
        record = self.config.record
        # Where the loss rose, gradients may have been finite: an infinity that softmax takes for a
        # mask.
        is_looked_at = record.events == "exact" or (
            record.events == "skipped" and reason != "loss_rise"
        )
        return is_looked_at or step % record.every == 0

    def _take(self, recorded: RecordedStep) -> bool:
        step = recorded.step.step
        val_loss = self._validations.pop(step, None)
        self.recorder.take(
            recorded,
            val_loss=None if val_loss is None else val_loss.item(),
            tokens=(step + 1) * self.config.tokens_per_step,
        )
        for tables in recorded.tables:
            if events := tables.get("overflows"):
                self._producers[step] = events["producer"][0], recorded.step.skipped
        lr, scale = self.config.lr(step), recorded.step.loss_scale
        assert recorded.loss is not None  # as `note` was told
        assert recorded.grad_norm is not None
        self._last = Progress(
            step, self.config.steps, lr, recorded.loss, scale, None, None, recorded.seconds
        )
        is_finite = math.isfinite(recorded.grad_norm) and not recorded.step.skipped
        return self.monitor.observe(step, lr, recorded.loss, scale, is_finite)
