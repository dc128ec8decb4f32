"""`gradlab lr-search`: the learning rate that suits each architecture, and how much it matters."""

from typing import TYPE_CHECKING

from gradlab.cli.options.command import Place
from gradlab.cli.terminal.screen import output
from gradlab.cli.terminal.study import make_study
from gradlab.studies.losses import LrSearch

if TYPE_CHECKING:
    from gradlab.runs.study import StudyRecord

EXAMPLES = """\
Examples:

gradlab lr-search

gradlab lr-search --arch pre-ln --arch normformer --lr 3e-3 --lr 1e-2

gradlab lr-search --size micro --steps 1000 --warmup 100 --out studies/table-1"""


def lr_search(study: LrSearch, place: Place) -> None:
    """Train architectures at several learning rates and find the best of each.

    As for the NormFormer paper's Table 1. Every run is validated after its last step. LR
    sensitivity is that of Wortsman et al. (2023): the loss at each learning rate over the lowest of
    them, averaged over the rates; a run that diverged enters with its loss at initialisation, and
    so does one whose loss ended higher than that.

    The result is the loss at each rate, the best rate and the LR sensitivity of each architecture,
    over seeds, the differences between architectures with 95 % intervals over paired seeds, and a
    figure of loss against learning rate in which diverged runs are marked. Ctrl-C stops; the same
    command with --resume goes on.
    """
    make_study(study, place, show_result)


def show_result(record: "StudyRecord", figures: bool) -> None:
    """Print the study's table and sentences, and write its files."""
    from gradlab.analyses.final_losses import final_losses
    from gradlab.analyses.lr_search import (
        losses_by_rate,
        search_differences,
        search_seeds,
        summarise_search,
    )
    from gradlab.analyses.lr_search_words import NOTE, search_sentences
    from gradlab.cli.terminal.result_tables import rate_tables, search_table
    from gradlab.cli.terminal.study_files import files_line, write_csvs, write_drawings

    console, out = output(), record.folder
    configs = list(record.configs.values())
    losses = final_losses(record.runs, vary="lr")
    if losses.empty:
        console.print(f"No run in {out} has ended: there is nothing to compare.")
        return
    tables = {
        "losses": losses,
        "rates": losses_by_rate(losses),
        "seeds": search_seeds(losses),
        "summary": summarise_search(losses),
        "differences": search_differences(losses),
    }
    for made in rate_tables(configs, tables["rates"]):
        console.print(made)
    console.print(NOTE)
    console.print(search_table(tables["summary"]))
    for sentence in search_sentences(tables["summary"], tables["differences"]):
        console.print(sentence)
    files = [out / "runs.csv", *write_csvs(tables, out)]
    if figures and tables["rates"]["runs"].any():
        from gradlab.figures.kinds import draw_search

        files += write_drawings(draw_search(record.runs), out)
    console.print(files_line(out, files))
