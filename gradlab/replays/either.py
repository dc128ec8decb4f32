"""`gradlab.replay`: a run of gradlab's own loop, or a step that was kept of somebody else's."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, overload

from torch import nn
from torch.optim import Optimizer

from gradlab.crash.again import Loss
from gradlab.crash.folder import INDEX, is_kept
from gradlab.crash.replay import Formats, replay_step
from gradlab.crash.result import ReplayedStep
from gradlab.errors import GradlabError
from gradlab.paths import as_path
from gradlab.replays import replay as of_runs
from gradlab.runs.document import RUN_FILE
from gradlab.runs.reader import Run, load

_OF_A_STEP = ("step", "optimizer", "loss", "precision")


@overload
def replay(run: Run | str | Path, **options: Any) -> of_runs.Replay: ...


@overload
def replay(
    run: str | Path,
    model: nn.Module,
    *,
    step: int | None = None,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    loss: Loss | None = None,
    precision: Formats | None = None,
) -> ReplayedStep: ...


def replay(
    run: Run | str | Path, model: nn.Module | None = None, **options: Any
) -> of_runs.Replay | ReplayedStep:
    """Go back before what broke and do it again, with every probe, down to the operation.

        gradlab.replay("runs/mine", precision="fp32")   # a run of gradlab train, or of a study
        gradlab.replay("crash/", model)                 # what attach(keep="crash/") kept

    Args:
        run: A run of gradlab's own loop, or the folder of what was kept of another, or its run.
        model: For the latter: of the same architecture; its parameters are overwritten.
        options: Of a run, those of `gradlab.replays.replay.replay`: from_step, precision, lr_scale,
            skip_batch, set, probes, beyond, out. Of a kept step, those of
            `gradlab.crash.replay.replay_step`: step, optimizer, loss, precision.

    Raises:
        GradlabError: There is nothing to go back to, or it cannot be done.
    """
    folder = _kept(run)
    if model is None:
        if folder is None or not is_kept(folder):
            return of_runs.replay(run, **options)
        raise GradlabError(
            f"{folder} has what attach kept of a loop of your own: give the model as well, "
            "gradlab.replay(path, model)."
        )
    if folder is None:
        raise GradlabError(
            "a model goes with what attach(keep=...) kept of a loop of your own, and of this run "
            "there is nothing of that: a run of gradlab train is replayed without."
        )
    if others := [name for name in options if name not in _OF_A_STEP]:
        raise GradlabError(
            f"{others[0]} is of the replay of a run: a kept step takes {', '.join(_OF_A_STEP)}."
        )
    return replay_step(folder, model, **options)


def _kept(run: Run | str | Path) -> Path | None:
    """The folder of kept steps that is meant; None if it is a run without any."""
    if not isinstance(run, Run):
        path = as_path(run)
        folder = path.parent if path.name in (INDEX, RUN_FILE) else path
        if is_kept(folder) or not (folder / RUN_FILE).is_file():
            return folder
        run = load(folder)
    kept = run.info.get("kept")
    return Path(kept["folder"]) if kept else None
