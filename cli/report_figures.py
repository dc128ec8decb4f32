"""The figures of a report: those of `gradlab figures`, of the stability test, and the layers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.cli.report_groups import Group, subject
from gradlab.config import ModelConfig
from gradlab.errors import GradlabError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORDS: Mapping[str, tuple[str, str]] = {
    "figure 5": (
        "Learning rate at the break",
        "The learning rate rises at every step until training destabilises: higher survives more. "
        "Lines join medians, faint points are single seeds, hollow triangles runs that the cap on "
        "steps ended before they broke.",
    ),
    "differences": (
        "Breaks against the baseline",
        "How much higher or lower each architecture breaks than the first, over the seeds that "
        "both have, with a 95 % interval; hollow where the two are not distinguished.",
    ),
    "headroom": (
        "FP16 headroom by layer",
        "Bits left before FP16 overflows, at the tightest place of each layer; crosses are "
        "overflows, the vertical line is the break. The first seed of each architecture.",
    ),
    "figure 2": (
        "Perplexity against compute",
        "Validation perplexity against the compute spent until then; a star where a run first "
        "reaches the baseline's best.",
    ),
    "figure 3": (
        "Gradients by layer",
        "Mean L1 norm of the gradient of the second FFN weight, early in training (after the "
        "warm-up) and late: mean and range over seeds.",
    ),
    "figure 4": (
        "Learned scales by layer",
        "How the entries of each learned scale are distributed, layer by layer, late in training.",
    ),
    "figure 6": (
        "λ on the residual by depth",
        "The mean of the learned factor on the skip against the depth of its layer.",
    ),
    "figure 7": (
        "Gradients relative to the baseline",
        "The gradient norm of each operation in each layer over the baseline's, both over the "
        "loss. A dot marks a cell whose 95 % interval over seeds does not set it apart from 1.",
    ),
    "figure 1": (
        "The layers",
        "One layer of each architecture, from its input at the bottom; filled boxes are what plain "
        "Pre-LN and Post-LN lack.",
    ),
}
"""Heading and caption of each kind of figure, in the order on the page. A figure of
`gradlab figures` (`gradlab.cli.drawings.KINDS`) that is not among them comes last, by its title."""


@dataclass(frozen=True)
class Drawn:
    """A figure as the page has it: what it is, of what where there are several, and an SVG."""

    heading: str
    caption: str
    svg: bytes


def draw_all(group: Group) -> list[Drawn]:
    """A group's figures; what could not be drawn is among its notes."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    from gradlab.figures.save import rendered

    drawn: dict[str, list[tuple[str, bytes]]] = {title: [] for title in WORDS}
    for title, of, figures in _all_figures(group):
        try:
            for figure in figures:
                drawn.setdefault(title, []).append((of, rendered(figure, "svg")))
                plt.close(figure)
        except GradlabError as error:
            group.note(f"{WORDS.get(title, (title,))[0]}: {error}")
    made = []
    for title, images in drawn.items():
        heading, caption = WORDS.get(title, (title, ""))
        several = len({of for of, _ in images}) > 1
        made += [
            Drawn(f"{heading} ({of})" if several else heading, caption, svg) for of, svg in images
        ]
    return made


def _all_figures(group: Group) -> "Iterator[tuple[str, str, Iterator[Figure]]]":
    """Title, what it is of, and the figures, which are made as they are asked for."""
    from gradlab.cli.command_options import FiguresOptions
    from gradlab.cli.drawings import KINDS
    from gradlab.cli.run_sets import run_sets, usable_runs

    options = FiguresOptions(runs=[])
    runs = list(group.runs.values())
    yield "figure 5", "", _breaks(group)
    yield "differences", "", _differences(group)
    for kind in KINDS:
        usable, sentences = usable_runs(kind, runs)
        sets, _ = run_sets(kind, usable)
        heading = WORDS.get(kind.title, (kind.title,))[0]
        for sentence in sentences:
            group.note(sentence.replace(kind.title, heading, 1))
        for part in sets:
            drawings = kind.draw(part.runs, options)
            yield kind.title, subject(part.runs[0]), (drawing.figure for drawing in drawings)
    yield "figure 1", "", _layers(group)


def _breaks(group: Group) -> "Iterator[Figure]":
    from gradlab.figures.stability import lr_at_break
    from gradlab.figures.style import figure_of

    if group.stability is not None and len(group.stability) > 1:
        yield figure_of(lr_at_break(group.stability))


def _differences(group: Group) -> "Iterator[Figure]":
    from gradlab.figures.differences import lr_against_baseline
    from gradlab.figures.style import figure_of

    if group.stability is None:
        return
    for _, rows in group.stability.groupby("lr_step", sort=False):
        if rows["arch"].nunique() > 1:
            yield figure_of(lr_against_baseline(rows))


def _layers(group: Group) -> "Iterator[Figure]":
    """The layers of all architectures, of the first run of each."""
    from gradlab.figures.blocks import block_panels
    from gradlab.figures.style import looks

    models: dict[str, ModelConfig] = {}
    for run in group.runs.values():
        if not run.attached:
            label = looks([run.config.arch])[run.config.arch].label
            models.setdefault(label, run.config.model)
    if models:
        yield block_panels(models)
