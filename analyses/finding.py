"""What a finding is, and how its numbers are written."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True, eq=False)
class Finding:
    """One thing that happened in a run.

    Attributes:
        what: A heading of a few words.
        sentence: What was found, for a person.
        table: The numbers behind it, if a sentence cannot hold them.
        is_fact: Whether it says how a run went, as every run's does, rather than that something
            was out of the ordinary.
    """

    what: str
    sentence: str
    table: pd.DataFrame | None = None
    is_fact: bool = False


def figure(value: float) -> str:
    """A number in a sentence or a table: three digits, whole numbers whole, a real minus sign.

    >>> figure(65536.0), figure(0.17499), figure(-3.21), figure(float("-inf"))
    ('65536', '0.175', '−3.21', '−inf')
    """
    if math.isnan(value):
        return "–"
    if math.isfinite(value) and value == int(value) and abs(value) < 1e7:
        text = str(int(value))
    else:
        text = f"{value:.3g}"
    return text.replace("-", "−")


def bits(value: float) -> str:
    """A headroom: one decimal.

    >>> bits(1.0), bits(-0.26), bits(float("nan"))
    ('1.0', '−0.3', '–')
    """
    if not math.isfinite(value):
        return figure(value)
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "−")  # −0.04 is 0.0, not −0.0


def counted(count: int, noun: str) -> str:
    """A count and its noun.

    >>> counted(1, "step"), counted(3, "step")
    ('1 step', '3 steps')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names in a sentence; of more than `most` the first ones, and how many more.

    >>> listed(["a", "b"]), listed(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 more')
    """
    more = len(names) - most
    shown = ", ".join(names[:most])
    return f"{shown} and {more} more" if more > 0 else shown


def spans(steps: Iterable[int], most: int = 5) -> str:
    """Steps as ranges; of more than `most` ranges the first ones and the last.

    >>> spans([0, 1, 2, 7]), spans([0, 2, 4, 6], most=3)
    ('0–2, 7', '0, 2, …, 6')
    """
    texts = [str(a) if a == b else f"{a}–{b}" for a, b in streaks(steps)]
    if len(texts) > most:
        texts = [*texts[: most - 1], "…", texts[-1]]
    return ", ".join(texts)


def during(first: int, last: int) -> str:
    """A stretch of steps, both ends included.

    >>> during(2, 2), during(2, 5)
    ('step 2', 'steps 2–5')
    """
    return f"step {first}" if first == last else f"steps {first}–{last}"


def streaks(steps: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive steps.

    >>> streaks([3, 4, 5, 9])
    [(3, 5), (9, 9)]
    """
    found: list[tuple[int, int]] = []
    for step in sorted(steps):
        if found and step == found[-1][1] + 1:
            found[-1] = (found[-1][0], step)
        else:
            found.append((step, step))
    return found


def passed(row: "pd.Series[Any]") -> str:
    """Where and when a row of `headroom` was seen: `blocks.1.fc1 (forward), step 2`."""
    return f"{row['site']} ({row['direction']}), step {row['step']}"


def on_rank(row: "Mapping[Any, Any] | pd.Series[Any]") -> str:
    """Which of several processes a row is of, to be put behind its step; of the first, nothing.

    >>> on_rank({"rank": 1}), on_rank({"rank": 0}), on_rank({})
    (' on rank 1', '', '')
    """
    rank = row.get("rank")
    return "" if pd.isna(rank) or not rank else f" on rank {int(rank)}"


def place(site: str, direction: str) -> str:
    """A site as the verdict names it: said to be the gradient where it is."""
    return site if direction == "forward" else f"{site} gradient"


def made_by(row: Mapping[Any, Any]) -> str:
    """The operation of a row of `overflows` or `faults`, to be put behind what it made; or nothing.

    >>> made_by({"function": "torch.exp(float16 (2, 8))", "source": "model.py:12"})
    '; made by torch.exp(float16 (2, 8)), called at model.py:12'
    >>> made_by({"function": None, "source": None})
    ''
    """
    function, source = row.get("function"), row.get("source")
    if not isinstance(function, str):
        return ""
    return f"; made by {function}" + (f", called at {source}" if isinstance(source, str) else "")
