"""Going along with a run that another process writes: what it sees, as its rows come in."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.text import Text

from gradlab.cli.terminal.live import SECONDS_BETWEEN_LINES
from gradlab.errors import GradlabWarning

if TYPE_CHECKING:
    from rich.console import Console

    from gradlab.runs.reader import Run

_EVENTS_SHOWN = 5
"""Events of one look that have a line each; of more, the first, and how many others."""

_LATE = 2000
"""Steps within which an event may come later than the rows of its step."""

_LAST = (1 << 62) - 1


@dataclass(frozen=True)
class Seen:
    """What came in since the look before.

    Attributes:
        step: The last recorded step.
        now: How it went, in a line.
        events: What happened on the way, a line each.
    """

    step: int
    now: str
    events: Sequence[str]


def follow(
    folder: Path,
    console: "Console",
    *,
    wait: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> "Run":
    """Show what a run records until it ends, however it ends; one that is not there is waited for.

    So is one whose folder is there and holds nothing yet.

    On a terminal its last step is a line that changes; elsewhere it is printed every few seconds.
    Events are lines in both.

    Args:
        folder: The run's folder, or its `run.json`.
        console: Where.
        wait: Seconds between two looks.
        sleep: Waits that long.
        clock: Seconds, from any zero.

    Returns:
        The run, which nobody writes any more.

    Raises:
        GradlabError: There is no run, or it can no longer be read.
    """
    if not _is_there(folder):
        console.print(f"There is no run {folder} yet: waiting for it. Ctrl-C ends.", soft_wrap=True)
        while not _is_there(folder):
            sleep(wait)
    last, printed = -1, -SECONDS_BETWEEN_LINES
    told: set[str] = set()
    with _line(console) as show:
        while True:
            run = _load(folder)
            if last < 0 and run.status != "running":
                return run
            if seen := look(run, after=last, told=told):
                for event in seen.events:
                    console.print(event, soft_wrap=True)
                show(seen.now)
                if not console.is_terminal and clock() - printed >= SECONDS_BETWEEN_LINES:
                    console.print(seen.now, soft_wrap=True)
                    printed = clock()
                last = seen.step
            if run.status != "running":
                return run
            sleep(wait)


def _is_there(named: Path) -> bool:
    """Whether there is something to read, be it no run, which is said then."""
    from gradlab.runs.document import RUN_FILE
    from gradlab.runs.lock import is_free

    folder = named.parent if named.name == RUN_FILE else named
    try:
        return not is_free(folder)
    except FileNotFoundError:
        return False
    except OSError:  # a file, or a folder that nobody may look into: reading it says so
        return True


def look(run: "Run", *, after: int, told: set[str]) -> Seen | None:
    """What a run has recorded after a step; None if nothing.

    Args:
        run: The run.
        after: The step.
        told: Events that have been told; grows.

    Raises:
        GradlabError: A table is damaged.
    """
    steps = _rows(run, "steps", after)
    if not steps["step"]:
        return None
    last = {name: values[-1] for name, values in steps.items()}
    words = [f"step {last['step']}"]
    for name, label in (("lr", "lr"), ("loss", "loss"), ("loss_scale", "loss scale")):
        if last[name] is not None and last[name] == last[name]:
            form = "g" if name == "loss_scale" else ".4g"
            words.append(f"{label} {last[name]:{form}}")
    words += _headroom(run, last["step"])
    events = _events(run, after - _LATE)
    for step, skipped in zip(steps["step"], steps["skipped"], strict=True):
        if skipped and step not in events:
            events[step] = [f"step {step}: skipped, as a gradient was not finite"]
    lines = [line for step in sorted(events) for line in events[step] if line not in told]
    told.update(lines)
    if len(lines) > _EVENTS_SHOWN:
        lines[_EVENTS_SHOWN:] = [f"and {len(lines) - _EVENTS_SHOWN} more events"]
    return Seen(last["step"], "  ".join(words), lines)


def _rows(run: "Run", table: str, after: int) -> Mapping[str, Sequence[Any]]:
    rows = run.table(table, between=(max(after + 1, 0), _LAST))
    rows = rows.astype(object).where(rows.notna(), None)
    return {str(name): rows[name].tolist() for name in rows.columns}


def _headroom(run: "Run", step: int) -> Iterator[str]:
    """The least headroom of the newest step that has one."""
    from gradlab.analyses.headroom import that_can_overflow

    if "headroom" not in run.tables:
        return
    rows = that_can_overflow(run.table("headroom", between=(max(step - 1000, 0), _LAST)))
    rows = rows[(rows["step"] == rows["step"].max()) & rows["headroom_bits"].notna()]
    if rows.empty:
        return
    least = rows.iloc[int(rows["headroom_bits"].to_numpy().argmin())]
    bits, site = least["headroom_bits"], least["site"]
    yield f"overflow at {site}" if bits == float("-inf") else f"headroom {bits:.1f} bits at {site}"


def _events(run: "Run", after: int) -> dict[int, list[str]]:
    """What happened at each step, a line a table."""
    from gradlab.runs.event_texts import EVENT_TEXTS

    found: dict[int, list[str]] = {}
    for table, text in EVENT_TEXTS.items():
        if table in run.tables:
            columns = _rows(run, table, after)
            every = [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
            for step, rows in groupby(every, key=lambda row: int(row["step"])):
                found.setdefault(step, []).append(text(list(rows)))
    return found


def _load(folder: Path) -> "Run":
    from gradlab.runs.reader import load

    with warnings.catch_warnings():  # of rows that are missing `inspect` warns, once
        warnings.simplefilter("ignore", GradlabWarning)
        return load(folder)


@contextmanager
def _line(console: "Console") -> Iterator[Callable[[str], None]]:
    """A line that changes, on a terminal; elsewhere nothing."""
    if not console.is_terminal:
        yield lambda _: None
        return
    with Live(console=console, transient=True, refresh_per_second=4) as live:
        yield lambda line: live.update(Text(line, overflow="ellipsis", no_wrap=True))
