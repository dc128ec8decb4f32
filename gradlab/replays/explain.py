"""`gradlab.explain`: the cause of a break by experiment, one change at a time."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.errors import ConfigError, GradlabError
from gradlab.parallel.environment import refuse_several
from gradlab.paths import as_path
from gradlab.replays.back import back_at, broke_at, first_step, from_start
from gradlab.replays.changes import Changes
from gradlab.replays.replay import BEYOND
from gradlab.replays.snapshots import threads_of
from gradlab.replays.standard import UNCHANGED, Attempt, attempts
from gradlab.replays.trial_job import TrialJob
from gradlab.runs.csv_files import write_rows
from gradlab.runs.files import make_folder, read_regular, write_whole
from gradlab.runs.lock import FolderLock, is_free
from gradlab.runs.reader import Run, folder_of_run, load
from gradlab.runs.verdict import Verdict
from gradlab.studies.news import Named, RunUpdate, Tell, tell_nobody
from gradlab.studies.run import check_jobs
from gradlab.studies.workers import run_jobs
from gradlab.training.checkpoint import found, step_of, write
from gradlab.training.device import resolve_device
from gradlab.training.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

REPETITIONS = 5
"""Of each change, and of none."""

_FOLLOWED = 200
"""Steps after the recorded break that unchanged repetitions are followed for, to find theirs."""

EXPLANATION, TABLE = "explanation.json", "explanation.csv"
"""Files of an explanation's folder: what was asked, and the table."""

_COLUMNS = ("change", "what", "repetitions", "removed", "broke_first", "broke_last", "followed_to")


@dataclass(frozen=True)
class Explanation:
    """What removes a run's break.

    Attributes:
        folder: Where it lies.
        recorded: The run.
        first: The step at which the changes set in.
        beyond: Steps that a repetition survives beyond the latest break of the unchanged ones.
        rows: Of the table, those of changes that have begun.
        told: Why repetitions failed, by name.
    """

    folder: Path
    recorded: Run
    first: int
    beyond: int
    rows: Sequence[Mapping[str, Any]]
    told: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """Its files in the folder."""
        return (TABLE, EXPLANATION)

    @property
    def table(self) -> "pd.DataFrame":
        """A row a change, the unchanged repetitions first.

        `removed` of `repetitions` did not break up to step `followed_to`; the others did, at steps
        from `broke_first` to `broke_last`.
        """
        import pandas as pd

        frame = pd.DataFrame(self.rows, columns=list(_COLUMNS))
        return frame.astype(dict.fromkeys(_COLUMNS[2:], "Int64"))

    @property
    def sentence(self) -> str:
        """What the table says, and whether the run had to be made again from step 0 for it."""
        path = self.recorded.path
        is_kept = path is None or any(step_of(file) <= self.first for file in found(path))
        if is_kept or not self.first:
            return self._outcome
        return f"{self._outcome} {from_start('The steps before the changes were', self.first)}"

    @property
    def _outcome(self) -> str:
        unchanged = next((row for row in self.rows if row["change"] == UNCHANGED), None)
        tried = [row for row in self.rows if row["change"] != UNCHANGED and row["repetitions"]]
        at = f"the break at step {broke_at(self.recorded)}"
        if not tried or unchanged is None:
            return f"What removes {at} is not known yet: no change has been tried to its end."
        always = [row for row in tried if row["removed"] == row["repetitions"]]
        never = [row for row in tried if not row["removed"]]
        parts = [
            f"{at[0].upper()}{at[1:]} is removed by {_listed(always) or 'none of the changes'}"
        ]
        if some := [row for row in tried if row not in always and row not in never]:
            parts.append(f"sometimes by {_listed(some)}")
        if never and always:
            parts.append(f"not by {_listed(never, counts=False)}")
        came = unchanged["repetitions"] - unchanged["removed"]
        if unchanged["removed"]:
            parts.append(f"unchanged it came in {came} of {unchanged['repetitions']} alone")
        return f"{'; '.join(parts)}.{_shorter(tried)}"


def _shorter(tried: Sequence[Mapping[str, Any]]) -> str:
    """Which changes were followed less far than others, tried when breaks were known to come then.

    Where that is not known, as of explanations of earlier versions, nothing is said.
    """
    far = {row["change"]: row["followed_to"] for row in tried if row.get("followed_to") is not None}
    most = max(far.values(), default=0)
    less = [f"{change} to step {step}" for change, step in far.items() if step < most]
    return f" Followed less far than the others, to step {most}: {', '.join(less)}." if less else ""


