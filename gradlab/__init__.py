"""gradlab: gradient diagnostics and stability analysis for transformer training.

Importing it is light: torch and pandas come with the first name that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradlab.config import ModelConfig, RunConfig
    from gradlab.figures.given import draw
    from gradlab.models.build import build_model
    from gradlab.models.presets import model_config
    from gradlab.pages.inspection import inspect
    from gradlab.pages.report import report
    from gradlab.precision.emulation import emulated_fp16
    from gradlab.probes.attach import attach
    from gradlab.runs.reader import load
    from gradlab.training.loop import train

_HOMES = {
    "ModelConfig": "gradlab.config",
    "RunConfig": "gradlab.config",
    "attach": "gradlab.probes.attach",
    "build_model": "gradlab.models.build",
    "draw": "gradlab.figures.given",
    "emulated_fp16": "gradlab.precision.emulation",
    "inspect": "gradlab.pages.inspection",
    "load": "gradlab.runs.reader",
    "model_config": "gradlab.models.presets",
    "report": "gradlab.pages.report",
    "train": "gradlab.training.loop",
}

__all__ = [
    "ModelConfig",
    "RunConfig",
    "attach",
    "build_model",
    "draw",
    "emulated_fp16",
    "inspect",
    "load",
    "model_config",
    "report",
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
