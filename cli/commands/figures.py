"""`gradlab figures`: the figures that runs' tables allow."""

from pathlib import Path
from typing import Annotated

import typer

from gradlab.cli.options.runs import SeveralRuns
from gradlab.cli.terminal.screen import output, say_next
from gradlab.errors import GradlabError, unknown
from gradlab.parallel.environment import refuse_several

EXAMPLES = """\
Examples:

gradlab figures studies/gradients

gradlab figures --format pdf --format svg --out pictures studies/nano

gradlab figures runs/mine runs/before --baseline before --average 30"""


def figures(
    runs: SeveralRuns,
    out: Annotated[
        Path | None,
        typer.Option(help="Their folder; figures in the first RUN by default.", metavar="DIR"),
    ] = None,
    formats: Annotated[
        list[str],
        typer.Option("--format", help="png, pdf or svg; repeat for more.", metavar="KIND"),
    ] = ["png", "pdf"],  # noqa: B006
    only: Annotated[
        list[str],
        typer.Option(
            help="Draw this one alone: course, figure 3; repeat for more.", metavar="FIGURE"
        ),
    ] = [],  # noqa: B006
    baseline: Annotated[
        str | None,
        typer.Option(
            help="What figures 2 and 7 compare with; pre-ln, or else the first.", metavar="ARCH"
        ),
    ] = None,
    compute: Annotated[
        str,
        typer.Option(
            help="What figure 2 counts: flops (leaves out norms), seconds (as it was measured), "
            "tokens.",
            metavar="NAME",
        ),
    ] = "flops",
    average: Annotated[
        int | None,
        typer.Option(
            help="Steps of the windows of figures 3 and 7; as many as the study was told, or else "
            "50, or as many as there is room for.",
            min=1,
            metavar="N",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Write into a folder that is there, over files of the same names."
        ),
    ] = False,
) -> None:
    """Draw every figure that the runs' tables allow.

    RUN is the folder of a run, of gradlab's loop or of gradlab.attach, or of a study, which counts
    as its runs. Drawn are how each run went: loss, learning rate, loss scale and events; FP16
    headroom, gradients, updates, learned scales and attention scores over steps and by layer. And
    the NormFormer paper's: perplexity against compute (figure 2), gradients by layer (3), learned
    scales (4), the learning rate at the break (5, from a stability study), λ_resid by depth (6),
    gradients relative to a baseline's (7), loss against the learning rate (table 1). A CSV file
    beside a figure has its numbers, with the runs behind each.

    Runs that do not compare (another text, size, precision, schedule) have a figure each. For a
    figure that cannot be made, a sentence says why.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from gradlab.figures.drawings import drawings, save_drawing
    from gradlab.figures.given import read_given
    from gradlab.figures.kind import Choices
    from gradlab.figures.run_sets import says_need, told_once
    from gradlab.figures.save import FORMATS
    from gradlab.runs.gather import folder_of

    refuse_several("a figure")
    for form in formats:
        if form not in FORMATS:
            raise GradlabError(unknown("figure format", form, FORMATS))
    given = read_given(runs, only=only)
    choices = Choices(baseline=baseline, compute=compute, average=average).of(given.runs)
    out = out or folder_of(runs[0]) / "figures"
    if not force and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GradlabError(
            f"{out} is there already: choose another --out, or replace the files of the same names "
            "with --force."
        )
    console = output()

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    for sentence in given.notes:
        say(sentence)
    made = 0
    needs: list[str] = []

    def note(sentence: str) -> None:
        (needs.append if says_need(sentence) else say)(sentence)

    for drawn in drawings(
        given.runs, given.stability, note=note, choices=choices, only=only, studies=given.studies
    ):
        files = save_drawing(drawn.drawing, out, formats)
        say(f"{drawn.kind.title}: {', '.join(file.name for file in files)}")
        made += 1
    for sentence in told_once(needs):
        say(sentence)
    say(f"{made} figure{'s' * (made != 1)} in {out}.")
    if not made:
        raise typer.Exit(1)
    say_next("gradlab", "report", *runs)