def _listed(rows: Sequence[Mapping[str, Any]], *, counts: bool = True) -> str:
    words = [
        f"{row['change']} ({row['removed']} of {row['repetitions']})" if counts else row["change"]
        for row in rows
    ]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def explanation_folder(run: str | Path) -> Path:
    """Where an explanation goes unless told: `explanation` in the run's folder."""
    return folder_of_run(run) / "explanation"


def written(folder: Path) -> Path | None:
    """The table of an explanation that was begun; None while no repetition has come to its end."""
    if not (folder / TABLE).exists():
        return None
    known = any(row["repetitions"] for row in _document(folder).get("table", []))
    return folder / TABLE if known else None


def explain(
    run: Run | str | Path,
    *,
    from_step: int | None = None,
    changes: Sequence[str] = (),
    repetitions: int = REPETITIONS,
    beyond: int = BEYOND,
    jobs: int | None = None,
    out: str | Path | None = None,
    progress: Tell = tell_nobody,
) -> Explanation:
    """Try what would have prevented a run's break, one change at a time, each a few times.

    In every repetition another weight is changed by 1e-6, since rounding alone moves a break.
    Those without another change give the latest break; a change removes it in a repetition that
    does not break until some steps beyond that. What is finished in the folder is not made again,
    and changes that were tried there before stay in the table.

    A script that calls it keeps the call under `if __name__ == "__main__":`, as repetitions are
    new processes.

    Args:
        run: A run of gradlab's own loop, in a folder, that broke.
        from_step: The step at which changes set in; 50 before the break unless given.
        changes: Names of `gradlab.replays.standard.NAMES`, or settings as `eps=1e-6,clip_norm=1`;
            all of the standard ones if none. What changes the architecture, as `qkv_norm=true`,
            trains again from step 0, and is another experiment.
        repetitions: Of each.
        beyond: Steps to survive.
        jobs: Repetitions at the same time; a core each if None, one on CUDA.
        out: Folder of what comes out; `explanation` in the run's unless given.
        progress: Told of every change.

    Raises:
        GradlabError: The run cannot be replayed, did not break or is kept in memory; a change is
            unknown; the folder holds something else, or cannot be written.
        KeyboardInterrupt: Passed on once what is known is written.
    """
    refuse_several("an explanation")
    recorded = run if isinstance(run, Run) else load(run)
    verdict = recorded.verdict
    if not recorded.attached and not (verdict and verdict.broke):
        raise GradlabError("the run did not break: there is nothing to explain.")
    first = first_step(recorded, from_step)
    assert verdict is not None  # first_step refuses an attached run
    if recorded.path is None:
        raise GradlabError("the run is kept in memory: give train a folder to explain its break.")
    if repetitions < 1 or beyond < 0:
        raise ConfigError(
            f"repetitions = {repetitions}, beyond = {beyond}: give 1 or more, and 0 or more."
        )
    scale = recorded.table("steps", ["loss_scale"], between=(first, first))["loss_scale"]
    wanted = attempts(recorded.config, float(scale.iloc[0]), changes)
    limit = check_jobs(jobs, resolve_device(recorded.config.device).type)
    folder = explanation_folder(recorded.path) if out is None else as_path(out)
    facts = {"run": str(recorded.path.resolve()), "from": first, "beyond": beyond}
    lock = _claim(folder, facts)
    try:
        with threads_of(recorded):
            past = back_at(recorded, first, kept_in=folder if found(folder) else None)
        if past.trial.start is not None and not found(folder):
            write(folder, first, past.trial.start)
        before = {row["change"]: row for row in _document(folder).get("table", [])}
        experiment = _Experiment(
            folder, recorded, first, beyond, repetitions, facts, progress, before
        )
        return experiment.made([Attempt(UNCHANGED, Changes()), *wanted], verdict, limit)
    finally:
        lock.release()


