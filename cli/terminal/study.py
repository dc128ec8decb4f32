"""Making a study under the eyes of its user, then what it says."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from gradlab.cli.terminal.live import watching
from gradlab.cli.terminal.screen import output, say_next
from gradlab.pages.screen import Screen, complain, on_screen
from gradlab.runs.study import TABLE_FILES

if TYPE_CHECKING:
    from gradlab.cli.options.command import Place
    from gradlab.runs.command import Command
    from gradlab.runs.study import StudyRecord
    from gradlab.studies.several import Studies
    from gradlab.studies.study import Study


def show_result(record: "StudyRecord", figures: bool, command: "Command | None" = None) -> None:
    """Print a study's tables and sentences, and write its files.

    Args:
        record: The study.
        figures: Whether its figures are among them.
        command: What makes it; what its file says if None.
    """
    from gradlab.cli.terminal.study_files import files_line, write_csvs, write_drawings
    from gradlab.pages.results import study_result

    console, out = output(), record.folder
    result = study_result(record, command)
    for table in result.tables:
        console.print(on_screen(table))
        if table.note:
            console.print(table.note)
    for sentence in result.sentences:
        console.print(sentence)
    if result.files:
        own = [out / name for name in TABLE_FILES if (out / name).exists()]
        files = [*own, *write_csvs(result.files, out)]
        files += write_drawings(result.draw(), out) if figures else []
        console.print(files_line(out, files))


def make_study(
    study: "Study | Studies",
    place: "Place",
    show_result: "Callable[[StudyRecord, bool], None]" = show_result,
) -> None:
    """Train a study's runs under the live view, show what they say, and name those that failed.

    Args:
        study: Which runs it is.
        place: Where it is made, and how.
        show_result: Prints and writes the results: the figures too (true), or no figures where the
            study was interrupted.

    Raises:
        GradlabError: A setting, the corpus, the device, the number of jobs, the engine or the
            folder cannot be used.
        typer.Exit: With status 1 if runs failed, 130 after Ctrl-C.
    """
    from gradlab.runs.study import find_studies
    from gradlab.studies.run import run_study

    out = place.out or study.folder()
    try:
        with watching(Screen(stderr=True)) as tell:
            record = run_study(
                study,
                out,
                jobs=place.jobs,
                resume=place.resume,
                engine=place.engine,
                ray_address=place.ray_address,
                progress=tell,
            )
        show_result(record, True)
    except KeyboardInterrupt:
        begun = find_studies(out)
        if begun and begun.has_table:
            show_result(begun, False)
        given = place.model_dump(exclude_defaults=True, exclude={"out", "resume"})
        line = study.command().at(out, resume=True, **given)
        complain(f"interrupted: go on by `{line}`.")
        raise typer.Exit(130) from None
    failed = record.failed
    if len(failed) < len(record.names):
        say_next("gradlab", "report", out)
    if failed:
        complain(f"error: {len(failed)} of {len(record.names)} runs failed.")
        for name, reason in failed.items():
            complain(f"{name}: {reason}")
        raise typer.Exit(1)
