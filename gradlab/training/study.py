"""Studies: many runs in one folder (`gradlab.runs.study`), several at a time.

Every run has a process of its own with one thread on a CPU, so that the number of jobs changes
no result, and a run that fails takes no other down. The study's table is rewritten whenever a run
ends.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gradlab.config import RunConfig
from gradlab.data.corpus import load_corpus
from gradlab.errors import GradlabError
from gradlab.runs.files import cannot_write, write_whole
from gradlab.runs.lock import LOCK_NAME, FolderLock
from gradlab.runs.reader import Run, load
from gradlab.runs.study import STUDY_FILE, load_study, run_name
from gradlab.training.progress import Progress
from gradlab.training.study_table import STABILITY, StudyTable
from gradlab.training.workers import Job, run_jobs

State = Literal["running", "finished", "failed"]


@dataclass(frozen=True)
class RunUpdate:
    """News of one run of a study.

    Attributes:
        name: The run's name, `run_name(config)`.
        state: Where it stands now.
        progress: Its last step that was looked at, while it runs.
        message: Why it failed, in a sentence.
    """

    name: str
    state: State
    progress: Progress | None = None
    message: str | None = None


@dataclass(frozen=True)
class StudyResult:
    """What a study left: its table, and the runs that failed."""

    table: Path
    failed: tuple[str, ...]


def run_study(
    configs: Sequence[RunConfig],
    out: Path,
    *,
    jobs: int = 1,
    resume: bool = False,
    table: StudyTable = STABILITY,
    notes: Mapping[str, Any] | None = None,
    progress: Callable[[RunUpdate], None],
) -> StudyResult:
    """Run every config that has not finished yet, `jobs` at a time, in the order given.

    Args:
        configs: The runs; their names must differ.
        out: The study's folder.
        jobs: Processes at the same time.
        resume: Go on with the study that lies in `out`: finished runs are kept, others are
            begun again. The configs may be more than before.
        table: What the study's own table says of each run.
        notes: Kept in the study's file beside the runs, by name (`gradlab.load_study` reads them).
        progress: Told of every change.

    Raises:
        GradlabError: `out` holds a study and `resume` is false, holds another study or one on
            another text, holds something else, is being written by another process, or cannot be
            written.
        KeyboardInterrupt: Passed on once the running runs have saved what they have.
    """
    plan = {run_name(config): config for config in configs}
    if len(plan) < len(configs):
        raise GradlabError("two runs of the study have the same name: vary only what names show.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    lock = FolderLock(out)
    is_ours = False  # until then, what lies in the folder is another study's
    try:
        _claim(out, plan, resume, notes or {})
        is_ours = True
        done = [name for name in plan if _finished(out / name)]
        for name in done:
            progress(RunUpdate(name, "finished"))
        _write_table(out, plan, table)
        waiting = [name for name in plan if name not in done]
        if waiting:
            _check_corpora([load(out / name) for name in done])
        failed: list[str] = []

        def on_progress(name: str, news: Progress) -> None:
            progress(RunUpdate(name, "running", news))

        def on_end(name: str, message: str | None) -> None:
            _write_table(out, plan, table)
            if message is not None:
                failed.append(name)
            progress(RunUpdate(name, "finished" if message is None else "failed", None, message))

        run_jobs(
            [Job(name, plan[name], out / name) for name in waiting],
            limit=jobs,
            on_progress=on_progress,
            on_end=on_end,
        )
        return StudyResult(out / table.file, tuple(failed))
    finally:
        try:
            if is_ours:
                _write_table(out, plan, table)
        finally:
            lock.release()


def check_folder(out: Path, *, resume: bool) -> bool:
    """See that a study may be begun, or gone on with, in a folder.

    Returns:
        Whether there is a study to go on with.

    Raises:
        GradlabError: It holds a study and `resume` is false, or something else.
    """
    if (out / STUDY_FILE).exists():
        if not resume:
            raise GradlabError(
                f"{out} holds a study already: continue it with --resume, or choose another --out."
            )
        return True
    try:
        if out.exists() and any(entry.name != LOCK_NAME for entry in out.iterdir()):
            raise GradlabError(f"{out} holds something that is not a study: choose another folder.")
    except OSError as error:
        raise cannot_write(out, error) from error
    return False


def _claim(
    out: Path, plan: Mapping[str, RunConfig], resume: bool, notes: Mapping[str, Any]
) -> None:
    """Make `out` this study's folder, or see that it is already."""
    file = out / STUDY_FILE
    if check_folder(out, resume=resume):
        before = load_study(out)
        notes = {**before.notes, **notes}
        for name, config in before.configs.items():
            if name not in plan or plan[name] != config:
                raise GradlabError(
                    f"{out} holds another study: its run {name} is not among these, or differs "
                    "in an option; give the options it was started with, or choose another --out."
                )
    document = {name: config.model_dump(mode="json") for name, config in plan.items()}
    write_whole(file, (json.dumps({"runs": document, **notes}, indent=1) + "\n").encode())


def _check_corpora(finished: Sequence[Run]) -> None:
    """Refuse to go on with a study on another text than it was begun on."""
    texts = {run.config.data for run in finished}
    now = {data: load_corpus(data, seq_len=1).sha256 for data in texts}
    for run in finished:
        if run.info["corpus"]["sha256"] != now[run.config.data]:
            raise GradlabError(
                f"{run.path} was trained on another text than {run.config.data.corpus} is now: "
                "runs on both do not compare; choose another --out."
            )


def _finished(path: Path) -> bool:
    return (path / "run.json").exists() and load(path).status == "finished"


def _write_table(out: Path, plan: Mapping[str, RunConfig], table: StudyTable) -> None:
    """The rows of all runs that have ended, in the plan's order."""
    table.write(out, (load(out / name) for name in plan if (out / name / "run.json").exists()))
