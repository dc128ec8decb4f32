"""Making a study under the eyes of its user, then what it says."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from gradlab.cli.terminal.live import watching
from gradlab.pages.screen import Screen, complain

if TYPE_CHECKING:
    from gradlab.cli.options.command import Place
    from gradlab.runs.study import StudyRecord
    from gradlab.studies.claims import Claims
    from gradlab.studies.study import Study


def make_study(
    study: "Study | Claims", place: "Place", show_result: "Callable[[StudyRecord, bool], None]"
) -> None:
    """Train a study's runs under the live view, show what they say, and name those that failed.

    Args:
        study: Which runs it is.
        place: Where it is made, and how.
        show_result: Prints and writes the results: the figures too (true), or no figures where the
            study was interrupted.

    Raises:
        GradlabError: A setting, the corpus, the device, the number of jobs or the folder cannot be
            used.
        typer.Exit: With status 1 if runs failed, 130 after Ctrl-C.
    """
    from gradlab.runs.study import find_studies
    from gradlab.studies.run import run_study

    out = place.out or study.folder()
    try:
        with watching(Screen(stderr=True)) as tell:
            record = run_study(study, out, jobs=place.jobs, resume=place.resume, progress=tell)
    except KeyboardInterrupt:
        begun = find_studies(out)
        if begun and begun.has_table:
            show_result(begun, False)
        complain(f"interrupted: go on with the same command, --out {out} and --resume.")
        raise typer.Exit(130) from None
    show_result(record, True)
    if failed := record.failed:
        complain(f"error: {len(failed)} of {len(record.names)} runs failed.")
        for name, reason in failed.items():
            complain(f"{name}: {reason}")
        raise typer.Exit(1)
