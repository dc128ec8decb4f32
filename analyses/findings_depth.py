"""What the states and the attention of a model's layers came to."""

import pandas as pd

from gradlab.analyses.depth import vanishing_layers
from gradlab.analyses.finding import Finding, counted, figure, listed

COLLAPSED = 0.99
"""Mean cosine between tokens from which on they can hardly be told apart. Trained GPT-2 stays under
0.9 (Timkey and van Schijndel, 2021)."""

UNIFORM = 0.999
"""Entropy from which on a head looks at all tokens alike. All heads begin so, more or less: it is
said of a layer where others have learned to choose."""

_ALIKE = 0.99999
"""Entropy from which on there is nothing to choose by."""

CONCENTRATED = 0.02
"""Entropy under which a head looks at one token. Single heads may well; a whole layer is said."""

_CHOOSING = 0.9
"""Entropy under which a head has learned to choose."""

_LOOKS = 3
"""Recorded steps, the last half of all, that must agree."""


def state_depth_findings(hidden: pd.DataFrame, *, top: int) -> list[Finding]:
    """Layers whose tokens have become alike, and how states go from layer to layer.

    Args:
        hidden: The run's `hidden` table.
        top: Rows of the table.
    """
    if hidden.empty:
        return []
    found = []
    late = _late(hidden)
    least = late.groupby("site", sort=False)["cosine"].min()
    alike = [str(site) for site in least.index[least > COLLAPSED]]
    if alike and late["step"].nunique() >= _LOOKS:
        found.append(
            Finding(
                "collapse of states",
                f"The tokens that {listed(alike)} {_gives(alike)} are nearly one: the mean cosine "
                f"between two of a sequence is over {COLLAPSED} at each of the last "
                f"{counted(late['step'].nunique(), 'recorded step')}.",
            )
        )
    last = hidden[hidden["step"] == hidden["step"].max()]
    first, final = last.iloc[0], last.iloc[-1]
    sentence = (
        f"At step {final['step']}, from {first['site']} to {final['site']}: standard deviation "
        f"{figure(first['std'])} to {figure(final['std'])}, cosine between tokens "
        f"{figure(first['cosine'])} to {figure(final['cosine'])}"
    )
    moved = hidden[hidden["mean_shift"].notna()].sort_values("mean_shift", kind="stable")
    if len(moved):
        row = moved.iloc[-1]
        sentence += (
            f"; what {row['site']} is given moved most, by {figure(row['mean_shift'])} of its "
            f"spread up to step {row['step']}"
        )
    columns = ["site", "std", "cosine", "cka", "first_branch", "last_branch", "mean_shift"]
    table = last.sort_values("cosine", ascending=False, kind="stable").head(top)[columns]
    return [*found, Finding("hidden states", f"{sentence}.", table.reset_index(drop=True), True)]


def entropy_findings(entropy: pd.DataFrame, *, top: int) -> list[Finding]:
    """Layers whose attention is uniform, or on one token, in every head.

    Args:
        entropy: The run's `entropy` table.
        top: Rows of the table.
    """
    if entropy.empty:
        return []
    late = _late(entropy)
    looks = late["step"].nunique()
    heads = late.groupby("site", sort=False)["entropy"].agg(["min", "max"])
    found = []
    if looks >= _LOOKS:
        bound = UNIFORM if heads["min"].min() < _CHOOSING else _ALIKE
        uniform = [str(site) for site in heads.index[heads["min"] > bound]]
        if uniform:
            found.append(_told("uniform attention", uniform, "look at all tokens alike", looks))
        single = [str(site) for site in heads.index[heads["max"] < CONCENTRATED]]
        if single:
            found.append(_told("attention on one token", single, "look at one token each", looks))
    last = entropy[entropy["step"] == entropy["step"].max()]
    table = last.sort_values("entropy", kind="stable").head(top)[["site", "head", "entropy"]]
    lowest = table.iloc[0]
    head = "" if pd.isna(lowest["head"]) else f" head {lowest['head']}"
    sentence = (
        f"At step {last['step'].iloc[0]}, of 1 for uniform: {figure(last['entropy'].mean())} on "
        f"average, {figure(lowest['entropy'])} at the least ({lowest['site']}{head})."
    )
    table = table.reset_index(drop=True)
    return [*found, Finding("attention entropy", sentence, table, is_fact=True)]


def vanishing_findings(grad_norms: pd.DataFrame, *, top: int) -> list[Finding]:
    """Layers whose gradients have become a thousandth of the largest layer's, and since when.

    Args:
        grad_norms: The run's `grad_norms` table.
        top: Rows of the table.
    """
    layers = vanishing_layers(grad_norms)
    every = grad_norms["step"].nunique()
    layers = layers[layers["looks"] >= min(max(_LOOKS, every / 2), 10)]
    if layers.empty:
        return []
    least = layers.sort_values("share", kind="stable").iloc[0]
    names = listed([str(layer) for layer in layers["layer"]])
    since = int(layers["since"].max())
    sentence = (
        f"In {'layer' if len(layers) == 1 else 'layers'} {names} mean |g| is under a thousandth of "
        f"the largest layer's, from step {since} on; in layer {least['layer']:.0f} "
        f"{figure(least['share'])} of it."
    )
    return [Finding("vanishing gradients", sentence, layers.head(top).reset_index(drop=True))]


def _late(rows: pd.DataFrame) -> pd.DataFrame:
    """The last half of the recorded steps."""
    steps = sorted(set(rows["step"]))
    late: pd.DataFrame = rows[rows["step"] >= steps[len(steps) // 2]]
    return late


def _gives(sites: list[str]) -> str:
    return "gives" if len(sites) == 1 else "give"


def _told(what: str, sites: list[str], do: str, looks: int) -> Finding:
    return Finding(
        what,
        f"All heads of {listed(sites)} {do}, at each of the last "
        f"{counted(looks, 'recorded step')}.",
    )
