"""Commands that train a study: several runs side by side, then what they say together."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from gradlab.cli.command import command_of
from gradlab.cli.live import watching
from gradlab.cli.options import StudyOptions

if TYPE_CHECKING:
    from gradlab.config import RunConfig
    from gradlab.training.study import RunUpdate
    from gradlab.training.study_table import StudyTable


def train_study(
    command: str,
    options: StudyOptions,
    configs: Sequence["RunConfig"],
    out: Path,
    *,
    table: "StudyTable",
    show_result: Callable[[bool], None],
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Train a study's runs under the live view, show what they say, and name those that failed.

    Args:
        command: The name of the command, which the study's file keeps with the options.
        options: Of the command.
        configs: The runs, on one device.
        out: The study's folder.
        table: What the study's own table says of each run.
        show_result: Prints and writes the results: the figures too (true), or no figures where the
            study was interrupted.
        notes: Kept in the study's file beside the command.

    Raises:
        GradlabError: The corpus, the device, the number of jobs or the folder cannot be used.
        typer.Exit: With status 1 if runs failed, 130 after Ctrl-C.
    """
    from gradlab.cli.plan import check_jobs
    from gradlab.training.device import resolve_device
    from gradlab.training.study import run_study

    jobs = check_jobs(options.jobs, resolve_device(configs[0].device).type)
    check_corpus(configs)
    reasons: dict[str, str] = {}
    try:
        with watching(work(configs), Console(stderr=True)) as show:

            def progress(update: "RunUpdate") -> None:
                show(update)
                if update.message:
                    reasons[update.name] = update.message

            result = run_study(
                configs,
                out,
                jobs=jobs,
                resume=options.resume,
                table=table,
                notes={**command_of(command, options).note(), **(notes or {})},
                progress=progress,
            )
    except KeyboardInterrupt:
        if (out / table.file).exists():
            show_result(False)
        typer.echo(f"interrupted: go on with the same command, --out {out} and --resume.", err=True)
        raise typer.Exit(130) from None
    show_result(True)
    if result.failed:
        typer.echo(f"error: {len(result.failed)} of {len(configs)} runs failed.", err=True)
        for name in result.failed:
            typer.echo(f"{name}: {reasons.get(name, 'no reason given')}", err=True)
        raise typer.Exit(1)


def default_folder(kind: str, configs: Sequence["RunConfig"]) -> Path:
    """Where a study goes without `--out`: named after its sizes, the same every time."""
    return Path("studies") / "-".join([kind, *dict.fromkeys(c.size for c in configs)])


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
    from gradlab.runs.study import run_name

    return {
        run_name(config): float(flops_per_token(config.model))
        * config.tokens_per_step
        * config.steps
        for config in configs
    }
