"""Which learning rate suits an architecture, and how much the choice matters: the paper's Table 1.

LR sensitivity is that of Wortsman et al., "Small-scale proxies for large-scale Transformer
training instabilities" (2023), section 2: the loss at each learning rate over the lowest of them,
averaged over the rates. A run that diverged enters with its loss at initialisation, and so does
one whose loss ended higher than that.
"""

from itertools import combinations

import numpy as np
import pandas as pd

from gradlab.analyses.intervals import mean_interval, spread
from gradlab.runs.verdict import BREAKS


def entered_losses(losses: pd.DataFrame) -> pd.DataFrame:
    """The loss with which each run enters the comparison.

    Args:
        losses: A table of `gradlab.analyses.final_losses.final_losses`.

    Returns:
        Its rows and columns, and: diverged (it destabilised, or its final loss is not below its
        first), entered (first_loss where it diverged, else val_loss). Runs that failed or were
        interrupted are left out: they say nothing about the rate.
    """
    ended = losses[losses["reason"].isin([*BREAKS, "completed"])]
    stayed = (ended["reason"] == "completed") & (ended["val_loss"] < ended["first_loss"])
    entered = ended["val_loss"].where(stayed, ended["first_loss"])
    return ended.assign(diverged=~stayed, entered=entered).reset_index(drop=True)


def losses_by_rate(losses: pd.DataFrame) -> pd.DataFrame:
    """The loss at each learning rate over seeds.

    Args:
        losses: A table of `gradlab.analyses.final_losses.final_losses`.

    Returns:
        One row per (arch, lr), rates rising: columns arch, lr, runs (that ended), diverged (of
        them), loss (mean of what they entered with, `entered_losses`), loss_low, loss_high
        (Student's t interval; NaN for one run), loss_min, loss_max (over seeds).
    """
    rows = []
    ended = entered_losses(losses)
    for arch in pd.unique(losses["arch"]):
        for rate in sorted(losses["lr"].unique()):
            runs = ended[(ended["arch"] == arch) & (ended["lr"] == rate)]
            row = {"arch": arch, "lr": rate, "runs": len(runs)}
            row |= {"diverged": int(runs["diverged"].sum())}
            rows.append(row | spread("loss", runs["entered"].tolist()))
    return pd.DataFrame(rows, columns=_RATE_COLUMNS)


_RATE_COLUMNS = [
    *["arch", "lr", "runs", "diverged"],
    *["loss", "loss_low", "loss_high", "loss_min", "loss_max"],
]


def search_seeds(losses: pd.DataFrame) -> pd.DataFrame:
    """What each seed's runs say: its best learning rate, and its LR sensitivity.

    A seed counts where a run of it has ended at every learning rate of the table and not all of
    them diverged: over fewer rates its sensitivity would mean something else.

    Args:
        losses: A table of `gradlab.analyses.final_losses.final_losses`.

    Returns:
        One row per (arch, seed): columns arch, seed, rates (at which a run ended), diverged (runs),
        whole (it counts); and where it does, best_lr (the architecture's: that of the lowest mean
        loss over the seeds that count), best_loss (this seed's at it), own_lr and own_loss (the
        lowest loss of this seed), sensitivity (mean over rates of the entered loss − own_loss,
        nats a token).
    """
    rates = sorted(losses["lr"].unique())
    ended = entered_losses(losses)
    tables = []
    for arch in pd.unique(losses["arch"]):
        runs = ended[ended["arch"] == arch]
        seeds = pd.Index(pd.unique(losses.loc[losses["arch"] == arch, "seed"]), name="seed")
        entered = runs.pivot(index="seed", columns="lr", values="entered")
        entered = entered.reindex(index=seeds, columns=rates)
        table = pd.DataFrame(
            {
                "rates": entered.notna().sum(axis=1),
                "diverged": runs.groupby("seed")["diverged"].sum().reindex(seeds, fill_value=0),
            }
        )
        table["whole"] = (table["rates"] == len(rates)) & (table["diverged"] < len(rates))
        whole = entered[table["whole"]]
        if len(whole):
            best = whole.mean().idxmin()
            table["best_lr"] = table["whole"].map({True: best, False: np.nan})
            table["best_loss"] = whole[best]
            table["own_lr"] = whole.idxmin(axis=1)
            table["own_loss"] = whole.min(axis=1)
            table["sensitivity"] = whole.mean(axis=1) - whole.min(axis=1)
        tables.append(table.reset_index().assign(arch=arch))
    return pd.concat(tables, ignore_index=True).reindex(columns=_SEED_COLUMNS)


