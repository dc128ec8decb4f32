"""What each operation of NormFormer is worth: Table 4 of the paper, from runs."""

import math

import pandas as pd

from gradlab.analyses.intervals import mean_interval
from gradlab.errors import GradlabError
from gradlab.models.presets import ALL_OPERATIONS, BASELINE, TABLE_4
from gradlab.runs.verdict import BREAKS


def summarise_ablation(losses: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """The final validation loss of each row over its seeds.

    Args:
        losses: A table of `gradlab.analyses.final_losses.final_losses`.
        level: Confidence level of the intervals.

    Returns:
        One row per architecture, those of `TABLE_4` first, in the paper's order: columns arch, row
        (its name in `TABLE_4`, or arch), steps (that each run was to take), runs (that have a
        finite final loss), broke (destabilised, or ended with a loss that is not finite), failed
        (by an error) and interrupted, none of which are in the figures; seconds (mean, as
        recorded: other jobs' disturbance included), loss (mean, nats a token), loss_low, loss_high
        (Student's t interval; NaN for one run), loss_min, loss_max (over seeds), perplexity (of
        the mean loss).

    Raises:
        GradlabError: Runs of one architecture were to take different numbers of steps.
    """
    rows = []
    for arch in _in_order(losses):
        runs = losses[losses["arch"] == arch]
        if runs["steps"].nunique() > 1:
            raise GradlabError(
                f"the runs of {arch} were to take different numbers of steps: give those of one "
                "study."
            )
        whole = runs[_is_whole(runs)]
        interval = mean_interval(whole["val_loss"].tolist(), level)
        reasons = runs["reason"]
        rows.append(
            {
                "arch": arch,
                "row": TABLE_4.get(arch, arch),
                "steps": int(runs["steps"].iloc[0]),
                "runs": len(whole),
                "broke": int((reasons.isin([*BREAKS, "completed"]) & ~_is_whole(runs)).sum()),
                "failed": int((reasons == "error").sum()),
                "interrupted": int((reasons == "interrupted").sum()),
                "seconds": whole["seconds"].mean(),
                "loss": interval.mean,
                "loss_low": interval.low,
                "loss_high": interval.high,
                "loss_min": whole["val_loss"].min(),
                "loss_max": whole["val_loss"].max(),
                "perplexity": _perplexity(interval.mean),
            }
        )
    return pd.DataFrame(rows, columns=_SUMMARY_COLUMNS)


_SUMMARY_COLUMNS = [
    *["arch", "row", "steps", "runs", "broke", "failed", "interrupted", "seconds"],
    *["loss", "loss_low", "loss_high", "loss_min", "loss_max", "perplexity"],
]


def ablation_differences(losses: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """How much higher each row's final loss is than that of all operations, and the baseline's.

    A pair is one seed run under both: the same batches, and equal values at the start of the
    parameters that both have. A pair in which a run broke, failed or is not there is left out and
    counted: where one row breaks more often, the interval speaks for the seeds that did not. Each
    interval is at `level` on its own: among many, some will miss.

    Args:
        losses: A table of `gradlab.analyses.final_losses.final_losses`.
        level: Confidence level of the interval.

    Returns:
        One row per reference (`ALL_OPERATIONS`, then `BASELINE`, if its runs are there) and other
        architecture: columns reference, arch, row, seeds (of either), pairs, difference (mean of
        arch's loss − the reference's, nats a token), low, high (Student's t interval), perplexity
        (arch's over the reference's: e^difference), distinguished (False where the interval
        includes 0 or there are fewer than 2 pairs).
    """
    values = losses.assign(val_loss=losses["val_loss"].where(_is_whole(losses)))
    values = values.pivot(index="seed", columns="arch", values="val_loss")
    seeds = losses.assign(here=True).pivot(index="seed", columns="arch", values="here")
    order = _in_order(losses)
    rows = []
    for reference in (name for name in (ALL_OPERATIONS, BASELINE) if name in order):
        for arch in order:
            if arch == reference:
                continue
            differences = (values[arch] - values[reference]).dropna()
            interval = mean_interval(differences.tolist(), level)
            rows.append(
                {
                    "reference": reference,
                    "arch": arch,
                    "row": TABLE_4.get(arch, arch),
                    "seeds": len(seeds[[arch, reference]].dropna(how="all")),
                    "pairs": len(differences),
                    "difference": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "perplexity": _perplexity(interval.mean),
                    "distinguished": bool(interval.low > 0 or interval.high < 0),
                }
            )
    return pd.DataFrame(rows, columns=_DIFFERENCE_COLUMNS)


_DIFFERENCE_COLUMNS = [
    *["reference", "arch", "row", "seeds", "pairs"],
    *["difference", "low", "high", "perplexity", "distinguished"],
]


def _in_order(losses: pd.DataFrame) -> list[str]:
    """The architectures: the rows of Table 4, then others as they come."""
    here = pd.unique(losses["arch"])
    return [arch for arch in TABLE_4 if arch in here] + [
        arch for arch in here if arch not in TABLE_4
    ]


def _is_whole(losses: pd.DataFrame) -> "pd.Series[bool]":
    """Runs that reached their last step with a finite loss."""
    return losses["reason"].eq("completed") & losses["val_loss"].abs().lt(math.inf)


def _perplexity(loss: float) -> float:
    return math.inf if loss > 700 else math.exp(loss)
