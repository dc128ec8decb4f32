"""The largest attention score of each head over steps, by layer."""

import pandas as pd
from matplotlib.figure import Figure

from gradlab.figures.over_steps import Lines, step_panels
from gradlab.fp16 import FP16_MAX


def scores_over_steps(
    courses: pd.DataFrame, *, title: str = "Attention scores", break_step: int | None = None
) -> Figure:
    """A panel for each layer, a line for each head, as `gradlab.figures.over_steps` draws it.

    A layer with several attentions has a panel for each. A dashed line is an upper bound. Where
    FP16's largest number is within the scale, it is marked.

    Args:
        courses: A table of `gradlab.analyses.layer_courses.score_courses`.
        title: Above all panels.
        break_step: Marked by a vertical line.

    Raises:
        GradlabError: No score is finite.
    """
    rows = courses.assign(panel=site_panels(courses), dashed=courses["bound"] != "exact").rename(
        columns={"head": "line"}
    )
    lines = Lines(
        rows,
        "Largest |score|",
        "Head",
        "all heads",
        dashed="upper bound",
        reference=(FP16_MAX, "FP16's largest number"),
    )
    return step_panels(lines, title=title, break_step=break_step)


def site_panels(courses: pd.DataFrame) -> "pd.Series[str]":
    """The panel of each row: its layer, or its site where a layer has several.

    Args:
        courses: Columns site and layer.
    """
    sites = courses[["site", "layer"]].drop_duplicates()
    alone = sites["layer"].map(sites["layer"].value_counts()).eq(1)
    names = [
        f"layer {layer}" if one else site
        for site, layer, one in zip(sites["site"], sites["layer"], alone, strict=True)
    ]
    return courses["site"].map(dict(zip(sites["site"], names, strict=True)))