@dataclass
class _Experiment:
    folder: Path
    recorded: Run
    first: int
    beyond: int
    repetitions: int
    facts: Mapping[str, Any]
    progress: Tell
    rows: dict[str, Mapping[str, Any]]
    told: dict[str, str] = field(default_factory=dict)
    jobs: list[TrialJob] = field(default_factory=list)

    def made(self, wanted: Sequence[Attempt], verdict: Verdict, limit: int) -> Explanation:
        """The unchanged repetitions, then those of each change."""
        names = [f"{one.name}_{number}" for one in wanted for number in range(self.repetitions)]
        self.progress(Named(names))
        assert verdict.detected_step is not None
        last = self.recorded.config.steps - 1
        far = min(verdict.detected_step + _FOLLOWED, last)
        self._do(wanted[:1], far + 1, limit)
        verdicts = filter(None, (job.verdict() for job in self.jobs))
        ends = [far if one.detected_step is None else one.detected_step for one in verdicts]
        self._do(wanted[1:], min(max(ends, default=far) + self.beyond, last) + 1, limit)
        return self._written()

    def _do(self, wanted: Sequence[Attempt], until: int, limit: int) -> None:
        assert self.recorded.path is not None
        path = self.recorded.path
        jobs = [
            TrialJob(path, attempt, number, self.first, until, self.folder)
            for attempt in wanted
            for number in range(self.repetitions)
        ]
        self.jobs += jobs
        waiting = [job for job in jobs if job.verdict() is None]
        for job in jobs:
            if job not in waiting:
                self.progress(RunUpdate(job.name, "finished"))

        def on_progress(name: str, news: Progress) -> None:
            self.progress(RunUpdate(name, "running", news))

        def on_end(name: str, message: str | None) -> None:
            if message is not None:
                self.told[name] = message
            self._written()
            self.progress(RunUpdate(name, "failed" if message else "finished", None, message))

        try:
            run_jobs(waiting, limit=limit, on_progress=on_progress, on_end=on_end)
        finally:
            self._written()

    def _written(self) -> Explanation:
        """What is known so far, and written."""
        for attempt in dict.fromkeys(job.attempt.name for job in self.jobs):
            of = [job for job in self.jobs if job.attempt.name == attempt]
            verdicts = [ended for job in of if (ended := job.verdict()) is not None]
            steps = [v.step for v in verdicts if v.broke and v.step is not None]
            self.rows[attempt] = {
                "change": attempt,
                "what": of[0].attempt.words,
                "repetitions": len(verdicts),
                "removed": len(verdicts) - len(steps),
                "broke_first": min(steps, default=None),
                "broke_last": max(steps, default=None),
                "followed_to": of[0].until - 1,
            }
        rows = list(self.rows.values())
        known = Explanation(
            self.folder, self.recorded, self.first, self.beyond, rows, dict(self.told)
        )
        write_rows(self.folder / TABLE, _COLUMNS, rows)
        document = {**self.facts, "table": rows, "sentence": known.sentence}
        text = json.dumps(document, indent=1, ensure_ascii=False)
        write_whole(self.folder / EXPLANATION, f"{text}\n".encode())
        return known


def _claim(folder: Path, facts: Mapping[str, Any]) -> FolderLock:
    """Make a folder this explanation's, or see that it is already.

    Raises:
        GradlabError: It holds another one, or something else.
    """
    make_folder(folder)
    lock = FolderLock(folder)
    try:
        file = folder / EXPLANATION
        if file.exists():
            _check_same(folder, _document(folder), facts)
        elif not is_free(folder):
            raise GradlabError(f"{folder} holds something else: choose another folder.")
        else:
            write_whole(file, f"{json.dumps(dict(facts))}\n".encode())
    except ValueError:
        lock.release()
        raise GradlabError(f"{folder / EXPLANATION} is damaged: choose another folder.") from None
    except BaseException:
        lock.release()
        raise
    return lock


def _document(folder: Path) -> dict[str, Any]:
    """What was asked in a folder, and found so far."""
    read = json.loads(read_regular(folder / EXPLANATION, at_most=1 << 24))
    if not isinstance(read, dict):
        raise ValueError
    return read


def _check_same(folder: Path, before: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    changed = [
        f"{name} is {before.get(name)} there and {value} here"
        for name, value in facts.items()
        if before.get(name) != value
    ]
    if changed:
        raise GradlabError(
            f"{folder} holds another explanation ({', '.join(changed)}): choose another folder."
        )
