"""One repetition of a change, as a process of its own does it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradlab.config import RunConfig
from gradlab.replays.again import again
from gradlab.replays.back import back_at, skipped_batch
from gradlab.replays.snapshots import Trial, threads_of
from gradlab.replays.standard import Attempt
from gradlab.runs.document import RUN_FILE
from gradlab.runs.reader import Run, load
from gradlab.runs.verdict import Verdict
from gradlab.training.progress import Progress


@dataclass(frozen=True)
class TrialJob:
    """A repetition.

    Attributes:
        run: Folder of the run that is gone back in.
        attempt: What is changed.
        repetition: Its number, which says which weight is changed by 1e-6.
        first: The step at which the change sets in.
        until: The step to stop before, if it has not broken until then.
        folder: The explanation's, which has the state before `first`.
    """

    run: Path
    attempt: Attempt
    repetition: int
    first: int
    until: int
    folder: Path

    @property
    def name(self) -> str:
        """As its folder."""
        return f"{self.attempt.name}_{self.repetition}"

    @property
    def place(self) -> Path:
        """Where its record is."""
        return self.folder / "trials" / self.name

    @property
    def notes(self) -> dict[str, Any]:
        """What its record says of it: another one of the same is not made again."""
        return {
            "change": self.attempt.words,
            "from": self.first,
            "until": self.until,
            "repetition": self.repetition,
        }

    def verdict(self) -> Verdict | None:
        """How it ended; None while that is not known."""
        if not (self.place / RUN_FILE).exists():
            return None
        made = load(self.place)
        ended = made.status == "finished" and made.info.get("replay") == self.notes
        return made.verdict if ended else None

    def do(self, progress: Callable[[Progress], None], between_steps: Callable[[], None]) -> None:
        """Make its steps; what an earlier process left of it unfinished is removed."""
        if self.place.exists():
            shutil.rmtree(self.place)
        recorded = load(self.run)
        with threads_of(recorded):
            trial = self._trial(recorded)
            again(
                trial,
                until=self.until,
                out=self.place,
                probes=(),
                skip=self._skipped(recorded),
                perturbed=self.repetition,
                notes=self.notes,
                progress=lambda news: progress(
                    replace(news, step=news.step - trial.first, steps=self.until - trial.first)
                ),
                between_steps=between_steps,
            )

    def _trial(self, recorded: Run) -> Trial:
        if self.attempt.model is None:
            past = back_at(recorded, self.first, kept_in=self.folder)
            return past.changed(self.attempt.changes)
        trial = back_at(recorded, 0).trial
        return replace(trial, config=_with_model(trial.config, self.attempt.model))

    def _skipped(self, recorded: Run) -> int | None:
        skips = self.attempt.changes.skip_batch
        return skipped_batch(recorded, self.first) if skips else None


def _with_model(config: RunConfig, changed: Any) -> RunConfig:
    return config.replace(model=config.model.replace(**changed))
