"""What a user gave, checked: a mistake ends in a sentence before anything is hooked."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler

from gradlab.errors import GradlabError, in_words
from gradlab.probes.probe import Probe
from gradlab.runs.document import plain

_LONGEST_META = 1 << 16

_LARGEST_STEP = 2**53
"""Past it, numbers of steps are no longer exact where they are drawn or read as floats."""


def whole_number(name: str, given: object, least: int, what: str) -> int:
    """A whole number, `least` or more.

    Raises:
        GradlabError: It is none.
    """
    if isinstance(given, bool) or not isinstance(given, int):
        raise GradlabError(f"{name} = {given!r}: {what}, a whole number from {least} on.")
    if not least <= given <= _LARGEST_STEP:
        raise GradlabError(f"{name} = {given}: {what}, from {least} to {_LARGEST_STEP}.")
    return given


def run_folder(name: str, given: object) -> Path | None:
    """A folder to write into; `~` is the home folder.

    Args:
        name: Of the argument.
        given: What it was given.

    Raises:
        GradlabError: It cannot name one.
    """
    if given is None:
        return None
    if not isinstance(given, str | os.PathLike):
        raise GradlabError(f"{name} = {given!r}: give the path of a folder, as 'runs/mine'.")
    text = os.fspath(given)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise GradlabError(f"{name} = {text!r}: this names no folder; choose one, as 'runs/mine'.")
    try:
        text.encode()
        return Path(text).expanduser()
    except (RuntimeError, UnicodeError) as error:
        raise GradlabError(f"{name} = {text!r}: this names no folder ({error}).") from None


def outer_first(*folders: Path | None) -> list[Path]:
    """The folders that there are, none before one that it lies in: each must be empty when made.

    Raises:
        GradlabError: Two are the same.
    """
    given = [folder for folder in folders if folder is not None]
    if len({folder.absolute() for folder in given}) < len(given):
        raise GradlabError(
            f"out and keep are both {given[0]}: give two, as keep='{given[0]}/crash'."
        )
    return sorted(given, key=lambda folder: len(folder.absolute().parts))


def flag(name: str, given: object) -> bool | None:
    """True, False or None.

    Raises:
        GradlabError: It is something else.
    """
    if given is not None and not isinstance(given, bool):
        raise GradlabError(f"{name} = {given!r}: give True, False or None.")
    return given


def scaler_of(given: object) -> GradScaler | None:
    """The GradScaler, or None.

    Raises:
        GradlabError: It is something else.
    """
    if given is not None and not isinstance(given, GradScaler):
        raise GradlabError(
            f"scaler = {type(given).__name__}: give the torch.amp.GradScaler that steps the "
            "optimizer."
        )
    return given


def loss_of(given: object) -> Tensor:
    """A loss, as a tensor of one number.

    Raises:
        GradlabError: It is none.
    """
    if not isinstance(given, Tensor | float | int):
        raise GradlabError(f"a loss of type {type(given).__name__}: give one number.")
    if not isinstance(given, Tensor):
        return torch.tensor(given, dtype=torch.float64, device="cpu")
    if given.numel() != 1:
        raise GradlabError(
            f"a loss of shape {tuple(given.shape)}: give one number, its mean or sum."
        )
    return given


def meta_of(given: object) -> dict[str, Any]:
    """What a user says of a run, as `run.json` can hold it.

    Raises:
        GradlabError: It is no dict of names, JSON cannot hold it, or it is too long.
    """
    if given is None:
        return {}
    try:
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise TypeError(f"{type(given).__name__} is no dict of names")
        told: dict[str, Any] = plain(given)
        size = len(json.dumps(told, allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise GradlabError(
            f"meta: JSON cannot hold it ({in_words(error)}): give a dict of names and plain "
            "values, {'norm': 'pre', 'lr': 3e-4}."
        ) from None
    if size > _LONGEST_META:
        raise GradlabError(f"meta has {size} bytes: give at most {_LONGEST_META}.")
    return told


def sinks_of(given: Any) -> tuple[Any, ...]:
    """The sinks, each with what a `Sink` has.

    Raises:
        GradlabError: One has not.
    """
    for sink in (several := _several(given)):
        is_sink = all(callable(getattr(sink, name, None)) for name in ("write", "close"))
        if isinstance(sink, type) or not is_sink:
            raise GradlabError(
                f"sinks: {_named(sink)} is no sink: give a list of objects with the methods "
                "write(table, columns) and close()."
            )
    return several


def probes_of(given: Any) -> tuple[Probe, ...]:
    """The probes, if that is what they are.

    Raises:
        GradlabError: One is none, names no table, is there twice, or is at work already.
    """
    several = _several(given)
    for index, probe in enumerate(several):
        if not isinstance(probe, Probe):
            raise GradlabError(
                f"probes: {_named(probe)} is no probe: give a list of them, [GradientNorms(), "
                "Headroom()]."
            )
        if not hasattr(probe, "table"):
            raise GradlabError(f"{type(probe).__name__} names no table: set table = 'its_name'.")
        if any(probe is other for other in several[:index]):
            raise GradlabError(
                f"probes: the same {type(probe).__name__} is there twice: leave one out."
            )
        if probe.is_open:
            raise GradlabError(
                f"probes: this {type(probe).__name__} is at work in another attach: close that "
                "first, or make a new one."
            )
    return several


def _several(given: Any) -> tuple[Any, ...]:
    """What a user gave as a list; a single thing is one of them."""
    is_list = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
    return tuple(given) if is_list else (given,)


def _named(given: object) -> str:
    if isinstance(given, str):
        return given
    return f"the class {(given if isinstance(given, type) else type(given)).__name__}"
