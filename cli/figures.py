"""`gradlab figures`: the paper-style figures that runs' tables allow."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gradlab.cli.command import takes
from gradlab.cli.command_options import FiguresOptions
from gradlab.cli.drawings import KINDS, Drawing, Kind, stability_drawings
from gradlab.cli.given_runs import STABILITY_FILE, read_runs
from gradlab.cli.run_sets import run_sets, safe_name, usable_runs
from gradlab.cli.screen import output
from gradlab.cli.study_files import write_csvs
from gradlab.errors import GradlabError, unknown

if TYPE_CHECKING:
    from gradlab.runs.reader import Run

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
    from gradlab.figures.save import FORMATS

    for form in options.formats:
        if form not in FORMATS:
            raise GradlabError(unknown("figure format", form, FORMATS))
    given = read_runs(options.runs)
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
    made = sum(draw_kind(kind, given.runs, options, out, say) for kind in KINDS)
    made += draw_stability(given.stability, options, out, say)
    say(f"{made} figure{'s' * (made != 1)} in {out}.")
    if not made:
        raise typer.Exit(1)


def draw_kind(
    kind: Kind,
    runs: Sequence["Run"],
    options: FiguresOptions,
    out: Path,
    say: Callable[[str], None],
) -> int:
    """Make one kind of figure of the runs that have what it needs, and write its files.

    Returns:
        How many were made. What was not, and what is not in them, is said.
    """
    usable, sentences = usable_runs(kind, runs)
    sets, more = run_sets(kind, usable)
    for sentence in (*sentences, *more):
        say(sentence)
    return sum(
        write_drawings(kind.title, kind.draw(part.runs, options), part.suffix, options, out, say)
        for part in sets
    )


def draw_stability(
    studies: Sequence[Path], options: FiguresOptions, out: Path, say: Callable[[str], None]
) -> int:
    """Figure 5 of each stability study, as `draw_kind`."""
    title = "figure 5"
    if not studies:
        say(
            f"{title} needs {STABILITY_FILE}: make it with gradlab run-stability, and name the "
            "study's folder."
        )
    return sum(
        write_drawings(
            title,
            stability_drawings(study),
            f"_{study.resolve().name}" if len(studies) > 1 else "",
            options,
            out,
            say,
        )
        for study in studies
    )


def write_drawings(
    title: str,
    drawings: Iterator[Drawing],
    suffix: str,
    options: FiguresOptions,
    out: Path,
    say: Callable[[str], None],
) -> int:
    """Write figures as they come, each with its table; an error ends them with a sentence.

    A file that cannot be written is no such error: it ends the command.
    """
    from matplotlib import pyplot as plt

    from gradlab.figures.save import save

    made = 0
    while True:
        try:
            drawing = next(drawings, None)
        except GradlabError as error:
            say(f"{title}{f' ({suffix[1:]})' * bool(suffix)} was not made: {error}")
            break
        if drawing is None:
            break
        name = safe_name(drawing.name + suffix)
        files = save(drawing.figure, out / name, options.formats)
        plt.close(drawing.figure)
        if drawing.table is not None:
            files += write_csvs({name: drawing.table}, out)
        say(f"{title}: {', '.join(file.name for file in files)}")
        made += 1
    return made


def folder_of(path: Path) -> Path:
    """A run's folder, where its run.json may be named."""
    return path.parent if path.is_file() else path
