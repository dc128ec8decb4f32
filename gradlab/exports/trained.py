"""What is exported: a run that has finished, and the weights that it kept."""

from dataclasses import dataclass
from itertools import count
from pathlib import Path

from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.models.transformer import Transformer
from gradlab.runs.command import Command
from gradlab.runs.reader import Run, load
from gradlab.runs.study import to_go_on
from gradlab.training.weights import model_of, read_weights


@dataclass(frozen=True)
class Trained:
    """A run and its model.

    Attributes:
        run: It has finished.
        folder: Of the run.
        weights: The file of its weights.
        model: On the CPU, in the weights' dtype, at inference.
    """

    run: Run
    folder: Path
    weights: bytes
    model: Transformer

    @property
    def config(self) -> RunConfig:
        """Of the run."""
        return self.run.config


def load_model(run: Run | str | Path) -> Transformer:
    """The model of a run that was told to keep its weights, as it was at the run's end.

    It is on the CPU, in the weights' dtype, at inference (`.train()` for more training).

    Raises:
        GradlabError: There is no such run, it has not finished, or its weights were not kept.
    """
    return trained(run).model


def trained(run: Run | str | Path) -> Trained:
    """A run that has finished, with its model.

    Raises:
        GradlabError: As `load_model`.
    """
    run = run if isinstance(run, Run) else load(run)
    config, folder = run.config, run.path
    if folder is None:
        raise GradlabError(
            "the run was kept in memory, which keeps no weights: train with out= and keep_weights."
        )
    if run.status != "finished":
        if not config.record.keep_weights:
            raise _without_weights(folder, f"is {run.status}, and keeps no weights at its end")
        raise GradlabError(
            f"{folder} has not finished, it is {run.status}: go on with it first, by "
            f"{to_go_on(folder)}."
        )
    try:
        weights = read_weights(folder)
    except FileNotFoundError:
        raise _without_weights(folder, "kept no weights") from None
    try:
        model = model_of(weights, config.model)
    except GradlabError as error:
        raise GradlabError(f"{folder}: {error}") from error
    return Trained(run, folder, weights, model)


def _without_weights(folder: Path, why: str) -> GradlabError:
    again = Command("train", {"config": folder, "keep_weights": True})
    return GradlabError(
        f"{folder} {why}: train it again with them, by `{again.at(_free_beside(folder))}`."
    )


def _free_beside(folder: Path) -> Path:
    names = (Path(f"{folder}-weights{n if n > 1 else ''}") for n in count(1))
    return next(place for place in names if not place.exists())
