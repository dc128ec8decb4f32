"""Final losses over seeds: a summary of like runs, and a paired difference of two kinds."""

import math
from typing import Any

import pandas as pd

from gradlab.analyses.intervals import exp, mean_interval, spread
from gradlab.errors import GradlabError
from gradlab.runs.verdict import BREAKS

SUMMARY_COLUMNS = [
    *["steps", "runs", "broke", "failed", "interrupted", "seconds"],
    *["loss", "loss_low", "loss_high", "loss_min", "loss_max", "perplexity"],
]

DIFFERENCE_COLUMNS = [
    *["seeds", "pairs", "difference", "low", "high", "perplexity", "distinguished"],
]


def loss_summary(runs: pd.DataFrame) -> dict[str, Any]:
    """The final validation loss of runs that differ in their seeds alone.

    Args:
        runs: Rows of `gradlab.analyses.final_losses.final_losses`, one or more.

    Returns:
        steps (that each run was to take), runs (that have a finite final loss), broke
        (destabilised, or ended with a loss that is not finite), failed (by an error) and
        interrupted, none of which are in the figures; seconds (mean, as recorded: other jobs'
        disturbance included), loss (mean, nats a token), loss_low, loss_high (Student's t interval;
        NaN for one run), loss_min, loss_max (over seeds), perplexity (of the mean loss).

    Raises:
        GradlabError: The runs were to take different numbers of steps.
    """
    if runs["steps"].nunique() > 1:
        raise GradlabError(
            f"the runs of {runs['arch'].iloc[0]} were to take different numbers of steps: give "
            "those of one study."
        )
    whole = runs[_is_whole(runs)]
    loss = spread("loss", whole["val_loss"].tolist())
    reasons = runs["reason"]
    return {
        "steps": int(runs["steps"].iloc[0]),
        "runs": len(whole),
        "broke": int((reasons.isin([*BREAKS, "completed"]) & ~_is_whole(runs)).sum()),
        "failed": int((reasons == "error").sum()),
        "interrupted": int((reasons == "interrupted").sum()),
        "seconds": whole["seconds"].mean(),
        **loss,
        "perplexity": exp(loss["loss"]),
    }


def loss_difference(losses: pd.DataFrame, arch: str, reference: str) -> dict[str, Any]:
    """How much higher one architecture's final loss is than another's.

    A pair is one seed run under both: the same batches, and equal values at the start of the
    parameters that both have. A pair in which a run broke, failed or is not there is left out and
    counted: where one breaks more often, the interval speaks for the seeds that did not.

    Args:
        losses: A table of `gradlab.analyses.final_losses.final_losses`, each architecture once a
            seed.
        arch: The one.
        reference: The other.

    Returns:
        seeds (of either), pairs, difference (mean of arch's loss − the reference's, nats a token),
        low, high (Student's t interval), perplexity (arch's over the reference's: e^difference),
        distinguished (False where the interval includes 0 or there are fewer than 2 pairs).
    """
    values = losses.assign(val_loss=losses["val_loss"].where(_is_whole(losses)))
    both = values[values["arch"].isin([arch, reference])]
    both = both.pivot(index="seed", columns="arch", values="val_loss")
    differences = (both[arch] - both[reference]).dropna()
    interval = mean_interval(differences.tolist())
    return {
        "seeds": len(both),
        "pairs": len(differences),
        "difference": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "perplexity": exp(interval.mean),
        "distinguished": interval.leaves_out(0),
    }


def _is_whole(losses: pd.DataFrame) -> "pd.Series[bool]":
    """Runs that reached their last step with a finite loss."""
    return losses["reason"].eq("completed") & losses["val_loss"].abs().lt(math.inf)
