"""What depth does in a model, by layer: its states, its attention, gradients that vanish."""

import numpy as np
import pandas as pd

from gradlab.analyses.finding import streaks
from gradlab.errors import GradlabError

VANISHED = 1e-3
"""Share of the largest layer's mean |g| under which a layer's gradients are said to vanish."""


def states_by_depth(hidden: pd.DataFrame) -> pd.DataFrame:
    """The states of a model's layers at the first and at the last recorded step.

    The last is that at which every layer's are finite, if there is one: a run goes on for some
    steps after its break. Of several lists of layers, as an encoder's and a decoder's, the longest.

    Args:
        hidden: A run's `hidden` table.

    Returns:
        One row per (step, layer), sorted by both: columns step, layer, variance (std² of what the
        layer gives), low and high (what theory has for it in a Pre-LN at Xavier initial values:
        the first layer is given what it is at the first step, and each adds ½ to 3/2 by Lemma 2 of
        Xiong et al., 2020), cosine, cka, first_branch, last_branch, and drift (median over all
        recorded steps of mean_shift, the same at both).

    Raises:
        GradlabError: The table has no rows.
    """
    if hidden.empty:
        raise GradlabError("no hidden state was recorded: there is nothing to draw.")
    chain = hidden["site"].str.rpartition(".")[0]
    sizes = hidden.groupby(chain)["site"].nunique()
    rows = hidden[chain == sizes.idxmax()]
    drift = rows.groupby("site")["mean_shift"].median()
    known = rows.assign(finite=np.isfinite(rows["std"].to_numpy(np.float64)))
    finite = known.groupby("step")["finite"].all()
    last = finite.index[finite].max() if finite.any() else rows["step"].max()
    rows = rows[rows["step"].isin([rows["step"].min(), last])]
    rows = rows.assign(variance=rows["std"] ** 2, drift=rows["site"].map(drift))
    columns = ["variance", "cosine", "cka", "first_branch", "last_branch", "drift"]
    rows = rows.assign(layer=rows["layer"].fillna(0).astype("int64")).sort_values(["step", "layer"])
    given = float(rows["input_std"].iloc[0]) ** 2
    rows = rows.assign(low=given + (rows["layer"] + 1) / 2, high=given + (rows["layer"] + 1) * 1.5)
    return rows[["step", "layer", "low", "high", *columns]].reset_index(drop=True)


def vanishing_layers(grad_norms: pd.DataFrame, share: float = VANISHED) -> pd.DataFrame:
    """Layers whose gradients are small beside the largest layer's, and since when.

    Of each step, mean |g| over all weights of a layer, against the largest of all layers there.
    Biases, steps at which a gradient was not finite, and layers that were 0 throughout are left
    out.

    Args:
        grad_norms: A run's `grad_norms` table.
        share: Of the largest, under which a layer counts.

    Returns:
        One row for each layer that counts at the last such step, in their order: columns layer,
        since (the first step from which on it always counted), looks (recorded steps from there
        on), share (its median over those).
    """
    found = pd.DataFrame(columns=["layer", "since", "looks", "share"])
    rows = grad_norms[grad_norms["layer"].notna() & ~grad_norms["param"].str.endswith("bias")]
    rows = rows[~rows["step"].isin(rows.loc[rows["nonfinite"] > 0, "step"])]
    if rows["layer"].nunique() < 2:
        return found
    sums = rows.groupby(["step", "layer"])[["grad_l1", "numel"]].sum()
    size = (sums["grad_l1"] / sums["numel"]).unstack("layer")
    largest = size.max(axis=1)
    shares = size.div(largest.where(largest > 0), axis=0).loc[:, (size > 0).any()]
    for layer, course in shares.items():
        course = course.dropna()
        is_small = (course < share).to_numpy()
        if len(course) and is_small[-1]:
            first = streaks(np.flatnonzero(is_small).tolist())[-1][0]
            late = course.iloc[first:]
            found.loc[len(found)] = [layer, late.index[0], len(late), late.median()]
    return found.astype({"layer": "int64", "since": "int64", "looks": "int64", "share": "float64"})


def entropy_courses(entropy: pd.DataFrame) -> pd.DataFrame:
    """The attention entropy of each head over steps, as figures over steps take it.

    Args:
        entropy: A run's `entropy` table.

    Returns:
        Columns site, layer, head, step, value, and lost (whether it was not a number).

    Raises:
        GradlabError: The table has no rows.
    """
    if entropy.empty:
        raise GradlabError("no attention entropy was recorded: there is nothing to draw.")
    value = entropy["entropy"].astype("float64")
    return entropy.assign(value=value, lost=value.isna())[
        ["site", "layer", "head", "step", "value", "lost"]
    ]
