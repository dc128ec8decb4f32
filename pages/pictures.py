"""The figures of a page: those that a group's runs allow, and their layers as diagrams."""

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib import pyplot as plt

from gradlab.figures.blocks import block_panels
from gradlab.figures.drawings import Drawn, drawings
from gradlab.figures.kind import Drawing
from gradlab.figures.kinds import FIGURE_1
from gradlab.figures.save import rendered
from gradlab.figures.study_kinds import study_drawings
from gradlab.figures.style import looks
from gradlab.models.config import ModelConfig
from gradlab.pages.groups import Group, subject
from gradlab.pages.html import inline_svg
from gradlab.runs.study import StudyRecord


@dataclass(frozen=True)
class Picture:
    """A figure as the page has it.

    Attributes:
        kind: What it shows.
        of: Of which runs, in a few words.
        heading: The same, and of what where there are several.
        caption: How to read it, and of how many of the runs it is, if not of all.
        svg: The figure.
    """

    kind: str
    of: str
    heading: str
    caption: str
    svg: Markup


def pictures(group: Group, place: int, seen: set[bytes]) -> list[Picture]:
    """A group's figures; what could not be drawn is among its notes.

    Args:
        group: The group.
        place: Its place on the page, which tells the names in its figures apart from others'.
        seen: The figures that are on the page already, which do not come again; grows.
    """
    drawn = []
    for one in _every(group):
        svg = rendered(one.drawing.figure, "svg")
        plt.close(one.drawing.figure)
        if svg not in seen:
            seen.add(svg)
            of = subject(one.runs[0]) if one.runs else ""
            drawn.append((one.kind, of, svg, _share(len(one.runs), len(group.runs))))
    made = []
    for index, (kind, of, svg, share) in enumerate(drawn):
        several = len({other for same, other, *_ in drawn if same.heading == kind.heading}) > 1
        heading = f"{kind.heading} ({of})" if several else kind.heading
        shown = inline_svg(svg, f"g{place}f{index}-", heading)
        made.append(Picture(kind.heading, of, heading, kind.caption + share, shown))
    return made


def study_pictures(study: StudyRecord, place: int) -> list[Picture]:
    """The figures of a whole study, which its runs alone do not allow.

    Args:
        study: The study.
        place: Its place on the page, which tells the names in its figures apart from others'.
    """
    made = []
    for index, (kind, drawing) in enumerate(study_drawings(study)):
        svg = rendered(drawing.figure, "svg")
        plt.close(drawing.figure)
        shown = inline_svg(svg, f"s{place}f{index}-", kind.heading)
        made.append(Picture(kind.heading, "", kind.heading, kind.caption, shown))
    return made


def _share(part: int, whole: int) -> str:
    """Of how many of the runs a figure is, in a sentence; nothing if of all, or not known."""
    return f" Made of {part} of the {whole} runs." if 0 < part < whole else ""


def _every(group: Group) -> Iterator[Drawn]:
    """Figures 1 to 7 and the headroom; the learning rate at the break where there are several."""
    stability = {}
    if group.stability is not None and len(group.stability) > 1:
        stability[""] = group.stability
    yield from drawings(list(group.runs.values()), stability, note=group.note, by_heading=True)
    # The layers of all architectures, of the first run of each.
    models: dict[str, ModelConfig] = {}
    for run in group.runs.values():
        if not run.attached:
            models.setdefault(looks([run.config.arch])[run.config.arch].label, run.config.model)
    if models:
        yield Drawn(FIGURE_1, Drawing("layers", block_panels(models)))
