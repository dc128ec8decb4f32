"""`gradlab.replay`: a run again from before its break, as it was or with something changed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from gradlab.errors import GradlabError
from gradlab.parallel.environment import refuse_several
from gradlab.paths import as_path
from gradlab.replays.again import again
from gradlab.replays.back import (
    all_settings,
    back_at,
    broke_at,
    chosen,
    first_step,
    follow_until,
    from_start,
    skipped_batch,
)
from gradlab.replays.changes import Changes
from gradlab.replays.same import Difference, common_steps, first_difference
from gradlab.replays.snapshots import threads_of
from gradlab.runs.lock import is_free
from gradlab.runs.reader import Run, folder_of_run, load
from gradlab.training.progress import Progress

BEYOND = 50
"""Steps after a break that a run must survive to count as one that does not break."""


@dataclass(frozen=True)
class Replay:
    """A run's steps, made again.

    Attributes:
        run: Their record: every probe at every step.
        recorded: The run.
        first: The step that the record begins with, and from which on the changes hold.
        snapshot: The step of the state that was gone back to; None for the initial values.
        changes: What was changed.
        steps: First and last step that both records have; None if there is none.
        difference: Where the records first differ in these, whatever was changed; None if nowhere.
        elsewhere: What is otherwise here than where the run was made and decides its bits.
    """

    run: Run
    recorded: Run
    first: int
    snapshot: int | None
    changes: Changes
    steps: tuple[int, int] | None
    difference: Difference | None
    elsewhere: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether all that both records say is the same to the bit."""
        return self.steps is not None and self.difference is None

    @property
    def broke_at(self) -> int | None:
        """The step at which it broke; None if it did not."""
        return broke_at(self.run)

    @property
    def sentence(self) -> str:
        """What came out."""
        parts = [self._end, "" if self.changes else self._bits]
        if self.snapshot is None and self.first:
            parts.append(from_start("It was", self.first))
        return " ".join(filter(None, parts))

    @property
    def _end(self) -> str:
        how = self.changes.words if self.changes else "unchanged"
        if self.changes.settings or self.changes.lr_scale != 1:
            how = f"with {how}"
        start = f"From step {self.first}, {how},"
        before, now = broke_at(self.recorded), self.broke_at
        last = int(self.run.table("steps", ["step"])["step"].max())
        if before is None:
            outcome = (
                f"breaks at step {now}" if now is not None else f"does not break up to step {last}"
            )
            return f"{start} the run, which did not break, {outcome}."
        if now is None:
            far = f"up to step {last}, where it was left"
            return f"{start} the run does not break {far}: it was recorded to break at {before}."
        if now == before:
            return f"{start} the run breaks at step {now}, as recorded."
        apart = f"{abs(now - before)} {'later' if now > before else 'earlier'} than recorded"
        return f"{start} the run {'still ' if self.changes else ''}breaks: at step {now}, {apart}."

    @property
    def _bits(self) -> str:
        if self.steps is None:
            return "No step of it was recorded before, so there is nothing to compare."
        if self.difference is None:
            return f"It is the same to the bit over steps {self.steps[0]} to {self.steps[1]}."
        reason = f" ({', '.join(self.elsewhere)})" if self.elsewhere else ""
        why = f" Bits may differ, as it was made elsewhere{reason}." if reason else ""
        return f"It is not the same to the bit: first at {self.difference}.{why}"


def replay(
    run: Run | str | Path,
    *,
    from_step: int | None = None,
    precision: str | None = None,
    lr_scale: float = 1.0,
    skip_batch: bool = False,
    set: Mapping[str, Any] | None = None,
    probes: Sequence[str] = ("all",),
    beyond: int = BEYOND,
    out: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Replay:
    """Go back before a run's break and make its steps again, with every probe at every step.

    Without a change it is the same to the bit, on the machine, torch and threads of the run. It
    begins with the newest snapshot that the run has kept before that step, or with its initial
    values; steps up to `from_step` are as they were, and those from there on have the changes.

    Args:
        run: A run of gradlab's own loop.
        from_step: The first step to record; 50 before the break unless given.
        precision: Number formats to go on in.
        lr_scale: What the learning rate is multiplied by; on a ramp it goes on rising.
        skip_batch: Leave out the batch of the step that broke, or of `from_step` in a run that did
            not break.
        set: More to change, by the options of `gradlab train`, as `{"eps": 1e-6}`.
        probes: What to measure, by the names that `gradlab train` has; `all`.
        beyond: Steps after the break to go on for, or after `from_step` in a run that did not.
        out: Folder of the record; None keeps it in memory.
        progress: As of `gradlab.train`.

    Raises:
        GradlabError: The run is of a loop of the user's own, or has no such step; a change is
            unknown or would change what the model computes; a snapshot, text, device, folder,
            memory or disk cannot be used.
        KeyboardInterrupt: Passed on once everything recorded so far has been written.
    """
    refuse_several("a replay")
    recorded = run if isinstance(run, Run) else load(run)
    if out is not None and as_path(out).exists() and not is_free(as_path(out)):
        raise GradlabError(f"{out} holds something already: choose another folder.")
    changes = Changes(all_settings(precision, set or {}), lr_scale, skip_batch)
    first = first_step(recorded, from_step)
    looking, until = chosen(probes), follow_until(recorded, first, beyond)
    changes.config(recorded.config)  # said before the steps that lead there are made
    with threads_of(recorded):
        past = back_at(recorded, first, progress=progress)
        made = again(
            past.changed(changes),
            until=until,
            out=None if out is None else as_path(out),
            probes=looking,
            skip=skipped_batch(recorded, first) if skip_batch else None,
            notes={
                "of": None if recorded.path is None else str(recorded.path.resolve()),
                "from": first,
                "changes": changes.words,
            },
            progress=progress and (lambda news: progress(replace(news, steps=until))),
        )
    steps = common_steps(recorded, made)
    difference = first_difference(recorded, made, steps) if steps else None
    return Replay(made, recorded, first, past.snapshot, changes, steps, difference, past.elsewhere)


def free_folder(run: str | Path) -> Path:
    """Where a replay's record goes unless told: a new one of `replays` in the run's folder."""
    folder = folder_of_run(run) / "replays"
    return next(place for n in count(1) if not (place := folder / str(n)).exists())
