"""The state of a run at any of its steps: from what it kept, or made again from its start."""

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gradlab.config import RunConfig
from gradlab.data.corpus import Corpus, corpora_of
from gradlab.data.entropy import unigram_entropy
from gradlab.errors import GradlabError, in_words
from gradlab.probes.engine.follower import LoopFollower
from gradlab.probes.engine.recorder import Recorder
from gradlab.runs.reader import Run
from gradlab.runs.same import check_same
from gradlab.runs.tokenizer_file import kept_tokenizer
from gradlab.training.checkpoint import FOLDER, Checkpoint, found, read, step_of
from gradlab.training.compiled import compiler_in_words
from gradlab.training.device import on_threads, repeatable
from gradlab.training.judged_run import JudgedRun
from gradlab.training.loop import run_steps
from gradlab.training.memory_needed import memory_in_words
from gradlab.training.progress import Progress
from gradlab.training.resume import put_back, taken, weights_of
from gradlab.training.stability import StabilityMonitor
from gradlab.training.step import Learner, make_learner


def kept_before(run: Run, step: int, folder: Path | None) -> Checkpoint | None:
    """The newest snapshot in a folder of a run's step or one before it; None if there is none.

    Raises:
        GradlabError: It is damaged, was changed, or is another run's.
    """
    for path in [] if folder is None else found(folder):
        if step_of(path) > step:
            continue
        try:
            snapshot = read(path)
            if snapshot.facts["step"] != step_of(path):
                raise GradlabError("it is of another step than its name says")
            config = RunConfig.from_mapping(snapshot.facts["config"])
            check_same(path, config.replace(device=run.config.device), run.config)
        except (GradlabError, KeyError, TypeError) as error:
            raise _unusable(str(path), error) from error
        return snapshot
    return None


def _unusable(name: str, error: Exception) -> GradlabError:
    reason = in_words(error).rstrip(".")
    return GradlabError(
        f"the snapshot {name} cannot be used ({reason}): remove it, and the replay begins at the "
        "run's first step."
    )


def text_of(run: Run) -> Corpus:
    """The text that a run was trained on.

    Raises:
        GradlabError: It cannot be read, or is another now.
    """
    config = run.config
    (corpus,) = corpora_of([config], kept_tokenizer(run))
    if corpus.sha256 != (run.info.get("corpus") or {}).get("sha256"):
        raise GradlabError(
            f"the run was trained on another text than {config.data.corpus} is now: put the old "
            "text back to replay it."
        )
    return corpus


def threads_of(run: Run) -> AbstractContextManager[None]:
    """As many threads as the run had: bits depend on their number."""
    return on_threads((run.info.get("device") or {}).get("threads"))


@dataclass(frozen=True)
class Trial:
    """A run's steps from one on: what is trained how, and from what.

    Attributes:
        config: Of these steps.
        corpus: The text.
        device: Where.
        start: The state that they begin with; None for a run's initial values, and step 0.
        scale_anew: Begin with the config's initial loss scale, not with the state's.
    """

    config: RunConfig
    corpus: Corpus
    device: torch.device
    start: Checkpoint | None
    scale_anew: bool = False

    @property
    def first(self) -> int:
        """The first of the steps."""
        return self.start.facts["step"] if self.start else 0

    def learner(self) -> Learner:
        """What is trained, as it is at the start. Within `repeatable`.

        Raises:
            GradlabError: The state is of another model.
        """
        with memory_in_words(self.config, self.device):
            learner = make_learner(self.config, self.device)
        if self.start is not None:
            try:
                put_back(_fitting(self.start, learner, self.scale_anew), learner)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise self._of_another(error) from error
        return learner

    def judge(self, follower: LoopFollower, recorder: Recorder) -> JudgedRun:
        """The record of the steps, which are judged as those that went before them were.

        Raises:
            GradlabError: The state says nothing of those, or in other words: of another gradlab.
        """
        monitor = StabilityMonitor(self.config.stability, unigram_entropy(self.corpus.train))
        judged = JudgedRun(self.config, follower, recorder, monitor)
        if self.start is not None:
            try:
                before = self.start.facts["judged"]
                # The trend of rows at another cadence is not gone on with.
                rows = {**recorder.state(), "updates": before["recorder"]["updates"]}
                judged.restore({**before, "recorder": rows})
            except (KeyError, TypeError, ValueError) as error:
                raise self._of_another(error) from error
        return judged

    def _of_another(self, error: Exception) -> GradlabError:
        reason = f"it is of another version of gradlab, or was changed: {in_words(error)}"
        return _unusable(f"of step {self.first} in the folder {FOLDER}", GradlabError(reason))


def brought_to(
    step: int,
    trial: Trial,
    made_on: dict[str, Any],
    *,
    progress: Callable[[Progress], None] | None = None,
) -> Checkpoint | None:
    """The state at a step, by the steps that lead there, which nobody looks into.

    Returns:
        The state; None for the initial values.
    """
    if step == trial.first:
        return trial.start
    with repeatable(trial.device, trial.config.seed):
        learner = trial.learner()
        follower = LoopFollower(learner.subject, (), scaler=learner.scaler, first_step=trial.first)
        judged = trial.judge(follower, Recorder(lambda *_: None))
        with (
            closing(follower),
            memory_in_words(trial.config, trial.device),
            compiler_in_words(),
            learner.precision.arithmetic(),
        ):
            run_steps(trial.config, trial.corpus, learner, judged, until=step, progress=progress)
            return taken(trial.config, made_on, learner, judged)


def _fitting(start: Checkpoint, learner: Learner, scale_anew: bool) -> Checkpoint:
    """A state in the number formats of what is to go on from it."""
    given, wanted = start.tensors, weights_of(learner)
    names = [name for name, p in learner.model.named_parameters() if p.requires_grad]
    tensors = {name: x for name, x in given.items() if not name.startswith(("model.", "master."))}
    tensors |= {name: given[name].to(x.dtype) for name, x in wanted.items() if name in given}
    if start.facts["config"]["precision"]["name"] != learner.precision.config.name:
        for index, name in enumerate(names):  # the copies in fp32 are the weights, where there are
            exact = given.get(f"master.{index}", given[f"model.{name}"])
            for place in {f"master.{index}", f"model.{name}"} & wanted.keys():
                tensors[place] = exact.to(wanted[place].dtype)
    return replace(
        start, facts={**start.facts, "scaler": _scaler(start, learner, scale_anew)}, tensors=tensors
    )


def _scaler(start: Checkpoint, learner: Learner, scale_anew: bool) -> dict[str, Any]:
    """The loss scaler's state: as configured now, with the scale and the good steps of before."""
    now, before = learner.scaler.state_dict(), start.facts["scaler"]
    kept = () if scale_anew or not now else ("scale", "_growth_tracker")
    return {**now, **{name: before[name] for name in kept if name in before}}
