"""Variants of a study's hyperparameters: what each changes, by name or in the user's own words."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gradlab.config import BASE_VARIANT
from gradlab.errors import ConfigError, unknown

VARIANTS: Mapping[str, str] = MappingProxyType(
    {
        BASE_VARIANT: "",
        "longer-warmup": "warmup=12x",
        "gpt3": "max_seq_len=2x,dropout=0.1",
        "grad-clip": "clip_norm=0.1",
        "dropout": "dropout=0.1",
        "half-lr": "lr=0.5x",
        "twice-lr": "lr=2x",
        "weight-decay": "weight_decay=0.1",
    }
)
"""Variant → what it changes of the settings, in the words that a user's own has too.

The first four are those of the paper's Table 5 that it tells the change of. Its warm-up is 12 times
as long (6000 steps for 500). Its GPT-3 setting has sequences of 2048 tokens, dropout, and twice the
compute, which here comes of as many steps with twice the tokens.
"""

_WHOLE = ("warmup", "steps", "batch_size", "accumulation", "max_seq_len")
_REAL = ("lr", "dropout", "beta1", "beta2", "eps", "weight_decay", "clip_norm")
_NAMES = ("schedule",)

VARIED = (*_WHOLE, *_REAL, *_NAMES)
"""The options that a variant can change, by field."""


@dataclass(frozen=True)
class Variant:
    """A variant of some settings.

    Attributes:
        name: A key of `VARIANTS`, or what the user wrote.
        changes: The settings that it makes, by field.
    """

    name: str
    changes: Mapping[str, Any]

    @property
    def text(self) -> str:
        """What it sets, as in `warmup 120, dropout 0.1`; a dash for the base."""
        parts = (
            f"{name} {f'{value:g}' if isinstance(value, float) else value}"
            for name, value in self.changes.items()
        )
        return ", ".join(parts) or "–"


def read_variant(words: str, given: Mapping[str, Any]) -> Variant:
    """A variant from its name, or from `name=value,…`, where a value `2x` is twice what is given.

    Args:
        words: As on the command line.
        given: What the options that can be changed are without it, by field.

    Raises:
        ConfigError: An unknown name or option, or a value that cannot be read.
    """
    if words not in VARIANTS and "=" not in words:
        own = "one of your own is written as clip_norm=0.1,dropout=0.1."
        raise ConfigError(f"{unknown('variant', words, VARIANTS)} Or {own}")
    pairs = {}
    for part in filter(None, VARIANTS.get(words, words).split(",")):
        option, _, value = (piece.strip() for piece in part.partition("="))
        pairs[option.replace("-", "_")] = value
    for option in pairs:
        if option not in VARIED:
            raise ConfigError(f"variant {words}: {unknown('option', option, VARIED)}")
    return Variant(
        words if words in VARIANTS else ",".join("=".join(pair) for pair in pairs.items()),
        {
            option: _value(f"variant {words}: {option} = {value}", option, value, given[option])
            for option, value in pairs.items()
        },
    )


def _value(where: str, option: str, text: str, given: Any) -> Any:
    if option in _NAMES:
        return text
    try:
        number = float(text.removesuffix("x"))
    except ValueError:
        raise ConfigError(f"{where} is no number, nor a multiple such as 2x.") from None
    if text.endswith("x"):
        if given is None:
            raise ConfigError(f"{where}: there is none to multiply; give a number.")
        number *= given
    if option in _REAL:
        return number
    if not number.is_integer():
        raise ConfigError(f"{where} comes to {number:g}: {option} must be whole.")
    return int(number)
