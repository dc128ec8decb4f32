"""Commands whose options are the fields of configs: name, default, help and group of each."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperCommand

from gradlab.base_config import Config
from gradlab.cli.options.config_file import apply_config_file
from gradlab.models.config import ModelConfig
from gradlab.paths import as_path
from gradlab.settings import PARTS, SWITCHES, own_first

_ALL = "gradlab.help_all"


def _show_all(ctx: typer.Context, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        typer.echo(ctx.get_help(), color=ctx.color)
        raise typer.Exit


def _eager(name: str, kind: Any, declared: Any) -> inspect.Parameter:
    annotation = Annotated[kind, declared]
    default = False if kind is bool else None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


CONFIG = _eager(
    "config",
    Path | None,
    typer.Option(
        help="A TOML file of options (lr_step = 2e-4), or a run's run.json. What stands on the "
        "command line wins.",
        metavar="FILE",
        is_eager=True,
        callback=apply_config_file,
        expose_value=False,
    ),
)
"""The option of a file that sets options."""

HELP_ALL = _eager(
    "help_all",
    bool,
    typer.Option(
        "--help-all",
        help="Show this message in full.",
        is_eager=True,
        callback=_show_all,
        expose_value=False,
    ),
)
"""The option that shows the grouped ones."""

_METAVARS = {str: "NAME", int: "N", float: "X", Path: "PATH"}


class Makers(Config, title="Several machines"):
    """What makes a study's runs."""

    engine: str = "local"
    """Where runs train: local, or ray, on the nodes of a Ray cluster."""
    ray_address: str | None = None
    """The cluster, as 10.0.0.1:6379; by default that of RAY_ADDRESS, or this machine's."""


class Place(Makers):
    """Where a study is made, and how it is gone about."""

    out: Path | None = None
    """The study's folder; one in studies/ by default."""
    jobs: int | None = None
    """Runs at once, a thread each; one a core, or one on CUDA."""
    resume: bool = False
    """Go on with the study there, and in the middle of its runs."""


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command as Typer reads it: with an option for each field of the configs that it takes.

    The switches of a model are options where a config has `model`. The help shows the docstring in
    whole paragraphs. A command that takes no configs has its options in its own parameters.
    """
    hints = inspect.get_annotations(command)
    configs = [
        hint for hint in hints.values() if isinstance(hint, type) and issubclass(hint, Config)
    ]
    if not configs:
        command.__doc__ = _paragraphs(command.__doc__ or "")
        return functools.wraps(command)(lambda **values: command(**_usable(values)))
    options = [list(_options(config)) for config in configs]

    def call(**values: Any) -> None:
        values = _usable(values)
        command(
            *(
                config(**{option.name: values[option.name] for option in part})
                for config, part in zip(configs, options, strict=True)
            )
        )

    call.__name__, call.__doc__ = command.__name__, _paragraphs(command.__doc__ or "")
    in_order = _in_order(configs, options)
    is_long = any(group_of(option.name) for option in in_order)
    parameters = [*in_order, CONFIG, *([HELP_ALL] if is_long else [])]
    call.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def _usable(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of options, with their paths as `as_path` makes them."""

    def usable(value: Any) -> Any:
        if isinstance(value, list):
            return [usable(item) for item in value]
        return as_path(value) if isinstance(value, Path) else value

    return {name: usable(value) for name, value in values.items()}


def _in_order(
    configs: list[type[Config]], options: list[list[inspect.Parameter]]
) -> list[inspect.Parameter]:
    """The options of each config that are its own, then those that configs inherit."""
    own = [inspect.get_annotations(config) for config in configs]
    each = [(p.name not in mine, p) for mine, part in zip(own, options, strict=True) for p in part]
    return [option for _, option in sorted(each, key=lambda pair: pair[0])]


def _options(config: type[Config]) -> Iterator[inspect.Parameter]:
    """An option for each field, and for each switch of a model that can be overridden."""
    for name in own_first(config):
        if name == "model":
            for switch in SWITCHES:
                annotation = ModelConfig.model_fields[switch].annotation
                yield _option(switch, annotation, None, ModelConfig)
        else:
            yield _option(name, config.model_fields[name].annotation, ..., config)


def _option(name: str, annotation: Any, default: Any, config: type[Config]) -> inspect.Parameter:
    """One option. `...` as default is the field's own; None is no value, whatever the field is."""
    field = config.model_fields[name]
    default = field.default if default is ... else default
    kind, is_list = _kind(annotation)
    words = f"--{name.replace('_', '-')}"
    names = [] if kind is not bool else [words if default is False else f"{words}/--no-{words[2:]}"]
    declared = typer.Option(
        *names,
        help=" ".join((field.description or "").split()),
        rich_help_panel=group_of(name),
        metavar=None if kind is bool else _METAVARS[kind],
    )
    taken: Any = list[kind] if is_list else kind | None if default is None else kind  # type: ignore[valid-type]
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=list(default) if is_list else default,
        annotation=Annotated[taken, declared],
    )


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The type of an option's value, and whether it is given several times."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not NoneType)
    if get_origin(annotation) is tuple:
        return _kind(get_args(annotation)[0])[0], True
    return (str if get_origin(annotation) is Literal else annotation), False


def group_of(name: str) -> str | None:
    """The group of an option: that of the part of a run, or of a study, that has the field."""
    parts = (*PARTS, Makers)
    return next((part.model_config["title"] for part in parts if name in part.model_fields), None)


def _paragraphs(text: str) -> str:
    """A docstring without the line ends inside its paragraphs, which Typer would keep."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


class Command(TyperCommand):
    """A command whose help is one screen.

    Its text is the first paragraph, and the grouped options are named; `--help-all` has them all.
    """

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """What it does."""
        paragraphs = (self.help or "").split("\n\n")
        for paragraph in paragraphs[:1] if self._is_long(ctx) else paragraphs:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(paragraph)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The arguments and options, a section a group."""
        groups: dict[str, list[Any]] = {}
        for param in self.get_params(ctx):
            title = "Arguments" if param.param_type_name == "argument" else "Options"
            groups.setdefault(getattr(param, "rich_help_panel", None) or title, []).append(param)
        named = {name: of for name, of in groups.items() if name in _TITLES}
        for name, params in groups.items():
            if name not in named or not self._is_long(ctx):
                records = [param.get_help_record(ctx) for param in params]
                with formatter.section(name):
                    formatter.write_dl([record for record in records if record])
        if self._is_long(ctx):
            with formatter.section("Others, in full by --help-all"):
                for name, params in named.items():
                    words = [name.partition(":")[0] + ":", *(param.opts[0] for param in params)]
                    formatter.write(f"  {_in_one_line(words)}\n")

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples, a line each."""
        first, *lines = (self.epilog or "").split("\n\n")
        with formatter.section(first.rstrip(":")):
            for line in lines:
                formatter.write("  " + line.replace("\n", " \\\n      ") + "\n")

    def _is_long(self, ctx: Any) -> bool:
        """Whether a part of the help is left to `--help-all`."""
        options = (getattr(param, "rich_help_panel", None) for param in self.get_params(ctx))
        return not ctx.meta.get(_ALL) and any(option in _TITLES for option in options)


_TITLES = {part.model_config["title"] for part in (*PARTS, Makers)}


def _in_one_line(names: list[str]) -> str:
    """The names as far as they have room in 80 columns."""
    line = names[0]
    for name in names[1:]:
        if len(line) + len(name) > 74:
            return f"{line} …"
        line += f" {name}"
    return line
