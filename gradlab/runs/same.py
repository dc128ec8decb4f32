"""Whether a run is what is asked for now, and if not, what differs. Needs no tables."""

from collections.abc import Iterator
from pathlib import Path

from gradlab.base_config import Config
from gradlab.config import RunConfig
from gradlab.errors import GradlabError


def differences(before: Config, now: Config) -> Iterator[str]:
    """Each field that differs, by its option, with what it was and what it would be."""
    for name in type(before).model_fields:
        was, is_now = getattr(before, name), getattr(now, name)
        if was == is_now:
            continue
        if isinstance(was, Config):
            yield from differences(was, is_now)
        elif name == "stop_when_destabilised":
            yield f"--keep-going is {not was} there and {not is_now} here"
        else:
            option = _OPTIONS.get(name, name).replace("_", "-")
            yield f"--{option} is {was} there and {is_now} here"


_OPTIONS = {"kind": "schedule", "warmup_steps": "warmup", "name": "precision", "d_model": "width"}
"""What fields are called on the command line, where it is otherwise."""


def check_same(place: Path, before: RunConfig, now: RunConfig, *, options: str = "") -> None:
    """Refuse to go on with another run.

    Args:
        place: Where the one before lies.
        before: Its config.
        now: That of the one that is to go on.
        options: What gives the command its options, where that is known.

    Raises:
        GradlabError: The configs differ; the sentence says in what.
    """
    # How many processes train it changes no more than another machine does.
    if changes := list(differences(before.replace(parallel=now.parallel), now)):
        raise GradlabError(
            f"{place} holds another run ({', '.join(changes)}): give the options that it was begun "
            f"with{options and f', by `{options}`'}, or choose another folder."
        )
