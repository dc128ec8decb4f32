"""gradlab: gradient diagnostics and stability analysis for transformer training.

Importing it is light: torch and pandas come with the first name that needs them.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# cuBLAS and torch read it once, at a process's first product on CUDA. Without it `train` could not
# use deterministic kernels there.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

if TYPE_CHECKING:
    from gradlab import probes, studies
    from gradlab.config import RunConfig
    from gradlab.errors import GradlabError
    from gradlab.exports.export import export
    from gradlab.exports.trained import load_model
    from gradlab.figures.given import draw
    from gradlab.models.build import build_model
    from gradlab.models.config import ModelConfig
    from gradlab.models.presets import model_config
    from gradlab.pages.inspection import inspect
    from gradlab.pages.report import report
    from gradlab.precision.emulation import emulated_fp16
    from gradlab.probes.attach import attach
    from gradlab.replays.either import replay
    from gradlab.replays.explain import explain
    from gradlab.runs.reader import load
    from gradlab.runs.study import load_study
    from gradlab.studies.run import run_study
    from gradlab.training.train import train

_HOMES = {
    "GradlabError": "gradlab.errors",
    "ModelConfig": "gradlab.models.config",
    "RunConfig": "gradlab.config",
    "attach": "gradlab.probes.attach",
    "build_model": "gradlab.models.build",
    "draw": "gradlab.figures.given",
    "emulated_fp16": "gradlab.precision.emulation",
    "explain": "gradlab.replays.explain",
    "export": "gradlab.exports.export",
    "inspect": "gradlab.pages.inspection",
    "load": "gradlab.runs.reader",
    "load_model": "gradlab.exports.trained",
    "load_study": "gradlab.runs.study",
    "model_config": "gradlab.models.presets",
    "replay": "gradlab.replays.either",
    "report": "gradlab.pages.report",
    "run_study": "gradlab.studies.run",
    "train": "gradlab.training.train",
}

__all__ = [
    "GradlabError",
    "ModelConfig",
    "RunConfig",
    "attach",
    "build_model",
    "draw",
    "emulated_fp16",
    "explain",
    "export",
    "inspect",
    "load",
    "load_model",
    "load_study",
    "model_config",
    "probes",
    "replay",
    "report",
    "run_study",
    "studies",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in ("probes", "studies"):
        return import_module(f"gradlab.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'gradlab' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
