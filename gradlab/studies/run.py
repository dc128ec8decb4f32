"""Making a study: its runs, several at a time, in one folder (`gradlab.runs.study`).

Every run has one thread on a CPU, so that neither the number of jobs nor where they are changes a
result, and a run that fails takes no other down. The study's table is rewritten whenever a run
ends.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gradlab.config import RunConfig
from gradlab.data.corpus import corpora_of
from gradlab.errors import GradlabError
from gradlab.parallel.environment import refuse_several
from gradlab.paths import as_path
from gradlab.runs.document import RUN_FILE
from gradlab.runs.files import make_folder
from gradlab.runs.lock import FolderLock
from gradlab.runs.reader import Run, load
from gradlab.runs.study import STUDY_FILE, StudyRecord, find_study, load_study, run_name
from gradlab.studies.engine import Engine, engine_of
from gradlab.studies.equal_time import NOTE
from gradlab.studies.folder import check_folder, check_same, claim, claim_set
from gradlab.studies.news import Planned, RunUpdate, StudyBegun, Tell, tell_nobody
from gradlab.studies.several import Studies
from gradlab.studies.study import Study
from gradlab.studies.table import StudyTable
from gradlab.studies.workers import Job, run_jobs
from gradlab.training.device import resolve_device
from gradlab.training.memory_needed import check_memory
from gradlab.training.progress import Progress


@dataclass(frozen=True)
class LocalPool:
    """Processes of this machine, one for each run: the engine `local`."""

    def limit(self, jobs: int | None, device: str) -> int:
        """A core each on a CPU and one on a GPU, unless told."""
        return check_jobs(jobs, resolve_device(device).type)

    def check(self, config: RunConfig) -> None:
        """Refuse what this machine's memory cannot hold."""
        check_memory(config, resolve_device(config.device))

    def run_jobs(
        self,
        jobs: Sequence[Job],
        *,
        limit: int,
        on_progress: Callable[[str, Progress], None],
        on_end: Callable[[str, str | None], None],
    ) -> None:
        """Make the runs in new processes."""
        run_jobs(jobs, limit=limit, on_progress=on_progress, on_end=on_end)


def run_study(
    study: Study | Studies,
    folder: str | Path | None = None,
    *,
    jobs: int | None = None,
    resume: bool = False,
    engine: str = "local",
    ray_address: str | None = None,
    progress: Tell = tell_nobody,
) -> StudyRecord:
    """Train the runs of a study that have not finished yet, several at a time.

    A script that calls it keeps the call under `if __name__ == "__main__":`, as the runs are new
    processes.

    Args:
        study: Which runs it is, as `gradlab.studies.Stability(lr_step=2e-4)`. Those of the claims
            and of a league are made one after another, each in a folder of its own.
        folder: Where it is kept; `study.folder()` if None.
        jobs: Runs at the same time; a core each if None, one on CUDA. With Ray one for each CPU,
            or GPU, of the cluster.
        resume: Go on with the study that lies in the folder: finished runs are kept, others go on
            from their newest checkpoint. There may be more of them than before.
        engine: `local`, processes of this machine, or `ray`, the nodes of a Ray cluster.
        ray_address: The cluster's, as 10.0.0.1:6379; if None that of RAY_ADDRESS, or of the cluster
            that runs on this machine.
        progress: Told of every change.

    Returns:
        What lies in the folder then: `.table`, `.runs`, and those that `.failed`; of several
        studies also the `.studies` by name (`gradlab.runs.study.StudySet`).

    Raises:
        GradlabError: A setting, the corpus, the device or the number of jobs cannot be used; the
            folder holds a study and `resume` is false, holds another study or one on another
            text, holds something else, is being written by another process, or cannot be written;
            the cluster does not answer, or cannot make these runs.
        KeyboardInterrupt: Passed on once the running runs have saved what they have.
    """
    refuse_several("a study")
    if not isinstance(study, Study | Studies):
        raise GradlabError(
            f"{study!r} is no study: give one, as gradlab.studies.Stability(lr_step=2e-4)."
        )
    out = study.folder() if folder is None else as_path(folder)
    with engine_of(engine, ray_address, local=LocalPool()) as maker:
        if isinstance(study, Studies):
            return _make_each(study, out, jobs, resume, maker, progress)
        return _make(study, out, jobs, resume, maker, progress)


def _make(
    study: Study, out: Path, jobs: int | None, resume: bool, engine: Engine, progress: Tell
) -> StudyRecord:
    limit = engine.limit(jobs, study.device)
    configs, notes = study.begin(out, resume=resume, tell=progress)
    corpora_of(configs)  # that the text cannot be used is said before any run starts
    if resume and (out / STUDY_FILE).exists():
        configs = _with_more(study, configs, out)
    failed: dict[str, str] = {}
    while True:
        progress(Planned(configs))
        failed = train_runs(
            configs,
            out,
            jobs=limit,
            resume=resume,
            table=study.table,
            notes={**study.command().note(), **notes},
            engine=engine,
            progress=progress,
            failed=failed,
        )
        planned, configs = len(configs), _with_more(study, configs, out)
        if len(configs) == planned:
            return replace(load_study(out), told=failed)
        resume = True


