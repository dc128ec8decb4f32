"""The first overflow of a run and what led to it, or where else it was first not finite."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from gradlab.analyses.ending import CAUSES
from gradlab.analyses.finding import (
    Finding,
    bits,
    counted,
    figure,
    made_by,
    on_rank,
    passed,
    place,
    spans,
)
from gradlab.analyses.findings_faults import BETWEEN, came_from
from gradlab.analyses.headroom import not_finite
from gradlab.runs.verdict import NOT_LOOKED_AT, Verdict

_BEFORE, _AFTER = 3, 1
"""Sites around the one that overflowed, in execution order."""
_BACK = (50, 20, 10, 5, 1, 0)
"""How many steps before the overflow to look; where that one was not recorded, one before it."""


def overflow_findings(
    steps: pd.DataFrame,
    overflows: pd.DataFrame,
    headroom: pd.DataFrame | None,
    verdict: Verdict | None = None,
    faults: pd.DataFrame | None = None,
    *,
    exact: bool = False,
) -> list[Finding]:
    """The overflow that broke the run, or else its first one, and what led to it.

    Only FP16 overflows: where nothing did, the first place that was not finite is told instead.

    Args:
        steps: The run's `steps` table.
        overflows: Its `overflows`.
        headroom: Its `headroom`, or None.
        verdict: Says at which step the run broke.
        faults: Its `faults`, or None: says what it came from.
        exact: Whether every step was looked at, not only those with rows.
    """
    if overflows.empty:
        return _none_at_all(headroom, faults, exact=exact)
    event, led = overflow_of(overflows, verdict)
    found = [_first(event, steps, overflows["step"], verdict, led=led)]
    if headroom is not None and led:
        found += _lead_up(event, steps, headroom)
    return found


def overflow_of(overflows: pd.DataFrame, verdict: Verdict | None) -> tuple[Mapping[Any, Any], bool]:
    """The overflow that a run is told by, and whether it may have led to the run's break.

    Of a run that broke it is the first one of the streak that broke it, or where the loss rose, of
    that step if it was not skipped, which changes nothing; without one, the run's first overflow,
    which led to nothing. Of a run that did not break it is the first one too.

    Args:
        overflows: The run's `overflows`, not empty.
        verdict: The run's verdict.
    """
    events = overflows.sort_values(["step", "order"], kind="stable")
    if verdict is None or not verdict.broke or verdict.step is None:
        return events.iloc[0].to_dict(), True
    end = math.inf if verdict.detected_step is None else verdict.detected_step
    in_streak = events[events["step"].between(verdict.step, end)]
    if verdict.reason == "loss_rise":
        in_streak = in_streak[~in_streak["skipped"].astype(bool)]
    led = len(in_streak) > 0
    return (in_streak if led else events).iloc[0].to_dict(), led


def _none_at_all(
    headroom: pd.DataFrame | None, faults: pd.DataFrame | None, *, exact: bool
) -> list[Finding]:
    if headroom is None or headroom.empty:
        return []
    narrow = bool((headroom["dtype"] == "float16").any())
    lost = headroom[not_finite(headroom)].sort_values("step", kind="stable")
    sites = _at_sites(faults)
    if len(sites) and (lost.empty or sites["step"].iloc[0] <= lost["step"].iloc[0]):
        lost = sites
    if len(lost):
        looks = headroom["step"].iloc[:0] if exact else headroom["step"]
        return [_not_finite(lost.iloc[0], looks, narrow=narrow)]
    if not narrow:
        return [Finding("overflow", "None: no tensor that was looked at is FP16.", is_fact=True)]
    none = "None: every FP16 tensor that was looked at stayed finite."
    return [Finding("overflow", none, is_fact=True)]


def _at_sites(faults: pd.DataFrame | None) -> pd.DataFrame:
    """The faults that say where a step's first tensor was that was not finite, as in `headroom`."""
    if faults is None:
        return pd.DataFrame()
    is_site = faults["what"].isin(["activation", "gradient"]) & faults["direction"].notna()
    sites = faults[is_site & faults["kind"].isin(["inf", "nan", "both"])]
    return sites.rename(columns={"name": "site", "count": "nonfinite"})


def _not_finite(row: "pd.Series[Any]", looks: "pd.Series[int]", *, narrow: bool) -> Finding:
    """Where it began: the first row, in execution order, of the first such step."""
    step = row["step"]
    count = 0 if pd.isna(row["nonfinite"]) else int(row["nonfinite"])
    entries = f"{count} {'entry' if count == 1 else 'entries'}"
    if row.get("producer") == "the loss":
        held = f"was not finite{on_rank(row)}{f' in {entries}' if count else ''}"
        sentence = from_the_loss(row["site"], step, held, row.get("kind"))
    else:
        sentence = f"At {passed(row)}{on_rank(row)}" + (f": {entries}" if count else "")
        sentence += came_from(row.to_dict()) if "producer" in row else ""
        sentence += made_by(row.to_dict())
    if not narrow:
        sentence += "; no tensor that was looked at is FP16, so it is no overflow event"
    before = looks[looks < step].max()
    if before < step - 1:
        sentence += f"; at step {before:.0f}, the last looked at before, all was finite"
    return Finding("first not finite", f"{sentence}.")


