"""Options from a file: a TOML document of them, or the `run.json` of a run."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gradlab.errors import GradlabError, unknown

if TYPE_CHECKING:
    from gradlab.config import RunConfig


def apply_config_file(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make a file's values the command's defaults, so that the command line wins over them.

    The callback of `--config`, which is read before the other options.

    Raises:
        GradlabError: There is no such file, it is not TOML, or has a key that is no option.
    """
    if path is None or ctx.resilient_parsing:
        return path
    options = {str(param.name): param for param in ctx.command.params if param.name != "config"}
    try:
        is_run = path.is_dir() or path.suffix == ".json"
    except OSError as error:
        raise GradlabError(f"the config file {path} cannot be read: {error.strerror}.") from None
    if is_run:
        found = {key: value for key, value in _run_values(path).items() if key in options}
    else:
        found = _toml_values(path, options)
    # An option that is repeatable on the command line takes a list, or a single value, here.
    repeatable = {name for name, param in options.items() if getattr(param, "multiple", False)}
    ctx.default_map = {
        name: [value] if name in repeatable and not isinstance(value, list) else value
        for name, value in found.items()
    }
    return path


def _toml_values(path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GradlabError(f"the config file {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GradlabError(f"{path} is not a TOML file: {error}.") from None
    values: dict[str, Any] = {}
    for key, value in document.items():
        name = key.replace("-", "_")
        if name not in options:
            raise GradlabError(f"{path}: {unknown('option', key, options)}")
        if isinstance(value, dict):
            raise GradlabError(f"{path}: {key} is a table, where an option's value should be.")
        values[name] = value
    return values


def _run_values(path: Path) -> dict[str, Any]:
    from gradlab.runs.reader import load

    return run_options(load(path).config)


def run_options(config: "RunConfig") -> dict[str, Any]:
    """The options that make a run, by name: of `gradlab train`, and of other commands in part.

    Of the model only what its architecture and size do not say, so that another `--arch` or
    `--size` on the command line means what it always does.
    """
    from gradlab.models.presets import model_config

    named = model_config(config.arch, config.size)
    model = config.model.model_dump(exclude={"d_model"})
    schedule, precision = config.schedule, config.precision.model_dump()
    values = {
        "arch": config.arch,
        "size": config.size,
        **{name: value for name, value in model.items() if value != getattr(named, name)},
        "width": None if config.model.d_model == named.d_model else config.model.d_model,
        "schedule": schedule.kind,
        "lr": schedule.lr,
        "lr_step": schedule.lr_step,
        "warmup": schedule.warmup_steps,
        "precision": precision.pop("name"),
        **precision,
        "keep_going": not config.stop_when_destabilised,
    }
    for name in ("steps", "seed", "batch_size", "accumulation", "device"):
        values[name] = getattr(config, name)
    for name in ("val_every", "val_batches"):
        values[name] = getattr(config, name)
    for part in (config.optimizer, config.stability, config.data, config.record):
        values |= part.model_dump()
    values["probes"] = list(config.record.probes) or ["none"]
    return {name: value for name, value in values.items() if value is not None}
