"""A run's steps made again from one on, recorded as a run of their own."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gradlab.config import RecordConfig
from gradlab.probe_names import PROBES
from gradlab.probes.engine.follower import LoopFollower
from gradlab.probes.engine.recorder import Recorder, recorded_of
from gradlab.replays.snapshots import Trial
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run
from gradlab.runs.tokenizer_file import keep_tokenizer
from gradlab.runs.verdict import Reason
from gradlab.runs.writer import RunWriter
from gradlab.training.compiled import check_probes, compiler_in_words
from gradlab.training.device import repeatable
from gradlab.training.loop import (
    chosen_probes,
    recorded_facts,
    run_steps,
    save_what_there_is,
    set_up,
)
from gradlab.training.memory_needed import memory_in_words
from gradlab.training.progress import Progress
from gradlab.training.step import Learner

_PERTURBATION = 1e-6
"""What is added to one weight: rounding alone moves a break by some steps."""


def again(
    trial: Trial,
    *,
    until: int,
    out: Path | None,
    probes: tuple[Any, ...],
    skip: int | None = None,
    perturbed: int | None = None,
    notes: Mapping[str, Any],
    progress: Callable[[Progress], None] | None = None,
    between_steps: Callable[[], None] = lambda: None,
) -> Run:
    """Make the steps of a trial and look into each.

    Args:
        trial: Which.
        until: The step to stop before, if the run has not broken until then.
        out: Folder of the record; None keeps it in memory.
        probes: Names of those that look, at every step; of all of them those that can, where the
            model is compiled.
        skip: The batches that are left out: those after them come a step earlier.
        perturbed: Number of the weight that is changed by 1e-6; None changes none.
        notes: What `run.json` says of the replay.
        progress: As of `gradlab.train`, with `until` for the run's last step.
        between_steps: As of `gradlab.training.loop.train`.

    Raises:
        GradlabError: A folder, disk, state or memory that cannot be used.
        KeyboardInterrupt: Passed on once everything recorded so far has been written.
    """
    record = RecordConfig(probes=probes, every=1, window=trial.config.record.window)
    config = trial.config.replace(record=record)
    with repeatable(trial.device, config.seed):
        learner = trial.learner()
        if perturbed is not None:
            _perturb(learner, perturbed)
        chosen = chosen_probes(record)
        if config.compile and set(probes) == set(PROBES):
            chosen = [probe for probe in chosen if not probe.looks_inside]
        if config.compile:
            check_probes(chosen)
        info = recorded_facts(trial.corpus, trial.device, learner) | recorded_of(chosen)
        info |= {"events": record.events, "replay": dict(notes)}
        writer: MemoryWriter | RunWriter
        writer = MemoryWriter(config, info) if out is None else RunWriter(out, config, info)
        with set_up(writer, is_new=True):
            follower = LoopFollower(
                learner.subject, chosen, scaler=learner.scaler, first_step=trial.first
            )
            judged = trial.judge(follower, Recorder(writer.write))
            if isinstance(writer, RunWriter):
                keep_tokenizer(writer.path, trial.corpus.tokenizer)
        with closing(follower):
            try:
                with (
                    memory_in_words(config, trial.device),
                    compiler_in_words(),
                    learner.precision.arithmetic(),
                ):
                    run_steps(
                        config,
                        trial.corpus,
                        learner,
                        judged,
                        until=until,
                        batch_of=lambda step: step + (skip is not None and step >= skip),
                        progress=progress and (lambda news: progress(replace(news, steps=until))),
                        between_steps=between_steps,
                    )
            except BaseException as error:
                is_stopped = isinstance(error, KeyboardInterrupt)
                reason: Reason = "interrupted" if is_stopped else "error"
                save_what_there_is(writer, judged, reason, error)
                raise
        writer.finish("finished", judged.verdict("completed"))
    return writer.run()


def _perturb(learner: Learner, number: int) -> None:
    """Change one weight of the blocks by 1e-6, another for each number.

    Where only the fp16 weight is kept, by one of its spacings, if that is more.
    """
    named = zip(learner.model.named_parameters(), learner.trained, strict=True)
    weights = [x for (name, _), x in named if name.startswith("blocks.") and x.dim() > 1]
    draw = torch.Generator().manual_seed(number)
    weight = weights[int(torch.randint(len(weights), (), generator=draw, device="cpu"))]
    with torch.no_grad():
        entry = int(torch.randint(weight.numel(), (), generator=draw, device="cpu"))
        value, change = weight.view(-1)[entry], _PERTURBATION
        if learner.masters is not None and not learner.masters.keep:
            change = max(change, torch.finfo(torch.float16).eps * abs(value.item()))
        value += change
    if learner.masters is not None:
        learner.masters.write_back()