_SEED_COLUMNS = [
    *["arch", "seed", "rates", "diverged", "whole"],
    *["best_lr", "best_loss", "own_lr", "own_loss", "sensitivity"],
]


def summarise_search(losses: pd.DataFrame) -> pd.DataFrame:
    """The best learning rate and the LR sensitivity of each architecture over its seeds.

    Args:
        losses: A table of `gradlab.analyses.final_losses.final_losses`.

    Returns:
        One row per architecture, in the table's order: columns arch, rates (in the table), seeds
        (that count, see `search_seeds`), left_out (that do not), diverged (runs of those that
        count), best_lr (of the lowest mean loss), at_end (`lowest` or `highest` where that is an
        end of the table's rates, so that a better one may lie beyond; else empty), own_lr_min,
        own_lr_max (the seeds' own best ones), loss (mean at best_lr) with loss_low and loss_high,
        sensitivity (mean, nats a token) with sensitivity_low and sensitivity_high. Intervals are
        Student's t; NaN for one seed.
    """
    rates = sorted(losses["lr"].unique())
    rows = []
    for arch, seeds in search_seeds(losses).groupby("arch", sort=False):
        whole = seeds[seeds["whole"]]
        best = whole["best_lr"].iloc[0] if len(whole) else np.nan
        rows.append(
            {
                "arch": arch,
                "rates": len(rates),
                "seeds": len(whole),
                "left_out": len(seeds) - len(whole),
                "diverged": int(whole["diverged"].sum()),
                "best_lr": best,
                "at_end": _end(best, rates),
                "own_lr_min": whole["own_lr"].min(),
                "own_lr_max": whole["own_lr"].max(),
                **mean_interval(whole["best_loss"].tolist()).columns("loss"),
                **mean_interval(whole["sensitivity"].tolist()).columns("sensitivity"),
            }
        )
    return pd.DataFrame(rows)


def _end(rate: float, rates: list[float]) -> str:
    if len(rates) < 2:
        return ""
    return {rates[0]: "lowest", rates[-1]: "highest"}.get(rate, "")


def search_differences(losses: pd.DataFrame) -> pd.DataFrame:
    """How architectures differ in their best loss and in LR sensitivity, over shared seeds.

    Args:
        losses: A table of `gradlab.analyses.final_losses.final_losses`.

    Returns:
        One row per quantity and couple of architectures, `baseline` the one that comes first:
        columns quantity (`loss`: each architecture's at its own best rate; `sensitivity`),
        baseline, arch, seeds (of either), pairs (seeds that count under both), difference (mean of
        arch − baseline, nats a token), low, high (Student's t interval), distinguished (False
        where the interval includes 0 or there are fewer than 2 pairs).
    """
    seeds = search_seeds(losses)
    rows = []
    for quantity, column in (("loss", "best_loss"), ("sensitivity", "sensitivity")):
        values = seeds.pivot(index="seed", columns="arch", values=column)
        for baseline, arch in combinations(pd.unique(seeds["arch"]), 2):
            differences = (values[arch] - values[baseline]).dropna()
            interval = mean_interval(differences.tolist())
            rows.append(
                {
                    "quantity": quantity,
                    "baseline": baseline,
                    "arch": arch,
                    "seeds": seeds.loc[seeds["arch"].isin([baseline, arch]), "seed"].nunique(),
                    "pairs": len(differences),
                    "difference": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "distinguished": interval.leaves_out(0),
                }
            )
    return pd.DataFrame(rows, columns=_DIFFERENCE_COLUMNS)


_DIFFERENCE_COLUMNS = [
    *["quantity", "baseline", "arch", "seeds", "pairs"],
    *["difference", "low", "high", "distinguished"],
]
