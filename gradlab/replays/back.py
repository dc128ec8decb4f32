"""Where a replay begins, how far it goes, and what decides whether its bits are the run's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradlab.errors import ConfigError, GradlabError
from gradlab.precision.device_facts import bits_depend_on, changed_facts, device_facts
from gradlab.probe_names import PROBES, ProbeName
from gradlab.replays.changes import Changes
from gradlab.replays.snapshots import Trial, brought_to, kept_before, text_of
from gradlab.runs.reader import Run
from gradlab.settings import probes_of
from gradlab.training.checkpoint import LEAD
from gradlab.training.device import check_format, resolve_device
from gradlab.training.memory_needed import check_memory
from gradlab.training.progress import Progress


@dataclass(frozen=True)
class Past:
    """A run at one of its steps.

    Attributes:
        trial: The steps from there on, unchanged.
        snapshot: The step of the state that was gone back to; None for the initial values.
        elsewhere: What is otherwise here than where the run was made and decides its bits.
    """

    trial: Trial
    snapshot: int | None
    elsewhere: tuple[str, ...]

    def changed(self, changes: Changes) -> Trial:
        """The steps with changes made.

        Raises:
            GradlabError: A value is out of range or does not fit others, or a device cannot be
                used.
        """
        config = changes.config(self.trial.config)
        device = resolve_device(config.device)
        check_format(config.precision, device)
        check_memory(config, device)
        scale_anew = "initial_loss_scale" in changes.settings
        return replace(self.trial, config=config, device=device, scale_anew=scale_anew)


def broke_at(run: Run) -> int | None:
    """The step at which a run broke; None if it did not."""
    return run.verdict.step if run.verdict is not None and run.verdict.broke else None


def first_step(run: Run, asked: int | None) -> int:
    """The step that a replay's record begins with.

    Args:
        run: What is gone back in.
        asked: By the user; None for `LEAD` steps before the break.

    Raises:
        GradlabError: The run is not one of gradlab's loop, it has no such step, or did not break
            and none is asked for.
    """
    if run.attached:
        raise GradlabError(
            "the run was recorded by gradlab.attach in a loop of its own, which gradlab cannot "
            "make again: replay runs of gradlab train and of studies."
        )
    steps = run.table("steps", ["step"])["step"]
    broke = broke_at(run)
    if steps.empty:
        raise GradlabError("the run has no step that could be made again.")
    if asked is None:
        if broke is None:
            raise GradlabError(
                "the run did not break, so there is no step to go back to: name one with --from "
                f"(from_step in Python), 0 to {steps.max()}."
            )
        return max(0, broke - LEAD)
    last = int(steps.max()) if broke is None or not run.config.stop_when_destabilised else broke
    if not 0 <= asked <= last:
        end = f"broke at step {broke}" if broke is not None else f"ended with step {last}"
        raise GradlabError(f"step {asked} cannot be gone back to: the run {end}; give 0 to {last}.")
    return asked


def back_at(
    run: Run,
    step: int,
    *,
    kept_in: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Past:
    """A run as it was before a step, on the device that it was trained on.

    Args:
        run: Which.
        step: The step.
        kept_in: The folder that has its snapshots; its own if None.
        progress: Told of the steps that lead there.

    Raises:
        GradlabError: Its text or device cannot be had, or its snapshot cannot be used.
    """
    there = run.info.get("device") or {}
    config = run.config
    if config.device == "auto":
        config = config.replace(device=there.get("type") or "auto")
    device = resolve_device(config.device)
    snapshot = kept_before(run, step, kept_in or run.path)
    trial = Trial(config, text_of(run), device, snapshot)
    here = bits_depend_on({**there, **device_facts(device)})
    if snapshot is not None:
        made_on = snapshot.facts["made_on"]
    else:
        versions = run.info.get("versions") or {}
        made_on = {**here, **there, "torch": versions.get("torch")}
    start = brought_to(step, trial, made_on, progress=progress)
    return Past(
        replace(trial, start=start),
        None if snapshot is None else trial.first,
        tuple(changed_facts(made_on, here)),
    )


def from_start(what_was: str, step: int) -> str:
    """The sentence where no snapshot from before a step was there to go back to."""
    return (
        f"{what_was} made again from step 0, as the run keeps no snapshot from before step {step} "
        "(--checkpoint-every N keeps one from its first checkpoint on)."
    )


def follow_until(run: Run, first: int, beyond: int) -> int:
    """The step to stop before, which is some steps after the break, or else after the first.

    Raises:
        ConfigError: `beyond` is below 0.
    """
    if beyond < 0:
        raise ConfigError(f"beyond = {beyond}: give a number of steps, 0 or more.")
    verdict = run.verdict
    end = first if verdict is None or verdict.detected_step is None else verdict.detected_step
    return min(max(end, first) + beyond + 1, run.config.steps)


def skipped_batch(run: Run, first: int) -> int:
    """The batch that is left out: that of the break, or else of the first step."""
    broke = broke_at(run)
    return first if broke is None else broke


def chosen(probes: Sequence[str]) -> tuple[ProbeName, ...]:
    """The probes of these names, in their order.

    Raises:
        ConfigError: A name is unknown.
    """
    named = probes_of(probes)
    return tuple(name for name in PROBES if name in named)


def all_settings(precision: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the number formats among them.

    Raises:
        ConfigError: They are there twice.
    """
    if precision is None:
        return dict(settings)
    if "precision" in settings:
        raise ConfigError("precision is set twice: give it once.")
    return {"precision": precision, **settings}
