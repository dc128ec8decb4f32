"""How a run went: its end, its loss, the steps that it skipped and its loss scale."""

import numpy as np
import pandas as pd

from gradlab.analyses.ending import end_sentence
from gradlab.analyses.finding import Finding, counted, figure, spans, streaks
from gradlab.analyses.headroom import not_finite
from gradlab.runs.reader import Run


def course_findings(run: Run, steps: pd.DataFrame, faults: pd.DataFrame | None) -> list[Finding]:
    """What the `steps` table and the verdict say, but for what was not finite.

    Args:
        run: The run.
        steps: Its `steps`.
        faults: As of `nonfinite_losses`.
    """
    end = Finding("end", end_sentence(run, steps), is_fact=True)
    return [_what_it_is(run), end, *_loss(run, steps, faults)]


def _what_it_is(run: Run) -> Finding:
    if run.attached:
        model = run.info.get("model", "model")
        meta = run.info.get("meta") or {}
        told = "".join(f"; {name} = {value}" for name, value in meta.items())
        sentence = f"A {model}, trained by a loop of its own (gradlab.attach){told}."
        return Finding("run", sentence, is_fact=True)
    named = run.config.named
    sentence = f"{named}, trained by gradlab's loop."
    if replay := run.info.get("replay"):
        changes = replay.get("changes") or replay.get("change") or "unchanged"
        of = f" of {replay['of']}" if replay.get("of") else ""
        sentence = f"{named}: a replay{of} from step {replay['from']}, {changes}."
    return Finding("run", sentence, is_fact=True)


def _loss(run: Run, steps: pd.DataFrame, faults: pd.DataFrame | None) -> list[Finding]:
    seen = steps[np.isfinite(steps["loss"])]
    if seen.empty:
        return []
    first, last = seen.iloc[0], seen.iloc[-1]
    low = seen.loc[seen["loss"].idxmin()]
    ends = [f"{row['loss']:.4g} at step {row['step']}" for row in (first, low, last)]
    sentence = f"{ends[0]}, the only one."
    if len(seen) > 1:
        lost_later = any(step > last["step"] for step in lost_losses(run, steps, faults))
        which = "the last finite one" if lost_later else "the last"
        sentence = f"{ends[0]}, {ends[1]} at its lowest, {ends[2]}, {which}."
    found = [Finding("loss", sentence, is_fact=True)]
    verdict = run.verdict
    if verdict is not None and verdict.lr_collapse is not None:
        found.append(
            Finding(
                "collapse",
                f"At LR {figure(verdict.lr_collapse)} the loss was back above the corpus's unigram "
                "entropy: the model had become useless.",
            )
        )
    return found


def nonfinite_losses(
    run: Run, steps: pd.DataFrame, faults: pd.DataFrame | None, headroom: pd.DataFrame | None
) -> list[Finding]:
    """Which losses were inf or NaN, and whether that came from outside the model.

    Args:
        run: The run.
        steps: Its `steps`.
        faults: Its `faults`, or None: has the losses of a loop that is not gradlab's.
        headroom: Its `headroom`, or None: says at which steps all the model gave was finite.
    """
    bad = lost_losses(run, steps, faults)
    if not bad:
        return []
    sentence = (
        f"At {len(bad)} of {counted(len(steps), 'step')}, first at step {bad[0]}: {spans(bad)}"
    )
    if headroom is not None:
        there = headroom[(headroom["step"] == bad[0]) & (headroom["direction"] == "forward")]
        if len(there) and not not_finite(there).any():
            sentence += (
                f"; at step {bad[0]} every output in the model was finite: it came from the loss, "
                "or from its targets"
            )
    return [Finding("loss not finite", f"{sentence}.")]


def lost_losses(run: Run, steps: pd.DataFrame, faults: pd.DataFrame | None) -> list[int]:
    """The steps whose loss is known to have been inf or NaN."""
    bad = steps.loc[_is_lost(run, steps["loss"], faults), "step"].tolist()
    if faults is not None:
        bad = sorted({*bad, *faults.loc[faults["what"] == "loss", "step"]})
    return [int(step) for step in bad]


def _is_lost(run: Run, loss: "pd.Series[float]", faults: pd.DataFrame | None) -> "pd.Series[bool]":
    """Where a loss is known from `steps` to be inf or NaN.

    There a loss that was not noted reads as NaN too. The built-in loop notes all. Of another loop
    `faults` has those that were noted; in an older run, without one, NaN counts only if all before
    the first was noted and none after it.
    """
    missing = loss.isna()
    unknown = faults is not None or missing.all() or missing[: loss.last_valid_index()].any()
    if run.attached and unknown:
        return loss.abs() == np.inf
    return missing | (loss.abs() == np.inf)


def skipped_steps(
    steps: pd.DataFrame, overflows: pd.DataFrame | None, *, top: int
) -> list[Finding]:
    """Which steps the optimizer did not take, and what the loss scale did.

    The table has the streaks of skipped steps, in order; of more than `top` the first and the last.
    """
    scale = steps["loss_scale"].dropna()
    skipped = steps[steps["skipped"]]
    found = []
    if len(skipped):
        runs = streaks(skipped["step"])
        shown = runs if len(runs) <= top else [*runs[: top - 1], runs[-1]]
        share = f"{len(skipped)} of {counted(len(steps), 'step')}"
        some = "" if len(shown) == len(runs) else f"; {len(shown)} of {len(runs)} streaks below"
        found.append(
            Finding(
                "skipped steps",
                f"The optimizer skipped {share}, because a gradient was not finite: "
                f"{spans(skipped['step'])}{some}.",
                _streak_table(shown, steps, overflows),
            )
        )
    if scale.nunique() > 1:
        change = scale.diff().dropna()
        found.append(
            Finding(
                "loss scale",
                f"From {figure(scale.iloc[0])} to {figure(scale.iloc[-1])}: raised "
                f"{counted(int((change > 0).sum()), 'time')}, lowered "
                f"{counted(int((change < 0).sum()), 'time')}, between {figure(scale.min())} and "
                f"{figure(scale.max())}.",
                is_fact=True,
            )
        )
    return found


def _streak_table(
    shown: list[tuple[int, int]], steps: pd.DataFrame, overflows: pd.DataFrame | None
) -> pd.DataFrame:
    by_step = steps.set_index("step")
    producers: dict[int, str] = {}
    if overflows is not None:
        firsts = overflows.sort_values(["step", "order"]).drop_duplicates("step")
        producers = dict(zip(firsts["step"], firsts["producer"], strict=True))
    rows = [
        {
            "first": first,
            "last": last,
            "lr": by_step["lr"][first],
            "loss_scale": by_step["loss_scale"][first],
            "at_last": by_step["loss_scale"][last],
            "producer": producers.get(first),
        }
        for first, last in shown
    ]
    table = pd.DataFrame(rows)
    return table if producers else table.drop(columns="producer")
