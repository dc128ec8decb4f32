"""The commands that make runs again, and what else has to be the same."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from gradlab.cli.command import command_of
from gradlab.cli.html import Markup, element, joined
from gradlab.config import BASE_VARIANT, RunConfig
from gradlab.errors import GradlabError
from gradlab.runs.reader import Run
from gradlab.runs.study import study_commands

_TIMED = ("gradlab ablate", "gradlab variants")
"""Commands that measure how many steps take equal time, unless told otherwise."""


def repeat_section(runs: Mapping[str, Run], paths: Sequence[Path]) -> Markup:
    """Commands, versions, text and machine of the runs, and the command of the page itself."""
    parts = []
    own = {name: run for name, run in runs.items() if not run.attached}
    commands = dict(zip(own, commands_for(own.values()), strict=True))
    lines = list(dict.fromkeys(line for line in commands.values() if line is not None))
    if lines:
        parts.append(element("pre", "\n".join(lines), tabindex="0"))
    if left := [name for name, line in commands.items() if line is None]:
        sentence = f"No options describe {', '.join(left)}: what was asked for is in run.json."
        parts.append(element("p", sentence))
    attached = [name for name, run in runs.items() if run.attached]
    if attached:
        sentence = f"Recorded by gradlab.attach in a loop of the user's own: {', '.join(attached)}."
        parts.append(element("p", sentence))
    same = (
        "The same command gives the same losses to the bit with the same versions, text and "
        "machine; python-stdlib is the source of the Python that runs it."
    )
    if any(line.startswith(_TIMED) and "--equal steps" not in line for line in lines):
        same += " Where runs take equal time, the steps that fit in it are measured again."
    words = ["gradlab", "report", *(str(path) for path in paths), "--out", "report.html"]
    parts += [
        element("p", same, class_="quiet"),
        _facts(runs.values()),
        element("p", f"This page, by gradlab {version('gradlab-diagnostics')}:", class_="quiet"),
        element("pre", shlex.join(words), tabindex="0"),
    ]
    return joined(parts, "\n")


def _facts(runs: Iterable[Run]) -> Markup:
    """What the runs were made with and on; several values where they differ."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        facts = dict(run.info.get("versions") or {})
        if corpus := run.info.get("corpus"):
            facts["text"] = f"{corpus.get('name')}, SHA-256 {corpus.get('sha256')}"
        if device := run.info.get("device"):
            facts["device"] = ", ".join(str(device[n]) for n in ("type", "name") if device.get(n))
        for name, value in facts.items():
            found.setdefault(name, {})[str(value)] = None
    items = [
        piece
        for name, values in found.items()
        for piece in (element("dt", name), element("dd", "; ".join(values)))
    ]
    return element("dl", *items)


def commands_for(runs: Iterable[Run]) -> list[str | None]:
    """The command that makes each run: of its study where one made it, else `gradlab train`.

    A study's command makes its other runs as well. One of `gradlab train` is given only if
    planning it makes the run's config, to the last field; None where no options describe it.
    """
    runs = list(runs)
    return [
        _train(run.config) if study is None else study.line
        for run, study in zip(runs, study_commands(runs), strict=True)
    ]


def _train(config: RunConfig) -> str | None:
    from gradlab.cli.command_options import TrainOptions
    from gradlab.cli.config_file import run_options
    from gradlab.cli.plan import plan_train

    try:
        options = TrainOptions(**run_options(config))
        planned = plan_train(options)
    except GradlabError:  # an architecture or size of the user's own
        return None
    same = planned == config.replace(variant=BASE_VARIANT)
    return command_of("train", options).line if same else None
