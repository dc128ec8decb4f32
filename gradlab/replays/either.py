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
from gradlab.runs.reader import Run


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
        run: A run of gradlab's own loop, or the folder of what was kept of another.
        model: For the latter: of the same architecture; its parameters are overwritten.
        options: Of a run, those of `gradlab.replays.replay.replay`: from_step, precision, lr_scale,
            skip_batch, set, probes, beyond, out. Of a kept step, those of
            `gradlab.crash.replay.replay_step`: step, optimizer, loss, precision.

    Raises:
        GradlabError: There is nothing to go back to, or it cannot be done.
    """
    if isinstance(run, Run):
        return of_runs.replay(run, **options)
    path = as_path(run)
    path = path.parent if path.name == INDEX else path
    if model is not None and (path / RUN_FILE).is_file():
        raise GradlabError(
            f"{path} is a run, and has what it takes to go back: leave the model out. A model goes "
            "with what attach(keep=...) kept."
        )
    if model is not None:
        return replay_step(path, model, **options)
    if is_kept(path):
        raise GradlabError(
            f"{path} has what attach kept of a loop of your own: give the model as well, "
            "gradlab.replay(path, model)."
        )
    return of_runs.replay(path, **options)
