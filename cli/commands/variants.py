"""`gradlab variants`: whether an architecture's lead outlasts other hyperparameters."""

from typing import TYPE_CHECKING

from gradlab.cli.options.command import Place
from gradlab.cli.terminal.screen import output
from gradlab.cli.terminal.study import make_study
from gradlab.studies.variants import Variants

if TYPE_CHECKING:
    from gradlab.runs.study import StudyRecord

EXAMPLES = """\
Examples:

gradlab variants

gradlab variants --variant base --variant longer-warmup --seeds 5

gradlab variants --variant base --variant clip_norm=0.1,lr=0.5x"""


def variants(study: Variants, place: Place) -> None:
    """Compare architectures under several hyperparameters: the paper's Table 5.

    A variant is the other options with something changed: base (nothing), longer-warmup (12 times
    as long), gpt3 (sequences twice as long, at twice the tokens, and dropout 0.1), grad-clip
    (gradients clipped at a norm of 0.1), dropout (0.1), half-lr and twice-lr, weight-decay (0.1).
    One of your own names the options that it changes, with values or multiples: --variant
    lr=0.5x,dropout=0.1. Every variant trains every architecture.

    Within a variant, compute is equal: before the study begins, the architectures' training steps
    are timed on this device, in turns, and each takes as many steps as fit in the time of the
    baseline's under that variant. With --equal steps all take the same number.

    The result is a table of the validation loss and perplexity after the last step, over seeds,
    with paired differences from the baseline of the same variant (95 % intervals); variants are not
    compared with each other. Ctrl-C stops; the same command with --resume goes on, with more
    variants or seeds too.
    """
    make_study(study, place, lambda record, _: show_result(study, record))


def show_result(study: Variants, record: "StudyRecord") -> None:
    """Print the study's table and sentences, and write its files."""
    from gradlab.analyses.loss_words import variant_sentences
    from gradlab.analyses.variants import (
        summarise_variants,
        variant_differences,
        variant_losses,
    )
    from gradlab.cli.terminal.loss_tables import variant_tables
    from gradlab.cli.terminal.study_files import files_line, write_csvs
    from gradlab.studies.equal_time import with_times

    console, out = output(), record.folder
    configs = list(record.configs.values())
    losses = variant_losses(record.runs)
    if losses.empty:
        console.print(f"No run in {out} has ended: there is nothing to compare.")
        return
    baseline = study.architectures()[0]
    # None of the baseline's has ended where the study was stopped early.
    pairs = losses if losses["arch"].eq(baseline).any() else losses.head(0)
    changes = {variant.name: variant.text for variant in study.variants()}
    summary = summarise_variants(losses)
    summary.insert(1, "change", summary["variant"].map(changes))
    tables = {
        "losses": losses,
        "summary": with_times(summary, record.notes),
        "differences": variant_differences(pairs, baseline=baseline),
    }
    for table in variant_tables(configs, tables["summary"], tables["differences"]):
        console.print(table)
    for sentence in variant_sentences(tables["differences"]):
        console.print(sentence)
    files = [out / "runs.csv", *write_csvs(tables, out)]
    console.print(files_line(out, files))