def _first(
    event: Mapping[Any, Any],
    steps: pd.DataFrame,
    all_steps: "pd.Series[int]",
    verdict: Verdict | None,
    *,
    led: bool,
) -> Finding:
    at = steps[steps["step"] == event["step"]]
    facts = [f"step {event['step']}{on_rank(event)}"]
    if len(at) and pd.notna(at["lr"].iloc[0]):
        facts.append(f"LR {figure(at['lr'].iloc[0])}")
    if pd.notna(event["loss_scale"]) and event["loss_scale"] != 1:
        facts.append(f"loss scale {figure(event['loss_scale'])}")
    if event["skipped"]:
        facts.append("skipped")
    producer = event["producer"] if pd.notna(event["producer"]) else _name(event)
    if producer == "the loss":
        sentence = from_the_loss(
            event["site"],
            event["step"],
            f"was not finite{on_rank(event)}: {_kind(event)}",
            event["kind"],
        )
    elif (cause := came_from(event)) and not producer.endswith(BETWEEN):
        sentence = f"{_name(event)} ({', '.join(facts)}): {_kind(event)}{cause}"
    else:
        sentence = f"{producer} ({', '.join(facts)}): {_kind(event)}"
    sentence += made_by(event)
    broke = verdict.step if verdict is not None and verdict.broke else None
    before = all_steps[all_steps < event["step"]].unique().tolist()
    after = all_steps[all_steps > event["step"]].nunique()
    if before:
        sentence += (
            f"; before the break, {counted(len(before), 'step')} overflowed: {spans(before)}"
        )
    elif after and (broke is None or not led):
        sentence += f"; {counted(after, 'later step')} overflowed too"
    if verdict is not None and broke is not None:
        sentence = _of_the_break(sentence, verdict, at_break=broke == event["step"], led=led)
    return Finding("first overflow", f"{sentence}.")


def _of_the_break(sentence: str, verdict: Verdict, *, at_break: bool, led: bool) -> str:
    """What an overflow's sentence has to do with the break, unless it is the break's own."""
    unseen = verdict.first_overflow == NOT_LOOKED_AT
    if led:
        was = NOT_LOOKED_AT if unseen else "without one"
        began = f"; step {verdict.step}, where the break began, was {was}"
        return sentence if at_break else sentence + began
    if unseen:
        told = f"Step {verdict.step}, where the run broke, was {NOT_LOOKED_AT}"
    else:
        told = f"None led to the break at step {verdict.step}: {CAUSES[verdict.reason]}"
    return f"{told}. The run's first: {sentence}"


def from_the_loss(site: str, step: int, held: str, kind: str | None) -> str:
    """That a gradient was not finite as it came to the model's output."""
    sentence = (
        f"From the loss, outside the model: every output was finite, and at step {step} the "
        f"gradient that arrived at the output of {site} {held}"
    )
    if kind == "nan":  # inf is another matter: a logarithm or a root of 0
        sentence += (
            ". Where targets are missing, choose the entries before computing with them: 0 times "
            "NaN is NaN"
        )
    return sentence


def _kind(event: Mapping[Any, Any]) -> str:
    what = {
        "inf": "infinite",
        "nan": "NaN",
        "both": "infinite or NaN",
        "cast": "infinite, cast to FP16 from a wider type in which they were finite",
    }[event["kind"]]
    if pd.isna(event["count"]):
        return f"entries were {what}"
    was = "was" if event["count"] == 1 else "were"
    return f"{int(event['count'])} of {event['numel']} entries {was} {what}"


def _name(event: Mapping[Any, Any]) -> str:
    return place(event["site"], event["direction"])


def _lead_up(
    event: Mapping[Any, Any], steps: pd.DataFrame, headroom: pd.DataFrame
) -> list[Finding]:
    """The headroom of the site and of its neighbours, with the learning rate and the loss."""
    backward = headroom["direction"] == "backward"
    names = headroom["site"].where(~backward, headroom["site"] + " gradient")
    rows = headroom.assign(name=names)
    site, last = _name(event), int(event["step"])
    order = rows.loc[rows["step"] == last, "name"].drop_duplicates().tolist()
    if site not in order:
        return []
    at = order.index(site)
    around = order[max(0, at - _BEFORE) : at + 1 + _AFTER]
    recorded = rows.loc[rows["name"] == site, "step"]
    until = [recorded[recorded <= last - back] for back in _BACK]
    shown = sorted({int(steps_until.max()) for steps_until in until if len(steps_until)})
    table = rows[rows["name"].isin(around) & rows["step"].isin(shown)]
    by_step = table.drop_duplicates(["name", "step"]).set_index(["name", "step"])["headroom_bits"]
    wide = by_step.unstack("name").reindex(index=shown, columns=around)
    course = _course(steps, shown)
    way = _way(site, wide[site].to_dict(), course)
    return [Finding("what led to it", way, course.join(wide).reset_index())]


def _course(steps: pd.DataFrame, shown: list[int]) -> pd.DataFrame:
    """Learning rate, loss and loss scale, as far as recorded, at some steps."""
    course = steps.set_index("step")[["lr", "loss", "loss_scale"]].reindex(shown)
    if (course["loss_scale"].dropna() == 1).all():
        course = course.drop(columns="loss_scale")
    return course.dropna(axis="columns", how="all")


def _way(site: str, headroom: Mapping[Any, float], course: pd.DataFrame) -> str:
    """From the first of these steps to the last before the overflow."""
    left = {step: value for step, value in headroom.items() if value > -math.inf}
    if not left:
        return f"{site} was not recorded before it overflowed; below, bits of headroom."
    (a, early), (b, late) = next(iter(left.items())), list(left.items())[-1]
    if a == b:
        return f"{site} had {bits(early)} bits left at step {a}; below, bits of headroom."
    way = f"{site} had {bits(early)} bits left at step {a} and {bits(late)} at step {b}"
    changes = []
    for column, what in {"lr": "LR", "loss_scale": "loss scale"}.items():
        if column in course:
            then, now = course[column].loc[[a, b]]
            if then != now and not math.isnan(then + now):
                changes.append(f"the {what} went from {figure(then)} to {figure(now)}")
    if changes:
        way += f", while {' and '.join(changes)}"
    return f"{way}; below, bits of headroom."
