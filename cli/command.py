"""Commands whose options are the fields of a dataclass."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

if TYPE_CHECKING:
    from gradlab.runs.study import Command

Options = TypeVar("Options")


def takes(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Make a function of an options dataclass into one that Typer reads options from.

    Typer reads a command's options off its parameters. With dozens of them, several shared by
    commands, they are declared once, as annotated fields (`gradlab.cli.options`). The help shows
    a command's own options before those it shares, and its docstring in whole paragraphs.
    """

    def decorate(command: Callable[[Options], None]) -> Callable[..., None]:
        hints = get_type_hints(options, include_extras=True)

        def call(**values: Any) -> None:
            command(options(**values))

        call.__name__, call.__doc__ = command.__name__, _paragraphs(command.__doc__ or "")
        call.__annotations__ = {**hints, "return": None}
        call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=inspect.Parameter.empty if _is_required(field) else default_of(field),
                    annotation=hints[field.name],
                )
                for field in own_first(options)
            ]
        )
        return call

    return decorate


def _paragraphs(text: str) -> str:
    """A docstring without the line ends inside its paragraphs, which Typer would keep."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def own_first(options: type[Any]) -> list[Field[Any]]:
    """The fields of a command's options: its own before those that it shares."""
    return sorted(fields(options), key=lambda field: field.name not in options.__annotations__)


def default_of(field: Field[Any]) -> Any:
    """What an option is unless it is given; `dataclasses.MISSING` if it has to be."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


_NO_PART = frozenset({"config", "out", "jobs", "resume"})
"""Options that say where options come from, where the study lies and how it is gone about: no part
of what the study is. What `--config` set is in the other options."""


def command_of(name: str, options: Any) -> "Command":
    """A command with its options."""
    from gradlab.runs.study import Command

    given = {
        field.name: value
        for field in own_first(type(options))
        if field.name not in _NO_PART
        and (value := getattr(options, field.name)) != default_of(field)
    }
    return Command(name, given)
