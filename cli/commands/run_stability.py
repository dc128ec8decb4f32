"""`gradlab run-stability`: how high a learning rate each architecture survives."""

from typing import TYPE_CHECKING

from gradlab.cli.options.command import Place
from gradlab.cli.terminal.screen import output
from gradlab.cli.terminal.study import make_study
from gradlab.studies.stability import Stability

if TYPE_CHECKING:
    from gradlab.runs.study import StudyRecord

EXAMPLES = """\
Examples:

gradlab run-stability --lr-step 2e-4

gradlab run-stability --width 64 --width 128 --seeds 5 --out studies/widths

gradlab run-stability --config studies/mine.toml --resume"""


def run_stability(study: Stability, place: Place) -> None:
    """Raise the learning rate at every step until training destabilises, and say what broke.

    The LR stability test of the NormFormer paper: lr(step) = step × lr-step, for every size,
    architecture and seed. Of each run it records the LR at the break, the LR at the lowest loss,
    the LR at which the model had become useless, and the place whose FP16 tensor overflowed
    first. A run that reaches its last step is censored: its break is higher.

    The result is a table with medians and ranges over seeds, the differences between
    architectures with 95 % intervals over paired seeds, and figure 5 of the paper. Ctrl-C stops;
    the same command with --resume goes on.
    """
    make_study(study, place, show_result)


def show_result(record: "StudyRecord", figures: bool) -> None:
    """Print the study's tables and sentences, and write its files."""
    from gradlab.analyses.stability_table import read_stability
    from gradlab.analyses.stability_words import difference_sentences
    from gradlab.cli.terminal.result_tables import summary_tables
    from gradlab.cli.terminal.study_files import files_line, write_figures, write_tables

    out = record.folder
    table = read_stability(out)
    console = output()
    for made in summary_tables(table):
        console.print(made)
    for sentence in difference_sentences(table):
        console.print(sentence)
    files = [out / "stability.csv", *write_tables(table, out)]
    if figures:
        files += write_figures(table, record)
    console.print(files_line(out, files))