def _with_more(study: Study, configs: Sequence[RunConfig], out: Path) -> list[RunConfig]:
    """The runs, and those that follow from what lies in the folder."""
    begun = {run.path.name: run for run in load_study(out).runs if run.path is not None}
    plan = {run_name(config): config for config in configs}
    while True:
        further = study.more([begun[name] for name in plan if name in begun])
        more = {name: config for config in further if (name := run_name(config)) not in plan}
        if not more:
            return list(plan.values())
        plan |= more


def _make_each(
    several: Studies, out: Path, jobs: int | None, resume: bool, engine: Engine, progress: Tell
) -> StudyRecord:
    """Make the studies; that none of them can be begun is said before the first is."""
    studies = several.as_begun(out) if resume else several.studies()
    line = several.command().at(out, resume=True)
    for name, study in studies.items():
        study.configs()
        check_folder(out / name, resume=resume, line=line)
    claim_set(out, several.command())
    for name, study in studies.items():
        _check_same(study, out / name)
    told: dict[str, str] = {}
    for name, study in studies.items():
        progress(StudyBegun(study.command().at(out / name)))
        made = _make(study, out / name, jobs, resume, engine, progress)
        told |= {f"{name}/{run}": reason for run, reason in made.told.items()}
    return replace(load_study(out), told=told)


def _check_same(study: Study, out: Path) -> None:
    """See that a study is the one in its folder, as far as is known before its steps are timed."""
    if (before := find_study(out)) is None:
        return
    plan = {run_name(config): config for config in _with_more(study, study.configs(), out)}
    if NOTE in before.notes:
        for name, config in before.configs.items():
            if name in plan:
                plan[name] = plan[name].replace(steps=config.steps, val_every=config.val_every)
    check_same(before, plan)


def train_runs(
    configs: Sequence[RunConfig],
    out: Path,
    *,
    table: StudyTable,
    jobs: int = 1,
    resume: bool = False,
    notes: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    progress: Tell = tell_nobody,
    failed: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Train every run that has not finished yet, `jobs` at a time, in the order given.

    Args:
        configs: The runs; their names must differ.
        out: The study's folder.
        table: What the study's own table says of each run.
        jobs: Runs at the same time.
        resume: As of `run_study`.
        notes: Kept in the study's file beside the runs, by name.
        engine: Where they are made; processes of this machine if None.
        progress: Told of every change.
        failed: Runs that failed just before, and why: they are not tried again.

    Returns:
        The runs that failed, those included, and why, in a sentence.

    Raises:
        GradlabError: As of `run_study`.
        KeyboardInterrupt: Passed on once the running runs have saved what they have.
    """
    engine = engine or LocalPool()
    plan = {run_name(config): config for config in configs}
    if len(plan) < len(configs):
        raise GradlabError("two runs of the study have the same name: vary only what names show.")
    for config in configs:
        engine.check(config)
    make_folder(out)
    lock = FolderLock(out)
    is_ours = False  # until then, what lies in the folder is another study's
    read: dict[str, Run] = {}
    try:
        claim(out, plan, resume=resume, notes=notes or {})
        is_ours = True
        done = [name for name in plan if _finished(out / name)]
        for name in done:
            progress(RunUpdate(name, "finished"))
        _write_table(out, plan, table, read)
        for name, message in failed.items():
            progress(RunUpdate(name, "failed", None, message))
        waiting = [name for name in plan if name not in done and name not in failed]
        if waiting:
            _check_corpora([load(out / name) for name in done])
        told = dict(failed)

        def on_progress(name: str, news: Progress) -> None:
            progress(RunUpdate(name, "running", news))

        def on_end(name: str, message: str | None) -> None:
            _write_table(out, plan, table, read)
            if message is not None:
                told[name] = message
            progress(RunUpdate(name, "finished" if message is None else "failed", None, message))

        engine.run_jobs(
            [Job(name, plan[name], out / name) for name in waiting],
            limit=jobs,
            on_progress=on_progress,
            on_end=on_end,
        )
        return told
    finally:
        try:
            if is_ours:
                _write_table(out, plan, table, read)
        finally:
            lock.release()


def default_jobs() -> int:
    """A job for each core that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def check_jobs(jobs: int | None, device_type: str) -> int:
    """The number of jobs, by default a core each on a CPU and one on a GPU.

    Raises:
        GradlabError: Fewer than one.
    """
    if jobs is None:
        return default_jobs() if device_type == "cpu" else 1
    if jobs < 1:
        raise GradlabError(f"jobs = {jobs}: at least one run must be able to train.")
    return jobs


def _check_corpora(finished: Sequence[Run]) -> None:
    """Refuse to go on with a study on another text than it was begun on."""
    for run, now in zip(finished, corpora_of([run.config for run in finished]), strict=True):
        if run.info["corpus"]["sha256"] != now.sha256:
            raise GradlabError(
                f"{run.path} was trained on another text than {now.name} is now, or in other "
                "tokens: runs on both do not compare; choose another folder."
            )


def _finished(path: Path) -> bool:
    return (path / RUN_FILE).exists() and load(path).status == "finished"


def _write_table(
    out: Path, plan: Mapping[str, RunConfig], table: StudyTable, read: dict[str, Run]
) -> None:
    """The rows of all runs that have ended, in the plan's order; a finished one is read once."""
    names = [name for name in plan if name in read or (out / name / RUN_FILE).exists()]
    runs = {name: read.get(name) or load(out / name) for name in names}
    read.update((name, run) for name, run in runs.items() if run.status == "finished")
    table.write(out, runs.values())
