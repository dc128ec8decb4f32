"""The commands that make runs again, and what else has to be the same."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from gradlab.runs.command import typed
from gradlab.runs.reader import Run
from gradlab.runs.study import study_commands
from gradlab.settings import train_line

_TIMED = ("gradlab ablate", "gradlab variants")
"""Commands that measure how many steps take equal time, unless told otherwise."""


_SAME = (
    "The same command gives the same losses to the bit with the same versions, text and machine, "
    "and with as many threads (OMP_NUM_THREADS; a study gives each of its runs one); "
    "python-stdlib is the source of the Python that runs it."
)


@dataclass(frozen=True)
class Repeat:
    """How to repeat runs.

    Attributes:
        lines: Commands.
        without: A sentence about the runs that no command makes.
        same: What else has to be the same; nothing where there is no command.
        facts: What the runs were made with and on; several values where they differ.
        version: Of gradlab.
        page: The command of the page itself; empty where runs in memory are on it.
    """

    lines: Sequence[str]
    without: Sequence[str]
    same: str
    facts: Mapping[str, Iterable[str]]
    version: str
    page: str


def repeat(runs: Mapping[str, Run], sources: Sequence[str]) -> Repeat:
    """Commands, versions, text and machine of the runs, and the command of the page itself."""
    own = {name: run for name, run in runs.items() if not run.attached}
    commands = dict(zip(own, commands_for(own.values()), strict=True))
    lines = list(dict.fromkeys(line for line in commands.values() if line is not None))
    without = []
    if left := [name for name, line in commands.items() if line is None]:
        without.append(f"No options describe {', '.join(left)}: what was asked for is in run.json.")
    if attached := [name for name in runs if name not in own]:
        without.append(
            f"Recorded by gradlab.attach in a loop of the user's own: {', '.join(attached)}. No "
            "command makes them again; whether their loop repeats its losses is up to that loop."
        )
    same = _SAME if lines else ""
    if any(_is_timed(line) for line in lines):
        same += " Where runs take equal time, the steps that fit in it are measured again."
    page = typed("gradlab", "report", *sources, "--out", "report.html")
    page = "" if any(run.path is None for run in runs.values()) else page
    gradlab = version("gradlab-diagnostics")
    return Repeat(lines, without, same, _facts(runs.values()), gradlab, page)


def _is_timed(line: str) -> bool:
    return "--equal time" in line or (line.startswith(_TIMED) and "--equal steps" not in line)


def _facts(runs: Iterable[Run]) -> dict[str, dict[str, None]]:
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        facts = dict(run.info.get("versions") or {})
        if corpus := run.info.get("corpus"):
            facts["text"] = f"{corpus.get('name')}, SHA-256 {corpus.get('sha256')}"
        if device := run.info.get("device"):
            facts["device"] = ", ".join(str(device[n]) for n in ("type", "name") if device.get(n))
            if threads := device.get("threads"):
                facts["threads"] = str(threads)
        for name, value in facts.items():
            found.setdefault(name, {})[str(value)] = None
    return found


def commands_for(runs: Iterable[Run]) -> list[str | None]:
    """The command that makes each run: of its study where one made it, else `gradlab train`.

    A study's command makes its other runs as well. A replay begins in the middle of its run, which
    no command of these does.
    """
    runs = list(runs)
    commands = [command.line if command else None for command in study_commands(runs)]
    return [
        command or (None if run.info.get("replay") else train_line(run.config))
        for run, command in zip(runs, commands, strict=True)
    ]
