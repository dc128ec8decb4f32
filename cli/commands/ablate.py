"""`gradlab ablate`: what each operation of NormFormer is worth, at the same compute."""

from typing import TYPE_CHECKING

from gradlab.cli.options.command import Place
from gradlab.cli.terminal.screen import output
from gradlab.cli.terminal.study import make_study
from gradlab.studies.losses import Ablation

if TYPE_CHECKING:
    from gradlab.runs.study import StudyRecord

EXAMPLES = """\
Examples:

gradlab ablate

gradlab ablate --size micro --steps 1000 --warmup 100 --seeds 5

gradlab ablate --equal steps --row minus-ffn-ln --row pre-ln"""


def ablate(study: Ablation, place: Place) -> None:
    """Take NormFormer's operations away one at a time: the NormFormer paper's Table 4.

    The rows are NormFormer with all operations (λ_resid among them), the same without
    the norm after the attention, without the norm in the FFN, without head scales, without
    λ_resid (ResScale), with norms on the queries, keys and values as well, and Pre-LN, the baseline
    without any.

    The rows have equal compute: before the study begins, the training steps of all rows are timed
    on this device, in turns, and each row takes as many steps as fit in the time of the
    baseline's. The times and steps are kept in the study's folder. With --equal steps all rows
    take the same number.

    The result is a table of the validation loss and perplexity after the last step, over seeds,
    with paired differences from all operations and from the baseline (95 % intervals), how many
    runs are behind each row and how many broke; the CSV files have more. Ctrl-C stops; the same
    command with --resume goes on.
    """
    make_study(study, place, show_result)


def show_result(record: "StudyRecord", _: bool) -> None:
    """Print the study's table and sentences, and write its files."""
    from gradlab.analyses.ablation import ablation_differences, summarise_ablation
    from gradlab.analyses.final_losses import final_losses
    from gradlab.analyses.loss_words import ablation_sentences
    from gradlab.cli.terminal.loss_tables import ablation_tables
    from gradlab.cli.terminal.study_files import files_line, write_csvs
    from gradlab.studies.equal_time import with_times

    console, out = output(), record.folder
    configs = list(record.configs.values())
    losses = final_losses(record.runs, vary="steps")
    if losses.empty:
        console.print(f"No run in {out} has ended: there is nothing to compare.")
        return
    summary = with_times(summarise_ablation(losses), record.notes)
    tables = {
        "losses": losses,
        "summary": summary,
        "differences": ablation_differences(losses),
    }
    for table in ablation_tables(configs, summary, tables["differences"]):
        console.print(table)
    for sentence in ablation_sentences(tables["differences"]):
        console.print(sentence)
    files = [out / "runs.csv", *write_csvs(tables, out)]
    console.print(files_line(out, files))
