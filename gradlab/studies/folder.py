"""The folder that a study is made in: whether it may be, and what its `study.json` says."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.runs.command import Command
from gradlab.runs.files import cannot_write, make_folder, write_whole
from gradlab.runs.lock import is_free
from gradlab.runs.same import differences
from gradlab.runs.study import (
    STUDIES_FILE,
    STUDY_FILE,
    StudyRecord,
    find_studies,
    find_study,
    load_study,
)


def check_folder(out: Path, *, resume: bool, line: str | None = None) -> bool:
    """See that a study may be begun, or gone on with, in a folder.

    Args:
        out: The folder.
        resume: Whether it may be gone on with.
        line: What one types to do so, if that is not the study's own command.

    Returns:
        Whether there is a study to go on with.

    Raises:
        GradlabError: It holds a study and `resume` is false, or something else.
    """
    if (out / STUDY_FILE).exists():
        if not resume:
            raise GradlabError(
                f"{out} holds a study already: choose another folder, or go on with it by "
                f"{f'`{line}`' if line else load_study(out).to_go_on} (resume=True in Python)."
            )
        return True
    _check_free(out)
    return False


def _check_free(out: Path) -> None:
    try:
        if out.exists() and not is_free(out):
            raise GradlabError(f"{out} holds something that is not a study: choose another folder.")
    except OSError as error:
        raise cannot_write(out, error) from error


def claim(
    out: Path, plan: Mapping[str, RunConfig], *, resume: bool, notes: Mapping[str, Any]
) -> None:
    """Make `out` this study's folder, or see that it is already; a note that is None is removed.

    Raises:
        GradlabError: It holds another study, or `check_folder` refuses it.
    """
    if check_folder(out, resume=resume):
        before = load_study(out)
        check_same(before, plan)
        notes = {**before.notes, **notes}
    notes = {name: note for name, note in notes.items() if note is not None}
    runs = {name: config.model_dump(mode="json") for name, config in plan.items()}
    _write(out / STUDY_FILE, {"runs": runs, **notes})


def add_notes(out: Path, notes: Mapping[str, Any], *, unless: Mapping[str, Any]) -> None:
    """Note something in the file of a study, be none of its runs known yet.

    Args:
        out: The study's folder, which is free if it has no such file.
        notes: What is noted.
        unless: What is noted too, where nothing of the name is there.

    Raises:
        GradlabError: It cannot be written.
    """
    before = find_study(out)
    make_folder(out)
    _write(out / STUDY_FILE, {"runs": {}, **unless, **(before.document if before else {}), **notes})


def claim_set(out: Path, command: Command) -> None:
    """Make `out` the folder of the studies of a command, or see that it may be.

    Raises:
        GradlabError: It holds a study itself, the studies of another command, or something else.
    """
    if (out / STUDY_FILE).exists():
        raise GradlabError(f"{out} holds a study itself: choose another folder for several.")
    found = find_studies(out)
    before = found and found.command
    if before and before.name != command.name:
        raise GradlabError(
            f"{out} holds the studies of `{before.line}`: choose another folder for those of "
            f"gradlab {command.name}."
        )
    if found is None and not (out / STUDIES_FILE).exists():
        _check_free(out)
    make_folder(out)
    _write(out / STUDIES_FILE, command.note())


def _write(file: Path, document: Mapping[str, Any]) -> None:
    write_whole(file, (json.dumps(document, indent=1) + "\n").encode())


def check_same(before: StudyRecord, plan: Mapping[str, RunConfig]) -> None:
    """See that every run of before is among these, as it was.

    Raises:
        GradlabError: One would be another now, or none.
    """
    for name, config in before.configs.items():
        if name not in plan:
            reason = f"its run {name} is not among these"
        elif changes := list(differences(config, plan[name])):
            reason = f"{', '.join(changes)} in its run {name}"
        else:
            continue
        command = before.command
        begun = f": it was begun with `{command.line}`" if command else ""
        raise GradlabError(
            f"{before.folder} holds another study ({reason}){begun}. Give the options it was "
            "started with, or choose another folder."
        )
