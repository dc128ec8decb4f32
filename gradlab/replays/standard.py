"""The changes that an explanation tries: what of a run each makes otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradlab.config import RunConfig
from gradlab.errors import ConfigError, unknown
from gradlab.models.config import ModelConfig
from gradlab.replays.changes import SETTINGS, Changes, read_settings

UNCHANGED = "unchanged"
"""What stands for no change among the names."""

NAMES = (
    "fp32",
    "bf16",
    "loss-scale",
    "half-lr",
    "skip-batch",
    "clipping",
    "eps",
    "no-weight-decay",
    "weight-decay",
    "sdpa",
)
"""The standard changes."""


@dataclass(frozen=True)
class Attempt:
    """One change of a run.

    Attributes:
        name: As in the table.
        changes: What is changed from a step before the break on.
        model: What is changed of the architecture, from step 0 on: that is another experiment.
    """

    name: str
    changes: Changes
    model: Mapping[str, Any] | None = None

    @property
    def words(self) -> str:
        """What it changes; the architecture from step 0."""
        if self.model is None:
            return self.changes.words or "–"
        return f"{', '.join(f'{n} {v}' for n, v in self.model.items())}, from step 0"


def standard(config: RunConfig, loss_scale: float) -> dict[str, Attempt]:
    """The standard changes that change something of a run, by name.

    Args:
        config: Of the run.
        loss_scale: The run's, where the changes set in.
    """
    optimizer, precision = config.optimizer, config.precision.name
    clip, decay = optimizer.clip_norm, optimizer.weight_decay
    scaled = precision.startswith("fp16")
    found = {
        "fp32": Changes({"precision": "fp32"}) if precision != "fp32" else None,
        "bf16": Changes({"precision": "bf16"}) if precision != "bf16" else None,
        "loss-scale": Changes({"initial_loss_scale": loss_scale / 256}) if scaled else None,
        "half-lr": Changes(lr_scale=0.5),
        "skip-batch": Changes(skip_batch=True),
        "clipping": Changes({"clip_norm": 0.1 if clip is None else clip / 10}),
        "eps": Changes({"eps": 100 * optimizer.eps}),
        "no-weight-decay": Changes({"weight_decay": 0.0}) if decay else None,
        "weight-decay": Changes({"weight_decay": 10 * decay or 0.1}),
        "sdpa": Changes({"attention": "sdpa"}) if config.model.attention != "sdpa" else None,
    }
    return {name: Attempt(name, changes) for name, changes in found.items() if changes is not None}


def attempts(config: RunConfig, loss_scale: float, asked: Sequence[str]) -> list[Attempt]:
    """The changes to try: all of the standard ones, or those that are asked for.

    Args:
        config: Of the run.
        loss_scale: As of `standard`.
        asked: Names of standard ones, or settings as `eps=1e-6,clip_norm=1`; those of the
            architecture, as `qkv_norm=true`, train again from step 0.

    Raises:
        ConfigError: One is unknown, or changes nothing of this run.
    """
    known = standard(config, loss_scale)
    if not asked:
        return list(known.values())
    return [_attempt(words, config, known) for words in dict.fromkeys(asked)]


def _attempt(words: str, config: RunConfig, known: Mapping[str, Attempt]) -> Attempt:
    if words in known:
        return known[words]
    if words in NAMES:
        raise ConfigError(f"the change {words} changes nothing of this run: leave it out.")
    if "=" not in words:
        own = "one of your own is written as eps=1e-6,clip_norm=1."
        raise ConfigError(f"{unknown('change', words, NAMES)} Or {own}")
    settings = read_settings(words.split(","))
    of_model = {n: v for n, v in settings.items() if n in ModelConfig.model_fields}
    if of_model.keys() <= set(SETTINGS):
        changes = Changes(settings)
        changes.config(config)
        return Attempt(words, changes)
    if of_model != settings:
        raise ConfigError(f"{words}: what trains again from step 0 is changed alone.")
    config.model.replace(**of_model)
    return Attempt(words, Changes(), of_model)
