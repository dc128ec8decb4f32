"""What a replay may do otherwise than the run did, from a step on."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from gradlab.base_config import Config
from gradlab.config import (
    OptimizerConfig,
    PrecisionName,
    RunConfig,
    ScalingConfig,
    StabilityConfig,
)
from gradlab.errors import ConfigError, unknown
from gradlab.models.config import ModelConfig
from gradlab.settings import check_name

_PARTS: Mapping[str, tuple[str, ...]] = {
    "model": ("attention", "dropout"),
    "schedule": ("lr", "lr_step"),
    "optimizer": tuple(OptimizerConfig.model_fields),
    "precision": tuple(ScalingConfig.model_fields),
    "stability": tuple(StabilityConfig.model_fields),
}
_OWN = ("batch_size", "accumulation", "seed", "device", "compile")

_PART_OF = {name: part for part, names in _PARTS.items() for name in names}

SETTINGS = ("precision", *_PART_OF, *_OWN)
"""What can be set: whatever leaves the model's parameters and what they mean as they are."""


@dataclass(frozen=True)
class Changes:
    """What is changed; nothing unless told.

    Attributes:
        settings: Options of `gradlab train` by the names of `SETTINGS`. An `initial_loss_scale` is
            where the loss scale starts again.
        lr_scale: What the learning rate is multiplied by, at every step.
        skip_batch: Leave out the batch of the step that broke; those after it come a step earlier.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    lr_scale: float = 1.0
    skip_batch: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr_scale) and self.lr_scale > 0):
            raise ConfigError(f"lr_scale = {self.lr_scale}: give a factor above 0, such as 0.5.")
        for name in self.settings:
            if name in ModelConfig.model_fields and name not in _PART_OF:
                raise ConfigError(
                    f"{name} changes what the model computes, so that there is no going back with "
                    f"it: as another experiment, train again from step 0 with {name} changed "
                    "(gradlab train --config RUN)."
                )
            if name not in SETTINGS:
                raise ConfigError(unknown("setting", name, SETTINGS))

    def __bool__(self) -> bool:
        return bool(self.settings) or self.lr_scale != 1 or self.skip_batch

    @property
    def words(self) -> str:
        """All of it, as in `precision fp32, learning rate × 0.5`."""
        parts = [f"{name} {_word(value)}" for name, value in self.settings.items()]
        if self.lr_scale != 1:
            parts.append(f"learning rate × {self.lr_scale:g}")
        if self.skip_batch:
            parts.append("without that batch")
        return ", ".join(parts)

    def config(self, recorded: RunConfig) -> RunConfig:
        """A run's config with the changes made.

        Raises:
            ConfigError: A value is of the wrong kind, out of range, or does not fit others.
        """
        changed: dict[str, dict[str, Any]] = {}
        own = {}
        for name, value in self.settings.items():
            if name == "precision":
                check_name("precision", str(value), get_args(PrecisionName))
                changed.setdefault("precision", {})["name"] = value
            elif name in _PART_OF:
                changed.setdefault(_PART_OF[name], {})[name] = value
            else:
                own[name] = value
        parts = {part: _changed(getattr(recorded, part), new) for part, new in changed.items()}
        config = recorded.replace(**parts, **own)
        if self.lr_scale == 1:
            return config
        rate = "lr_step" if config.schedule.kind == "ramp" else "lr"
        scaled = getattr(config.schedule, rate) * self.lr_scale
        return config.replace(schedule=config.schedule.replace(**{rate: scaled}))


def _changed(part: Config, new: Mapping[str, Any]) -> Config:
    # A format whose weights are fp32 has no copies of them to keep or not.
    if new.get("name", "fp16-pure") != "fp16-pure":
        new = {"master_weights": True, **new}
    return part.replace(**new)


def read_settings(words: list[str]) -> dict[str, Any]:
    """Settings from `KEY=VALUE` each, as on the command line.

    Raises:
        ConfigError: One has no value, or two are of the same key.
    """
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if not (name and equals and text.strip()):
            raise ConfigError(f"{word!r} sets nothing: write it as eps=1e-6.")
        if name in settings:
            raise ConfigError(f"{name} is set twice: give it once.")
        settings[name] = _value(text.strip())
    return settings


def _value(text: str) -> Any:
    if text == "none":
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _word(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
