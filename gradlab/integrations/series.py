"""Rows of gradlab's tables as what a logger shows: numbers, distributions and sentences by step."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradlab.runs.event_texts import Rows, fault_text, overflow_text

SECTIONS = (
    *("steps", "gradients", "grad_l1", "headroom", "overflows", "forecasts", "faults"),
    *("scales", "scores", "hidden", "entropy"),
    *("update_ratio", "eps_frac"),
)
"""What the tags of gradlab's own tables begin with, before the first slash."""


@dataclass(frozen=True)
class Shown:
    """What is shown of one table at one step, by tag.

    Attributes:
        step: The step.
        scalars: One number a tag.
        histograms: Finite values, one or more a tag.
        texts: A sentence a tag.
    """

    step: int
    scalars: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, list[float]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def shown(table: str, columns: Mapping[str, Sequence[Any]]) -> list[Shown]:
    """What to show of a table's rows, step by step in their order.

    | tag | what it is |
    |---|---|
    | `steps/loss`, `lr`, `loss_scale`, `skipped` | the columns |
    | `gradients/total_l2`, `gradients/nonfinite` | over all parameters |
    | `grad_l1/<param>` | grad_l1 |
    | `headroom/forward`, `headroom/backward` | the least of all sites, in bits |
    | `headroom/forward/layer_<n>`, … | the least of a layer |
    | `overflows/events`, `overflows/what` | how many at the step; which came first, in words |
    | `forecasts/steps_left` | to the overflow that is foreseen |
    | `faults/events`, `faults/what` | likewise, of what else was not as it should be |
    | `scales/<param>` | a distribution; the number where it is one |
    | `update_ratio/<param>`, `eps_frac/<param>` | update_rms / param_rms; eps_frac |
    | `scores/<bound>/<site>` | the largest of all heads |
    | `hidden/<column>/<site>` | the columns |
    | `entropy/<site>` | the mean of all heads |
    | `<table>/<column>` | of a table of the user's own: its numbers |

    Args:
        table: Name of the table, gradlab's or a user's own.
        columns: Its rows, `step` among them.
    """
    steps: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for values in zip(*columns.values(), strict=True):
        row = dict(zip(columns, values, strict=True))
        steps[row["step"]].append(row)
    found = []
    for step, rows in steps.items():
        one = Shown(step)
        if table in _TABLES:
            _TABLES[table](rows, one)
        else:
            _own(table, rows, one)
        found.append(one)
    return found


def _steps(rows: Rows, to: Shown) -> None:
    for name in ("loss", "lr", "loss_scale", "skipped"):
        if (value := rows[-1][name]) is not None:
            to.scalars[f"steps/{name}"] = float(value)


def _grad_norms(rows: Rows, to: Shown) -> None:
    to.scalars["gradients/total_l2"] = math.hypot(*(row["grad_l2"] for row in rows))
    to.scalars["gradients/nonfinite"] = float(sum(row["nonfinite"] for row in rows))
    for row in rows:
        to.scalars[f"grad_l1/{row['param']}"] = float(row["grad_l1"])


def _headroom(rows: Rows, to: Shown) -> None:
    for row in rows:
        tags = [f"headroom/{row['direction']}"]
        if row["layer"] is not None:
            tags.append(f"{tags[0]}/layer_{row['layer']}")
        bits = row["headroom_bits"]
        for tag in tags:
            if not math.isnan(bits):
                to.scalars[tag] = min(bits, to.scalars.get(tag, math.inf))


def _overflows(rows: Rows, to: Shown) -> None:
    to.scalars["overflows/events"] = float(len(rows))
    to.texts["overflows/what"] = overflow_text(rows)


def _faults(rows: Rows, to: Shown) -> None:
    to.scalars["faults/events"] = float(len(rows))
    to.texts["faults/what"] = fault_text(rows)


def _forecasts(rows: Rows, to: Shown) -> None:
    to.scalars["forecasts/steps_left"] = float(rows[-1]["overflow_step"] - to.step)


def _scales(rows: Rows, to: Shown) -> None:
    values = defaultdict(list)
    for row in rows:
        values[f"scales/{row['param']}"].append(float(row["value"]))
    for tag, entries in values.items():
        if len(entries) == 1:
            to.scalars[tag] = entries[0]
        elif finite := [value for value in entries if math.isfinite(value)]:
            to.histograms[tag] = finite


def _optimizer(rows: Rows, to: Shown) -> None:
    for row in rows:
        if row["param_rms"]:
            to.scalars[f"update_ratio/{row['param']}"] = row["update_rms"] / row["param_rms"]
        if row["eps_frac"] is not None and not math.isnan(row["eps_frac"]):
            to.scalars[f"eps_frac/{row['param']}"] = float(row["eps_frac"])


def _scores(rows: Rows, to: Shown) -> None:
    for row in rows:
        largest = [v for v in (row["max_abs"], row["max"]) if v is not None and not math.isnan(v)]
        if largest:
            tag = f"scores/{row['bound']}/{row['site']}"
            to.scalars[tag] = max(largest[0], to.scalars.get(tag, -math.inf))


def _entropy(rows: Rows, to: Shown) -> None:
    values = defaultdict(list)
    for row in rows:
        values[f"entropy/{row['site']}"].append(float(row["entropy"]))
    for tag, heads in values.items():
        to.scalars[tag] = sum(heads) / len(heads)


def _hidden(rows: Rows, to: Shown) -> None:
    for row in rows:
        for name, value in row.items():
            if isinstance(value, float) and not math.isnan(value):
                to.scalars[f"hidden/{name}/{row['site']}"] = value


def _own(table: str, rows: Rows, to: Shown) -> None:
    for row in rows:
        labels = [value for value in row.values() if isinstance(value, str)]
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                to.scalars["/".join([table, name, *labels])] = float(value)


_TABLES: Mapping[str, Callable[[Rows, Shown], None]] = {
    "steps": _steps,
    "grad_norms": _grad_norms,
    "headroom": _headroom,
    "overflows": _overflows,
    "forecasts": _forecasts,
    "faults": _faults,
    "scales": _scales,
    "optimizer": _optimizer,
    "scores": _scores,
    "hidden": _hidden,
    "entropy": _entropy,
}
