"""gradlab: gradient diagnostics and stability analysis for transformer training.

Importing it is light: torch and pandas come with the first name that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradlab.config import ModelConfig, RunConfig
    from gradlab.models.build import build_model
    from gradlab.models.presets import model_config
    from gradlab.precision.emulation import emulated_fp16
    from gradlab.probes.attach import attach
    from gradlab.runs.reader import load
    from gradlab.training.loop import train

_HOMES = {
    "ModelConfig": "gradlab.config",
    "RunConfig": "gradlab.config",
    "attach": "gradlab.probes.attach",
    "build_model": "gradlab.models.build",
    "emulated_fp16": "gradlab.precision.emulation",
    "load": "gradlab.runs.reader",
    "model_config": "gradlab.models.presets",
    "train": "gradlab.training.loop",
}

__all__ = [
    "ModelConfig",
    "RunConfig",
    "attach",
    "build_model",
    "emulated_fp16",
    "load",
    "model_config",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "probes":
        return import_module("gradlab.probes")
    if name not in _HOMES:
        raise AttributeError(f"module 'gradlab' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
