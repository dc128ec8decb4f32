"""Gradients, updates and learned scales over steps: a panel an operation, a line a layer."""

import pandas as pd
from matplotlib.figure import Figure

from gradlab.figures.over_steps import Lines, step_panels


def gradient_norm_over_steps(
    courses: pd.DataFrame, *, title: str = "Gradient norm", break_step: int | None = None
) -> Figure:
    """The L2 norm of the gradients, as `gradlab.figures.over_steps.step_panels` draws it.

    Args:
        courses: A table of `gradlab.analyses.layer_courses.gradient_courses`.
        title: Above all panels.
        break_step: Marked by a vertical line.

    Raises:
        GradlabError: No gradient is finite.
    """
    return _panels(courses, "L2 norm of the weights' gradient", title, break_step)


def update_over_weight(
    courses: pd.DataFrame, *, title: str = "Update over weight", break_step: int | None = None
) -> Figure:
    """How far steps moved the weights against their size, as `step_panels` draws it.

    Args:
        courses: A table of `gradlab.analyses.layer_courses.update_courses`.
        title: Above all panels.
        break_step: Marked by a vertical line.

    Raises:
        GradlabError: No update is finite, or nothing moved.
    """
    return _panels(courses, "RMS of the update / RMS of the weight", title, break_step)


def scales_over_steps(
    courses: pd.DataFrame, *, title: str = "Learned scales", break_step: int | None = None
) -> Figure:
    """γ of norms, head scales and λ, as `step_panels` draws it.

    Args:
        courses: A table of `gradlab.analyses.layer_courses.scale_courses`.
        title: Above all panels.
        break_step: Marked by a vertical line.

    Raises:
        GradlabError: No entry is finite.
    """
    return _panels(courses, "Mean of the learned scale", title, break_step)


def _panels(courses: pd.DataFrame, value: str, title: str, break_step: int | None) -> Figure:
    rows = courses.rename(columns={"op": "panel", "layer": "line"})
    lines = Lines(rows, value, line="Layer", outside="outside the layers")
    return step_panels(lines, title=title, break_step=break_step)
