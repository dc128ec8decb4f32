"""`gradlab run-stability`: how high a learning rate each architecture survives."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from gradlab.cli.command import takes
from gradlab.cli.command_options import StabilityOptions
from gradlab.cli.live import watching
from gradlab.cli.screen import output

if TYPE_CHECKING:
    from gradlab.config import RunConfig
    from gradlab.training.study import RunUpdate

EXAMPLES = """\
Examples:

gradlab run-stability --lr-step 2e-4

gradlab run-stability --width 64 --width 128 --seeds 5 --out studies/widths

gradlab run-stability --config studies/mine.toml --resume"""


@takes(StabilityOptions)
def run_stability(options: StabilityOptions) -> None:
    """Raise the learning rate at every step until training destabilises, and say what broke.

    The LR stability test of the NormFormer paper: lr(step) = step × lr-step, for every size,
    architecture and seed. Of each run it records the LR at the break, the LR at the lowest loss,
    the LR at which the model had become useless, and the place whose FP16 tensor overflowed
    first. A run that reaches its last step is censored: its break is higher.

    The result is a table with medians and ranges over seeds, the differences between
    architectures with 95 % intervals over paired seeds, and figure 5 of the paper. Ctrl-C stops;
    the same command with --resume goes on.
    """
    from gradlab.cli.plan import check_jobs, plan_stability
    from gradlab.training.device import resolve_device
    from gradlab.training.study import run_study

    configs = plan_stability(options)
    jobs = check_jobs(options.jobs, resolve_device(options.device).type)
    check_corpus(configs)
    out = options.out or default_folder(configs)
    reasons: dict[str, str] = {}
    try:
        with watching(work(configs), Console(stderr=True)) as show:

            def progress(update: "RunUpdate") -> None:
                show(update)
                if update.message:
                    reasons[update.name] = update.message

            result = run_study(configs, out, jobs=jobs, resume=options.resume, progress=progress)
    except KeyboardInterrupt:
        if (out / "stability.csv").exists():
            show_result(configs, out, figures=False)
        typer.echo(f"interrupted: go on with the same command, --out {out} and --resume.", err=True)
        raise typer.Exit(130) from None
    show_result(configs, out, figures=True)
    if result.failed:
        typer.echo(f"error: {len(result.failed)} of {len(configs)} runs failed.", err=True)
        for name in result.failed:
            typer.echo(f"{name}: {reasons.get(name, 'no reason given')}", err=True)
        raise typer.Exit(1)


def default_folder(configs: Sequence["RunConfig"]) -> Path:
    """Where a study goes without `--out`: named after its sizes, the same every time."""
    return Path("studies") / "-".join(["stability", *dict.fromkeys(c.size for c in configs)])


def check_corpus(configs: Sequence["RunConfig"]) -> None:
    """Read the text once before any run starts, for the longest sequences and least vocabulary.

    Raises:
        GradlabError: The corpus cannot be used.
    """
    from gradlab.data.corpus import load_corpus

    load_corpus(
        configs[0].data,
        seq_len=max(config.model.max_seq_len for config in configs),
        vocab_size=min(config.model.vocab_size for config in configs),
    )


def work(configs: Sequence["RunConfig"]) -> dict[str, float]:
    """FLOPs of each run if it takes all its steps, by name."""
    from gradlab.models.cost import flops_per_token
    from gradlab.training.study import run_name

    return {
        run_name(config): float(flops_per_token(config.model))
        * config.tokens_per_step
        * config.steps
        for config in configs
    }


def show_result(configs: Sequence["RunConfig"], out: Path, *, figures: bool) -> None:
    """Print the study's tables and sentences, and write its files."""
    from gradlab.analyses.stability_table import read_stability
    from gradlab.cli.report import difference_sentences, summary_tables
    from gradlab.cli.study_files import write_figures, write_tables

    table = read_stability(out)
    console = output()
    for made in summary_tables(table):
        console.print(made)
    for sentence in difference_sentences(table):
        console.print(sentence)
    files = [out / "stability.csv", *write_tables(table, out)]
    if figures:
        files += write_figures(table, configs, out)
    names = ", ".join(file.name for file in files)
    console.print(f"In {out}: {names}; a folder a run.")
