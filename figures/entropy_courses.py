"""The attention entropy of each head over steps, by layer."""

import pandas as pd
from matplotlib.figure import Figure

from gradlab.figures.over_steps import Lines, step_panels
from gradlab.figures.score_courses import site_panels


def entropy_over_steps(
    courses: pd.DataFrame, *, title: str = "Attention entropy", break_step: int | None = None
) -> Figure:
    """A panel for each layer, a line for each head, as `gradlab.figures.over_steps` draws it.

    The scale is from 0 to 1: of heads that look at one token alone, no more is to be told apart.

    Args:
        courses: A table of `gradlab.analyses.depth.entropy_courses`.
        title: Above all panels.
        break_step: Marked by a vertical line.

    Raises:
        GradlabError: No entropy is finite.
    """
    rows = courses.assign(panel=site_panels(courses)).rename(columns={"head": "line"})
    label = "Entropy (1: uniform, 0: on one token)"
    lines = Lines(rows, label, "Head", "all heads", limits=(-0.03, 1.03))
    return step_panels(lines, title=title, break_step=break_step)
