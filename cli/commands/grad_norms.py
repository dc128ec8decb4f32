"""`gradlab grad-norms`: how large each layer's gradients are, architecture against architecture."""

from typing import TYPE_CHECKING

from gradlab.cli.options.command import Place
from gradlab.cli.terminal.screen import output
from gradlab.cli.terminal.study import make_study
from gradlab.studies.gradients import Gradients

if TYPE_CHECKING:
    from gradlab.runs.study import StudyRecord

EXAMPLES = """\
Examples:

gradlab grad-norms

gradlab grad-norms --arch pre-ln --arch normformer --seeds 5

gradlab grad-norms --size nano --steps 60 --warmup 20 --average 20"""

OP = "fc2"
"""The op on the screen and in the figure, as in the paper's figure 3; the files have all ops."""


def grad_norms(study: Gradients, place: Place) -> None:
    """Train architectures from the same batches and compare the gradients of their layers.

    In Post-LN later layers have the larger gradients, in Pre-LN earlier ones; the NormFormer
    paper's remedy for this mismatch is what its figure 3 shows. Every run records the gradient of
    every parameter; two windows of steps are averaged, the first after the warm-up and the last of
    the run.

    The result is a table of the mismatch of the second FFN weight per architecture (the gradient
    L1 of the first two layers over that of the last two, and the slope over depth) with its spread
    over seeds, a sentence a pair of architectures with a 95 % interval, and figure 3 of the paper;
    the CSV files have every operation. Ctrl-C stops; the same command with --resume goes on.
    """
    from gradlab.analyses.gradients import windows_of

    windows_of(study.configs()[0], study.average)
    make_study(study, place, show_result)


def show_result(record: "StudyRecord", figures: bool) -> None:
    """Print the study's table and sentences, and write its files."""
    from gradlab.analyses.gradient_study import (
        mismatch_differences,
        study_gradients,
        study_mismatch,
        summarise_mismatch,
        window_length,
    )
    from gradlab.analyses.gradient_words import difference_sentences
    from gradlab.cli.terminal.result_tables import mismatch_table
    from gradlab.cli.terminal.study_files import files_line, write_csvs, write_drawings

    console, out = output(), record.folder
    configs = list(record.configs.values())
    runs = [run for run in record.runs if run.completed]
    if not runs:
        console.print(f"No run in {out} has reached its last step: there is nothing to compare.")
        return
    gradients = study_gradients(runs, length=window_length(runs))
    mismatches = study_mismatch(gradients)
    tables = {
        "gradients": gradients,
        "mismatch": mismatches,
        "summary": summarise_mismatch(mismatches),
        "differences": mismatch_differences(mismatches),
    }
    console.print(mismatch_table(configs, gradients, tables["summary"], op=OP))
    for sentence in difference_sentences(tables["differences"], op=OP):
        console.print(sentence)
    files = [out / "runs.csv", *write_csvs(tables, out)]
    if figures:
        from gradlab.figures.kinds import draw_gradients

        files += write_drawings(draw_gradients(runs), out)
    console.print(files_line(out, files))
