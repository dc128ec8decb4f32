"""The figures of whole studies, which their runs alone do not allow."""

from collections.abc import Iterator

from gradlab.analyses.depth_scan import depth_scan, layer_gradients
from gradlab.analyses.league import (
    league_differences,
    league_overflows,
    league_seeds,
    step_costs,
    summarise_league,
)
from gradlab.analyses.limits import answers, limits, summarise_limits
from gradlab.figures.depth_scan import gradients_by_depth, trained_depths
from gradlab.figures.kind import Drawing, StudyKind
from gradlab.figures.league import league_panels
from gradlab.figures.limits import limit_against_ramp
from gradlab.figures.style import figure_of
from gradlab.runs.study import StudyRecord, StudySet


def draw_league(league: StudyRecord) -> Iterator[Drawing]:
    """A row an architecture, a column a measure."""
    assert isinstance(league, StudySet)
    seeds = league_seeds(league)
    if len(seeds):
        summary = summarise_league(seeds, step_costs(league))
        figure = league_panels(summary, league_differences(seeds), league_overflows(league))
        yield Drawing("league", figure, summary)


def draw_limit(study: StudyRecord) -> Iterator[Drawing]:
    """The highest constant rate against the ramp's break."""
    table = limits(study)
    known = answers(table)
    if known[["low", "ramp"]].notna().all(axis=1).any():
        yield Drawing("limit", figure_of(limit_against_ramp(known)), summarise_limits(table))


def draw_depths(study: StudyRecord) -> Iterator[Drawing]:
    """Where each architecture stops training."""
    table = depth_scan(study)
    if len(table):
        yield Drawing("trained_depths", figure_of(trained_depths(table)), table)


def draw_depth_gradients(study: StudyRecord) -> Iterator[Drawing]:
    """The gradients by layer, of each depth."""
    gradients = layer_gradients(study)
    if (gradients["size"] > 0).any():
        yield Drawing("gradients_by_depth", gradients_by_depth(gradients))


STUDY_KINDS = (
    StudyKind(
        "league",
        "The architectures side by side",
        "A row is an architecture, the highest constant learning rate above; the line is Pre-LN. A "
        "point is filled where the seeds of both tell the two apart, in the colour of better or "
        "worse; a triangle is a lower bound.",
        command="league",
        draw=draw_league,
    ),
    StudyKind(
        "limit",
        "Highest constant learning rate against the ramp's",
        "A marker for each architecture and seed; on the dotted line the two answers are equal. "
        "The bar is from the highest rate survived to the lowest not.",
        command="limit",
        draw=draw_limit,
    ),
    StudyKind(
        "depth",
        "Depths that train",
        "Filled where a depth trains, a cross where it does not, hollow where some seeds do.",
        command="depth-scan",
        draw=draw_depths,
    ),
    StudyKind(
        "depth",
        "Gradients by depth",
        "Mean |g| against the layer as a share of the depth, above at the first step, below after "
        "the last; a line is a depth. The first seed, with the shortest warm-up.",
        command="depth-scan",
        draw=draw_depth_gradients,
    ),
)
"""In the order of a page."""


def study_drawings(study: StudyRecord) -> Iterator[tuple[StudyKind, Drawing]]:
    """The figures of a whole study with their kinds; none of a study that has no such."""
    for kind in STUDY_KINDS:
        if kind.is_of(study):
            yield from ((kind, drawing) for drawing in kind.draw(study))
