"""How the optimizer moved the parameters: too far, not at all, or held back by its ε."""

import numpy as np
import pandas as pd

from gradlab.analyses.finding import Finding, counted, figure

NOTABLE_SHARE = 0.01
"""Of a parameter's entries below ε; less is not worth a sentence's alarm."""


def optimizer_findings(optimizer: pd.DataFrame, *, top: int) -> list[Finding]:
    """Update against parameter, parameters that never moved, and shares of entries below Adam's ε.

    Biases are left out but of the second: they start at 0, where every step is large, and some have
    no gradient but rounding (that of the keys).

    Args:
        optimizer: The run's `optimizer` table.
        top: Rows of each table.
    """
    if optimizer.empty:
        return []
    return [*_updates(optimizer, top), *_still(optimizer), *_below_eps(optimizer, top)]


def update_ratios(optimizer: pd.DataFrame) -> pd.DataFrame:
    """The largest and the median update of each weight, against its size.

    Skipped steps, at which nothing moved, and weights that are all 0 do not count.

    Returns:
        A row a parameter, the largest first: param, ratio (largest update_rms / param_rms), step
        (of that), median_ratio.
    """
    rows = optimizer[~optimizer["param"].str.endswith("bias")]
    rows = rows[(rows["update_rms"] > 0) & (rows["param_rms"] > 0)]
    rows = rows[np.isfinite(rows["update_rms"]) & np.isfinite(rows["param_rms"])]
    rows = rows.assign(ratio=rows["update_rms"] / rows["param_rms"])
    largest = rows.sort_values("ratio", ascending=False, kind="stable").drop_duplicates("param")
    median = rows.groupby("param")["ratio"].median()
    largest = largest.assign(median_ratio=largest["param"].map(median))
    columns = ["param", "ratio", "step", "median_ratio"]
    found: pd.DataFrame = largest.reset_index(drop=True)[columns]
    return found


def _updates(optimizer: pd.DataFrame, top: int) -> list[Finding]:
    found = []
    moves = optimizer[["update_rms", "param_rms"]].to_numpy(np.float64)
    lost = optimizer[~np.isfinite(moves).all(axis=1)]
    if len(lost):
        found.append(
            Finding(
                "parameters not finite",
                f"First {lost['param'].iloc[0]} after step {lost['step'].iloc[0]}, "
                f"{counted(lost['param'].nunique(), 'parameter')} in all.",
            )
        )
    ratios = update_ratios(optimizer)
    if len(ratios):
        most, medians = ratios.iloc[0], ratios["median_ratio"]
        sentence = (
            f"Largest at {most['param']}, {figure(most['ratio'])} of its size at step "
            f"{most['step']}; the median update is {figure(medians.min())} to "
            f"{figure(medians.max())} of a weight's size, weight by weight"
        )
        found.append(Finding("updates", f"{sentence}.", ratios.head(top), is_fact=True))
    return found


def _still(optimizer: pd.DataFrame) -> list[Finding]:
    moved = optimizer.assign(moved=optimizer["update_rms"] != 0).groupby("param", sort=False)
    still = moved["moved"].any()
    names = still.index[~still].tolist()
    if not names:
        return []
    if len(names) == len(still):
        return [Finding("never moved", "No parameter moved at a recorded step.")]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [Finding("never moved", f"{names[0]}{more} did not move at any recorded step.")]


def _below_eps(optimizer: pd.DataFrame, top: int) -> list[Finding]:
    rows = optimizer[optimizer["eps_frac"].notna() & ~optimizer["param"].str.endswith("bias")]
    if rows.empty:
        return []
    last = rows["step"].max()
    latest = rows[rows["step"] == last].set_index("param")["eps_frac"]
    largest = rows.sort_values("eps_frac", ascending=False, kind="stable").drop_duplicates("param")
    table = largest.assign(at_end=largest["param"].map(latest))[
        ["param", "eps_frac", "step", "at_end"]
    ].reset_index(drop=True)
    worst = table.iloc[0]
    if worst["eps_frac"] < NOTABLE_SHARE:
        return [
            Finding(
                "below ε",
                f"At most {figure(100 * worst['eps_frac'])} % of a weight's entries had √v̂ under "
                f"Adam's ε ({worst['param']}, step {worst['step']})."
                if worst["eps_frac"]
                else "No entry had √v̂ under Adam's ε at a recorded step.",
                is_fact=True,
            )
        ]
    sentence = (
        f"√v̂ was under Adam's ε in {figure(100 * worst['eps_frac'])} % of the entries of "
        f"{worst['param']} at step {worst['step']}: those move as in plain gradient descent"
    )
    return [Finding("below ε", f"{sentence}.", table.head(top))]
