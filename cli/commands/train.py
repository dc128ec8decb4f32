"""`gradlab train`: one run of the built-in loop."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from gradlab.base_config import Config
from gradlab.cli.terminal.live import watching
from gradlab.cli.terminal.screen import output, say_next
from gradlab.errors import ConfigError
from gradlab.pages.screen import Screen, complain
from gradlab.parallel.environment import can_meet, processes, tells
from gradlab.runs.command import typed
from gradlab.settings import OneRun

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.runs.reader import Run
    from gradlab.runs.verdict import Verdict
    from gradlab.training.progress import Progress

EXAMPLES = """\
Examples:

gradlab train --arch normformer --lr 3e-3 --warmup 100 --schedule cosine

gradlab train --precision fp16 --val-every 100 --out runs/mine

gradlab train --config runs/mine --seed 1

gradlab train --config runs/mine --out runs/mine --resume"""


class Folder(Config):
    """Where the run is kept."""

    out: Path | None = None
    """The run's folder; runs/SIZE_ARCH_SCHEDULE_SEED by default."""
    resume: bool = False
    """Go on with the run there, from its newest checkpoint."""


def train(run: OneRun, folder: Folder) -> None:
    """Train one model with the loop of the stability test, and say how it went.

    The learning rate is constant after a linear warm-up, or decays to 0 at the last step. Every
    step's loss and, in every format, the headroom of every tensor to FP16's range are recorded
    in the run's folder, for gradlab.load. Ctrl-C stops; the same command with --resume goes on.
    """
    config = run.config()  # a mistake in it is said before torch is there

    from gradlab.runs.reader import load, run_of_before
    from gradlab.runs.study import run_name
    from gradlab.studies.news import Planned, RunUpdate
    from gradlab.training.loop import train as train_run

    name = run_name(config)
    out = folder.out or Path("runs") / name
    # Where they could not meet, each has been told to train alone, by what refused it before.
    if config.parallel == "none" and processes() > 1 and can_meet():
        raise ConfigError(
            f"parallel = 'none' would let each of the {processes()} processes that torchrun has "
            "started train the same run by itself: leave it out to train it together. Runs of "
            "their own are gradlab.train's in Python, which needs another folder in each process."
        )
    is_new = folder.resume or not (out / "run.json").exists()
    if folder.resume and (before := run_of_before(out, config)) and before.status == "finished":
        if tells():
            complain(f"{out} has finished: there is nothing to resume.")
            show_run(before)
        return
    try:
        with watching(Screen(stderr=True, quiet=not tells())) as tell:
            tell(Planned([config]))

            def report(news: "Progress") -> None:
                tell(RunUpdate(name, "running", news))

            made = train_run(config, out, resume=folder.resume, progress=report)
    except KeyboardInterrupt:
        if tells() and is_new and (out / "run.json").exists():
            show_run(load(out))
        if tells():
            complain(f"interrupted{_how_to_go_on(out) if is_new else ''}.")
        raise typer.Exit(130) from None
    if tells():
        show_run(made)


def _how_to_go_on(out: Path) -> str:
    """The end of a sentence that says so, of a run that was interrupted."""
    from gradlab.runs.study import to_go_on

    if processes() > 1:
        return f": go on with the same command, --out {typed(out)} and --resume"
    there = (out / "run.json").exists()
    return f": go on by {to_go_on(out)}" if there else " before its first step"


def show_run(run: "Run") -> None:
    """Print what became of a run."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for what, how in run_facts(run):
        table.add_row(what, how)
    output().print(table)
    if run.path is not None:
        broke = run.verdict is not None and run.verdict.broke
        say_next("gradlab", "replay" if broke else "inspect", run.path)


def run_facts(run: "Run") -> list[tuple[str, str]]:
    """What a run's record says, as pairs of a heading and a text."""
    from gradlab.analyses.ending import end_sentence
    from gradlab.analyses.findings_headroom import headroom_findings

    steps, verdict = run.table("steps"), run.verdict
    facts = [("run", run.config.named)]
    facts.append(("end", end_sentence(run, steps)))
    if verdict is not None and verdict.broke and "overflows" in run.tables:
        facts.append(("first overflow", first_overflow_text(run, verdict)))
    if len(steps):
        facts.append(("loss", _loss_text(steps["loss"].tail(50))))
        if steps["val_loss"].notna().any():
            validated = steps[steps["val_loss"].notna()].iloc[-1]
            facts.append(
                ("validation", f"{validated['val_loss']:.4f} after step {validated['step']}")
            )
        seconds = float(steps["seconds"].iloc[-1])
        rate = float(steps["tokens"].iloc[-1]) / max(seconds, 1e-9)
        facts.append(("speed", f"{seconds:.1f} s, {rate:,.0f} tokens a second"))
        facts.append(("skipped steps", str(int(steps["skipped"].sum()))))
    if "headroom" in run.tables:
        found = headroom_findings(run.table("headroom"), top=1)
        facts += [(finding.what, finding.sentence.rstrip(".")) for finding in found]
    if run.path is not None:
        facts.append(("in", str(run.path)))
    return facts


def first_overflow_text(run: "Run", verdict: "Verdict") -> str:
    """Of the break; where that step was not looked at, the overflow that the run is told by."""
    from gradlab.analyses.findings_overflow import overflow_of
    from gradlab.analyses.stability import NO_OVERFLOW
    from gradlab.analyses.stability_words import site_text
    from gradlab.runs.verdict import NOT_LOOKED_AT

    site = verdict.first_overflow
    if site is None:
        return site_text({"site": NO_OVERFLOW, "reason": verdict.reason})
    if site != NOT_LOOKED_AT:
        return site
    rows = run.table("overflows", ["step", "order", "producer", "site", "skipped"])
    if rows.empty:
        return site
    first, _ = overflow_of(rows, verdict)
    producer = first["producer"] if isinstance(first["producer"], str) else first["site"]
    at = f"{producer} at step {first['step']}"
    return f"{at}; the step of the break, {verdict.step}, was {site}"


def _loss_text(last: "pd.Series[float]") -> str:
    """The mean of a run's last losses, or that some were not finite: that has no mean."""
    from gradlab.analyses.finding import counted

    if lost := sum(not math.isfinite(loss) for loss in last):
        return f"not finite at {lost} of the last {counted(len(last), 'step')}"
    return f"{last.mean():.4f}, mean of the last {counted(len(last), 'step')}"
