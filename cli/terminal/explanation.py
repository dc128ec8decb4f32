"""Trying what would have prevented a break under the eyes of its user, then what came out."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gradlab.cli.terminal.live import watching
from gradlab.cli.terminal.screen import output
from gradlab.pages.screen import Screen, Words, complain, results_table
from gradlab.runs.command import Command, typed

if TYPE_CHECKING:
    from gradlab.replays.explain import Explanation


def make_explanation(run: Path, out: Path | None, **asked: Any) -> None:
    """Explain a run's break, and print the table and the sentence.

    Args:
        run: The run's folder.
        out: That of the explanation; one in the run's if None.
        asked: As `gradlab.explain` takes it.

    Raises:
        GradlabError: As of `gradlab.explain`.
        typer.Exit: With status 1 if repetitions failed, 130 after Ctrl-C.
    """
    from gradlab.replays.explain import explain, explanation_folder, written

    place = out or explanation_folder(run)
    try:
        with watching(Screen(stderr=True)) as tell:
            made = explain(run, out=place, progress=tell, **asked)
    except KeyboardInterrupt:
        table = written(place)
        if table:
            output().print(f"What is known so far: {table}", soft_wrap=True)
        early = "" if table else " before anything was known"
        complain(f"interrupted{early}: go on by `{_line(run, out, asked)}`.")
        raise typer.Exit(130) from None
    show(made)
    for name, reason in made.told.items():
        complain(f"{name}: {reason}")
    if made.told:
        raise typer.Exit(1)


def _line(run: Path, out: Path | None, asked: Mapping[str, Any]) -> str:
    """What one types for it."""
    options = {"from": asked["from_step"], "change": asked["changes"], "out": out}
    options |= {name: asked[name] for name in ("repetitions", "beyond", "jobs")}
    given = {name: value for name, value in options.items() if value not in (None, [])}
    return f"{Command('replay', {'explain': True, **given}).line} {typed(run)}"


def show(made: "Explanation") -> None:
    """Print an explanation: a row a change, how often it removed the break, and when it came."""
    table = results_table()
    for heading in ("change", "what", "removes the break", "up to", "else it came at"):
        table.add_column(heading)
    for row in made.rows:
        first, last = row["broke_first"], row["broke_last"]
        when = "" if first is None else f"step {first}" if first == last else f"{first} to {last}"
        counts = f"{row['removed']} of {row['repetitions']}"
        far = "" if row.get("followed_to") is None else f"step {row['followed_to']}"
        table.add_row(Words(row["change"]), Words(row["what"]), counts, far, when)
    output().print(table)
    output().print(made.sentence)
    output().print(f"In {made.folder}: {', '.join(made.files)}", soft_wrap=True)
