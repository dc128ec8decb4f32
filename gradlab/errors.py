"""The errors that a user's mistake raises, and how their sentences are made."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class GradlabError(Exception):
    """A mistake that the user can mend; its message is one sentence that says what to do.

    The commands print it without a traceback and exit with status 2.

    Attributes:
        told_elsewhere: Of several processes that train together: whether another one tells of it;
            None as long as that is not settled.
        instead: What could be named in the place of what was.
    """

    told_elsewhere: bool | None = None
    instead: Sequence[Path] = ()


class ConfigError(GradlabError, ValueError):
    """A configuration that names something unknown or combines what does not go together."""


def unknown(kind: str, name: object, known: Iterable[str], *, listed: str | None = None) -> str:
    """The sentence for an unknown name: what it is, the nearest valid names, then all of them.

    Args:
        kind: Of name.
        name: The unknown one.
        known: The valid ones.
        listed: What lists them, instead of all.

    >>> unknown("architecture", "normfomer", ["pre-ln", "normformer"])
    "unknown architecture 'normfomer': did you mean 'normformer'? Known: pre-ln, normformer."
    """
    options = list(known)
    near = get_close_matches(str(name), options, n=2)
    hint = f": did you mean {' or '.join(repr(match) for match in near)}?" if near else "."
    rest = f"{listed} lists them all." if listed else f"Known: {', '.join(options)}."
    return f"unknown {kind} {str(name)!r}{hint} {rest}"


def one_of(kind: str, name: str, table: Mapping[str, T]) -> T:
    """The entry of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in table:
        raise ConfigError(unknown(kind, name, table))
    return table[name]


def in_words(error: BaseException) -> str:
    """An error as one reads it: our sentence, what stopped us, or another's after its type.

    >>> in_words(KeyError("loss")), in_words(KeyboardInterrupt())
    ("KeyError: 'loss'", 'Ctrl-C')
    >>> in_words(KeyboardInterrupt("SIGTERM"))
    'SIGTERM'
    """
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "Ctrl-C"
    if isinstance(error, GradlabError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class GradlabWarning(UserWarning):
    """Something that the user should know, said once; what goes on stays right."""
