"""`gradlab figures`: the paper-style figures that runs' tables allow."""

import typer

from gradlab.cli.command import takes
from gradlab.cli.command_options import FiguresOptions
from gradlab.cli.screen import output
from gradlab.errors import GradlabError, unknown

EXAMPLES = """\
Examples:

gradlab figures studies/gradients

gradlab figures --format pdf --format svg --out pictures studies/nano

gradlab figures runs/pre-ln runs/normformer --baseline pre-ln --average 30"""


@takes(FiguresOptions)
def figures(options: FiguresOptions) -> None:
    """Draw every figure of the paper that the runs' tables allow.

    RUN is the folder of a run or of a study, which counts as its runs. Drawn are perplexity against
    compute (figure 2 of the NormFormer paper), gradients by layer (3), learned scales (4), the
    learning rate at the break (5, from a stability study), λ_resid by depth (6), gradients relative
    to a baseline's (7), and the FP16 headroom on the way. A CSV file beside a figure has its
    numbers, with the runs behind each.

    Runs that do not compare (another text, size, precision, schedule) have a figure each. For a
    figure that cannot be made, a sentence says why.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from gradlab.figures.drawings import drawings, save_drawing
    from gradlab.figures.given import read_given
    from gradlab.figures.kinds import Choices
    from gradlab.figures.save import FORMATS
    from gradlab.runs.gather import folder_of

    for form in options.formats:
        if form not in FORMATS:
            raise GradlabError(unknown("figure format", form, FORMATS))
    given = read_given(options.runs)
    out = options.out or folder_of(options.runs[0]) / "figures"
    if not options.force and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GradlabError(
            f"{out} is there already: choose another --out, or replace the files of the same names "
            "with --force."
        )
    console = output()

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    for note in given.notes:
        say(note)
    choices = Choices(baseline=options.baseline, compute=options.compute, average=options.average)
    made = 0
    for drawn in drawings(given.runs, given.stability, note=say, choices=choices):
        files = save_drawing(drawn.drawing, out, options.formats)
        say(f"{drawn.kind.title}: {', '.join(file.name for file in files)}")
        made += 1
    say(f"{made} figure{'s' * (made != 1)} in {out}.")
    if not made:
        raise typer.Exit(1)
