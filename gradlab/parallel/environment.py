"""What torchrun tells a process of itself. Needs no torch."""

import os

from gradlab.errors import ConfigError, GradlabError

_PLACE = ("MASTER_ADDR", "MASTER_PORT")


def processes() -> int:
    """How many processes torchrun has started; 1 without it."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """This one's number among them, from 0."""
    return _number("RANK", 0)


def local_rank() -> int:
    """This one's number among those of its machine, from 0."""
    return _number("LOCAL_RANK", 0)


def can_meet() -> bool:
    """Whether torchrun has said where processes find each other, so that they can train a run."""
    return all(map(os.environ.get, _PLACE))


def has_launcher() -> bool:
    """Whether a launcher has started this process, be it alone."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def check() -> None:
    """See that what processes need to meet is there.

    Raises:
        ConfigError: It is not, or no number where it has to be.
    """
    names = ("RANK", "WORLD_SIZE", *_PLACE)
    if missing := [name for name in names if not os.environ.get(name)]:
        raise ConfigError(
            f"the environment says that {processes()} processes train together (WORLD_SIZE), but "
            f"not {', '.join(missing)}: start them by torchrun, or let this one train alone by "
            "parallel = 'none'."
        )
    _number("RANK", 0)
    _number("MASTER_PORT", 0)


def tells(error: GradlabError | None = None) -> bool:
    """Whether this process is the one that says something: the first, or the one that was chosen.

    Args:
        error: That is to be said; None for anything else.
    """
    if error is None or error.told_elsewhere is None:
        given = os.environ.get("RANK", "0")
        return not given.isdigit() or int(given) == 0  # that it is no number has to be said, too
    return not error.told_elsewhere


def refuse_several(what: str) -> None:
    """Refuse what several processes cannot make together.

    Raises:
        GradlabError: Torchrun has started several.
    """
    if processes() > 1:
        raise GradlabError(
            f"{what} cannot be made by the {processes()} processes that torchrun has started, of "
            "which each would make all of it: start it without torchrun. One run over several "
            "devices is `gradlab train` under torchrun."
        )


def _number(name: str, otherwise: int) -> int:
    given = os.environ.get(name, str(otherwise))
    if not given.isdigit():
        raise ConfigError(f"the environment's {name} is {given!r}: torchrun sets it to a number.")
    return int(given)
