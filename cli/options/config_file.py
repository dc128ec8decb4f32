"""Options from a file: a TOML document of them, or the `run.json` of a run."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from gradlab.errors import GradlabError, unknown
from gradlab.paths import as_path

_LARGEST = 1 << 20
"""Bytes of a file of options that are read at most."""


def apply_config_file(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make a file's values the command's defaults, so that the command line wins over them.

    The callback of `--config`, which is read before the other options.

    Raises:
        GradlabError: There is no such file, it is not TOML, or has a key that is no option, or a
            value that its option does not take.
    """
    if path is None or ctx.resilient_parsing:
        return path
    from gradlab.runs.document import RUN_FILE  # only where it is needed: --help is quick

    path = as_path(path)
    options = {str(param.name): param for param in ctx.command.params if param.expose_value}
    if path.is_dir() or path.name == RUN_FILE:
        found = {key: value for key, value in _run_values(path).items() if key in options}
    elif path.suffix == ".json":
        raise GradlabError(f"{path} is neither a TOML file of options nor a run's {RUN_FILE}.")
    else:
        found = _toml_values(path, ctx, options)
    # An option that is repeatable on the command line takes a list, or a single value, here.
    ctx.default_map = {
        name: [value] if _is_repeatable(options[name]) and not isinstance(value, list) else value
        for name, value in found.items()
    }
    return path


def _toml_values(path: Path, ctx: typer.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    from gradlab.runs.files import read_regular  # only where it is needed: --help is quick

    try:
        document = tomllib.loads(read_regular(path, at_most=_LARGEST).decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise GradlabError(f"the config file {path} cannot be read: it is not there.") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError among them
        raise GradlabError(f"{path} is not a TOML file: {error}.") from None
    values: dict[str, Any] = {}
    for key, value in document.items():
        name = key.replace("-", "_")
        if name not in options:
            raise GradlabError(f"{path}: {unknown('option', key, options)}")
        if isinstance(value, dict):
            raise GradlabError(f"{path}: {key} is a table, where an option's value should be.")
        given = value if isinstance(value, list) else [value]
        is_switch = bool(getattr(options[name], "is_flag", False))
        if any(isinstance(one, bool) != is_switch for one in given):
            if is_switch:
                raise GradlabError(f"{path}: {key} is a switch: it should be true or false.")
            raise GradlabError(f"{path}: {key} is true or false, where a value should be.")
        if any(isinstance(one, int) and abs(one) >= 1 << 63 for one in given):
            raise GradlabError(f"{path}: {key} is a number past 64 bits.")
        if isinstance(value, list) and not _is_repeatable(options[name]):
            raise GradlabError(f"{path}: {key} cannot be {value!r}: it takes one value.")
        # As it would be typed: of a number, releases of Typer take different ones.
        typed = [one if is_switch else str(one) for one in given]
        values[name] = typed if _is_repeatable(options[name]) else typed[0]
        try:
            options[name].process_value(ctx, values[name])
        except typer.BadParameter as error:
            why = error.message[:1].lower() + error.message[1:].rstrip(".")
            raise GradlabError(f"{path}: {key} cannot be {value!r}: {why}.") from None
    return values


def _is_repeatable(option: Any) -> bool:
    return bool(getattr(option, "multiple", False))


def _run_values(path: Path) -> dict[str, Any]:
    from gradlab.runs.reader import load
    from gradlab.settings import OneRun

    run = OneRun.of(load(path).config)
    values = {name: getattr(run, name) for name in OneRun.model_fields if name != "model"}
    given = {**values, **run.model}.items()
    return {name: list(v) if isinstance(v, tuple) else v for name, v in given if v is not None}
