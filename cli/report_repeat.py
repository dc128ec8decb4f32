"""The commands that make runs again, and what else has to be the same."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gradlab.cli.html import Markup, element, joined
from gradlab.cli.report_groups import Group
from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.runs.reader import Run


def repeat_section(
    runs: Mapping[str, Run], compared: Sequence[Group], paths: Sequence[Path]
) -> Markup:
    """Commands, versions, text and machine of the runs, and the command of the page itself."""
    parts = []
    for group in compared:
        configs = {name: run.config for name, run in group.runs.items() if not run.attached}
        commands = commands_for(list(configs.values()))
        if commands:
            parts.append(element("pre", "\n".join(commands), tabindex="0"))
        left = [name for name, config in configs.items() if not commands_for([config])]
        if left:
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


def commands_for(configs: Sequence[RunConfig]) -> list[str]:
    """Commands that make these runs: one for a whole study where there is one, else one a run.

    A command is given only if planning it makes these configs, to the last field; a study's may
    make further runs. A run that no options describe has none.
    """
    unique = list(dict.fromkeys(configs))
    if not unique:
        return []
    whole = _stability(unique) or _grad_norms(unique)
    if whole is not None:
        return [whole]
    found = (_train(config) for config in unique)
    return [command for command in found if command is not None]


def _stability(configs: Sequence[RunConfig]) -> str | None:
    from gradlab.cli.command_options import StabilityOptions
    from gradlab.cli.plan import plan_stability

    if any(config.schedule.kind != "ramp" for config in configs):
        return None
    values = {
        "size": _each(configs, "size"),
        "lr_step": list(dict.fromkeys(config.schedule.lr_step for config in configs)),
        **_study_values(configs),
    }
    caps = {config.steps for config in configs}
    for steps in (None, *caps) if len(caps) == 1 else (None,):
        command = _checked("run-stability", StabilityOptions, {**values, "steps": steps},
                           plan_stability, configs)  # fmt: skip
        if command is not None:
            return command
    return None


def _grad_norms(configs: Sequence[RunConfig]) -> str | None:
    from gradlab.cli.command_options import GradNormsOptions
    from gradlab.cli.plan import plan_grad_norms

    first = configs[0]
    if first.schedule.kind != "constant" or "grad_norms" not in first.record.probes:
        return None
    values = {
        "size": first.size,
        "lr": first.schedule.lr,
        "warmup": first.schedule.warmup_steps,
        "steps": first.steps,
        **_study_values(configs),
    }
    return _checked("grad-norms", GradNormsOptions, values, plan_grad_norms, configs)


def _train(config: RunConfig) -> str | None:
    from gradlab.cli.command_options import TrainOptions
    from gradlab.cli.config_file import run_options
    from gradlab.cli.plan import plan_train

    try:
        values = run_options(config)
    except GradlabError:  # an architecture or size of the user's own
        return None
    return _checked("train", TrainOptions, values, lambda options: [plan_train(options)], [config])


def _study_values(configs: Sequence[RunConfig]) -> dict[str, Any]:
    """What a study's runs share, and their architectures and seeds."""
    from gradlab.cli.config_file import run_options

    try:
        shared = run_options(configs[0])
    except GradlabError:
        shared = {}
    own = ("arch", "size", "seed", "steps", "width", "schedule", "lr", "lr_step", "warmup")
    return {
        **{name: value for name, value in shared.items() if name not in own},
        "arch": _each(configs, "arch"),
        "seeds": 1 + max(config.seed for config in configs),
    }


def _each(configs: Sequence[RunConfig], name: str) -> list[Any]:
    return list(dict.fromkeys(getattr(config, name) for config in configs))


def _checked(
    command: str,
    options: type[Any],
    values: Mapping[str, Any],
    plan: Any,
    configs: Sequence[RunConfig],
) -> str | None:
    """The command, if its plan has all the configs."""
    known = {field.name: field for field in fields(options)}
    values = {name: value for name, value in values.items() if name in known}
    try:
        planned = set(plan(options(**values)))
    except GradlabError:
        return None
    if not planned.issuperset(configs):
        return None
    words = ["gradlab", command]
    for name, value in values.items():
        words += _words(known[name], value)
    return shlex.join(words)


def _words(field: Field[Any], value: Any) -> list[str]:
    """An option on the command line; nothing if it has its default."""
    named = field.name in ("arch", "size", "seeds", "lr_step", "lr")
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if value is None or (value == default and not named):
        return []
    option = f"--{field.name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option if value else f"--no-{option[2:]}"]
    if isinstance(value, list):
        return [word for item in value for word in (option, _word(item))]
    return [option, _word(value)]


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
