"""The built-in training loop: one run of a model on a corpus, recorded and judged."""

import platform
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import gradlab.probes
from gradlab.config import RecordConfig, RunConfig
from gradlab.data.batches import Batch, train_batch, validation_batches
from gradlab.data.corpus import Corpus, corpora_of
from gradlab.data.entropy import unigram_entropy
from gradlab.errors import ConfigError, GradlabError, in_words
from gradlab.models.loss import token_loss
from gradlab.parallel.launch import device_name, joined, lost_in_words
from gradlab.parallel.model import put_away
from gradlab.parallel.ranks import ALONE, Ranks
from gradlab.paths import as_path
from gradlab.precision.device_facts import bits_depend_on, device_facts
from gradlab.probe_names import PROBES
from gradlab.probes.distributed.processes import Processes, processes_of
from gradlab.probes.engine.follower import LoopFollower
from gradlab.probes.engine.recorder import Recorder, recorded_of
from gradlab.probes.probe import Columns, Probe
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run, run_of_before
from gradlab.runs.tokenizer_file import keep_tokenizer, kept_tokenizer
from gradlab.runs.verdict import Reason, Verdict
from gradlab.runs.writer import RunWriter
from gradlab.training.checkpoint import LEAD, Checkpoint, Checkpoints
from gradlab.training.compiled import check_probes, compiler_in_words
from gradlab.training.device import check_format, repeatable, resolve_device
from gradlab.training.interrupt import interrupt_between_steps
from gradlab.training.judged_run import JudgedRun
from gradlab.training.memory_needed import check_memory, memory_in_words
from gradlab.training.progress import Progress
from gradlab.training.resume import bytes_of, go_on, taken
from gradlab.training.stability import StabilityMonitor
from gradlab.training.step import Learner, make_learner, training_step
from gradlab.training.weights import save_weights


def train(
    config: RunConfig,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    between_steps: Callable[[], None] = lambda: None,
) -> Run:
    """Train one model as configured, until its last step or until it has destabilised.

    The same config gives the same losses to the bit on the same machine, torch and thread count.

    Args:
        config: Everything that decides what the run does.
        out: Run directory to make; it must not exist or be empty, unless `resume`. None keeps the
            run in memory.
        resume: Go on with the run of this config that lies in `out`, from its newest checkpoint;
            from step 0 if it has none. One that has finished is returned as it is.
        progress: Called after each look at the device: every step on a CPU, every
            `config.record.window` steps elsewhere.
        between_steps: Called after each step; a KeyboardInterrupt that it raises ends the run as
            Ctrl-C does.

    Returns:
        The finished run: its tables, and `.verdict`.

    Raises:
        GradlabError: A corpus, device, folder or checkpoint that cannot be used; a disk or memory
            that is full.
        KeyboardInterrupt: Passed on once everything recorded so far has been written, and a
            checkpoint.

    Under torchrun every process calls it. The first writes, and has the rows that this returns;
    those of the others are empty.
    """
    if resume and out is None:
        raise ConfigError("resume needs out, the folder of the run that is to go on.")
    if config.record.keep_weights and out is None:
        raise ConfigError("keep_weights needs out, the folder that they are kept in.")
    before = run_of_before(as_path(out), config) if resume and out else None
    if before is not None and before.status == "finished":
        return before
    with joined(config) as ranks:
        return _train(config, out, ranks, resume, before, progress, between_steps)


def _train(
    config: RunConfig,
    out: str | Path | None,
    ranks: Ranks,
    resume: bool,
    before: Run | None,
    progress: Callable[[Progress], None] | None,
    between_steps: Callable[[], None],
) -> Run:
    device = resolve_device(device_name(config.device, ranks.size))
    check_format(config.precision, device)
    check_memory(config, device, ranks)
    (corpus,) = corpora_of([config], None if before is None else kept_tokenizer(before))
    with repeatable(device, ranks.seed(config.seed)):
        with memory_in_words(config, device, ranks):
            learner = make_learner(config, device, ranks)
        record = config.record
        probes = chosen_probes(record)
        if config.compile:
            check_probes(probes)
        entropy = unigram_entropy(corpus.train)
        info = (
            recorded_facts(corpus, device, learner)
            | {"unigram_entropy": entropy}
            | recorded_of(probes)
            | {"events": record.events}
        )
        made_on = bits_depend_on(info["device"])
        writer: RunWriter | MemoryWriter
        saved: Checkpoint | None = None
        if out is None or not ranks.is_first:
            writer = MemoryWriter(config, info)
        else:
            writer = RunWriter(out, config, info, resume=resume)
        if out is not None and resume:
            saved = go_on(writer, config, made_on, learner)
        with set_up(writer, is_new=before is None):
            first_step = saved.facts["step"] if saved else 0
            processes = processes_of(learner.model, dist.group.WORLD) if ranks.size > 1 else None
            follower = LoopFollower(
                learner.subject,
                probes,
                every=record.every,
                events=record.events,
                scaler=learner.scaler,
                first_step=first_step,
                carried=saved.facts["follower"] if saved else None,
                processes=processes,
            )
            monitor = StabilityMonitor(config.stability, entropy)
            write = writer.write if ranks.is_first else _write_nowhere
            judged = JudgedRun(config, follower, Recorder(write), monitor)
            if saved:
                judged.restore(saved.facts["judged"])
            checkpoints: Checkpoints | None = None
            if out is not None:
                checkpoints = Checkpoints(
                    as_path(out),
                    record.checkpoint_every,
                    partial(taken, config, made_on, learner, judged, writer),
                    size=bytes_of(learner),
                    first_step=first_step,
                    # A break is seen as late as that after its first step.
                    reach=LEAD + config.stability.patience + _window(config, device),
                    ranks=ranks,
                )
            if isinstance(writer, RunWriter):
                keep_tokenizer(writer.path, corpus.tokenizer)
        reason: Reason = "completed"
        with closing(follower), _together(processes):
            try:
                # Opened once here: entering it costs more than a small model's product.
                with (
                    memory_in_words(config, device, ranks),
                    compiler_in_words(),
                    lost_in_words(ranks),
                    learner.precision.arithmetic(),
                ):
                    run_steps(
                        config,
                        corpus,
                        learner,
                        judged,
                        checkpoints=checkpoints,
                        progress=progress if ranks.is_first else None,
                        between_steps=between_steps,
                    )
                    if config.record.keep_weights and out is not None:
                        save_weights(as_path(out), learner.model, ranks)
            except BaseException as error:
                reason = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
                if processes is not None and reason == "error":
                    processes.hurry()
                # To the others of a process that dies torchrun sends SIGTERM.
                with interrupt_between_steps() if processes is not None else nullcontext():
                    save_what_there_is(writer, judged, reason, error)
                raise
        verdict = Verdict(**ranks.from_first(judged.verdict(reason).model_dump()))
        writer.finish("finished", verdict)
        if checkpoints:
            checkpoints.end()
    return writer.run()


def _write_nowhere(table: str, columns: Columns) -> None:
    """Take rows that the first process has written."""


@contextmanager
def set_up(writer: RunWriter | MemoryWriter, *, is_new: bool) -> Iterator[None]:
    """Within, what a run needs is made: where that fails, no folder of a run without a step stays.

    Args:
        writer: Of the run.
        is_new: Whether it does not go on with one that was there.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(writer, RunWriter):
            if is_new:
                writer.discard()
            else:
                kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
                with suppress(GradlabError):
                    writer.finish(kind, None, error=in_words(error))
        raise


@contextmanager
def _together(processes: Processes | None) -> Iterator[None]:
    """Within, the processes put together what they see; nobody waits for this one afterwards."""
    try:
        yield
    finally:
        if processes is not None:
            processes.leave()


def run_steps(
    config: RunConfig,
    corpus: Corpus,
    learner: Learner,
    judged: JudgedRun,
    *,
    until: int | None = None,
    batch_of: Callable[[int], int] = lambda step: step,
    checkpoints: Checkpoints | None = None,
    progress: Callable[[Progress], None] | None = None,
    between_steps: Callable[[], None] = lambda: None,
) -> None:
    """Take steps from the next one until the last or the break, and write them.

    Args:
        config: Of the run.
        corpus: Its text.
        learner: What is trained.
        judged: Its record; which step comes next, too.
        until: The step to stop before; the run's last comes first.
        batch_of: Number of the batches that a step takes.
        checkpoints: Where it can go on from.
        progress: As of `train`.
        between_steps: As of `train`.

    Raises:
        KeyboardInterrupt: After a checkpoint has been saved.
    """
    device, ranks = learner.precision.device, learner.ranks
    end = config.steps if until is None else min(until, config.steps)
    window = _window(config, device)
    broke = judged.broke
    with interrupt_between_steps() as check_interrupt:
        for step in range(judged.follower.next_step, end):
            if broke and config.stop_when_destabilised:
                break
            batches = step_batches(config, corpus, device, batch_of(step), ranks)
            training_step(learner, batches, config.lr(step), note=judged.note)
            if config.validates_after(step):
                judged.note_validation(_validate(config, corpus, device, learner))
            is_looked_at = (step + 1) % window == 0 or step + 1 == end
            if is_looked_at and judged.look() and checkpoints:
                checkpoints.hold(judged.broke_at)
            stopped: KeyboardInterrupt | None = None
            try:
                if is_looked_at and progress and (news := judged.progress()):
                    progress(news)
                check_interrupt()
                between_steps()
            except KeyboardInterrupt as error:
                stopped = error
            # Only where it looks anyway: what probes see may depend on when they learn of it.
            may_save = is_looked_at and step + 1 < end
            due = may_save and checkpoints is not None and checkpoints.due(step + 1)
            # The first process sees the whole batch; a signal may reach any.
            broke, due, stops = ranks.any(
                ranks.is_first and judged.broke, ranks.is_first and due, stopped is not None
            )
            if checkpoints and (due or stops):
                checkpoints.save(step + 1)
            if stops:
                raise stopped or KeyboardInterrupt("another process was stopped")
            if judged.recorder.unwritten >= config.record.window:
                judged.recorder.flush()
    judged.end(broke=broke)


def _window(config: RunConfig, device: torch.device) -> int:
    """Steps between two looks: on a CPU nothing is in flight, so that one waits for nothing."""
    return 1 if device.type == "cpu" else config.record.window


def save_what_there_is(
    writer: RunWriter | MemoryWriter, judged: JudgedRun, reason: Reason, error: BaseException
) -> None:
    """Write a failing run's last rows and its end, as far as that is possible.

    What made the run fail can make this fail too (a full disk): then the first error is the one
    to tell of, so a second one is added to it as a note.
    """
    try:
        judged.look()
        judged.end(broke=False)
        writer.finish(reason, judged.verdict(reason), error=in_words(error))
    except Exception as second:
        error.add_note(f"The run could not be closed either: {second}")


def step_batches(
    config: RunConfig, corpus: Corpus, device: torch.device, step: int, ranks: Ranks = ALONE
) -> list[Batch]:
    """A step's micro-batches, on the device: of several processes each one's share of them."""
    return [
        _to_device(
            train_batch(
                corpus.train,
                seed=config.seed,
                step=step,
                batch_size=config.batch_size,
                seq_len=config.model.max_seq_len,
                micro=micro,
                masking=corpus.masking,
                rows=ranks.share(config.batch_size),
            ),
            device,
        )
        for micro in range(config.accumulation)
    ]


def _to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device; to a GPU from pinned memory, without waiting for the copy."""
    if device.type == "cpu":
        return batch
    inputs, targets = (part.pin_memory().to(device, non_blocking=True) for part in batch)
    return inputs, targets


@torch.no_grad()
def _validate(config: RunConfig, corpus: Corpus, device: torch.device, learner: Learner) -> Tensor:
    """Mean loss over the validation batches, a 0-dim tensor on the device."""
    model, precision, ranks = learner.model, learner.precision, learner.ranks
    model.eval()
    losses = []
    with precision.arithmetic(), precision.autocast():
        for batch in validation_batches(
            corpus.val,
            batch_size=config.batch_size,
            seq_len=config.model.max_seq_len,
            count=config.val_batches,
            masking=corpus.masking,
            rows=ranks.share(config.batch_size),
        ):
            inputs, targets = _to_device(batch, device)
            losses.append(token_loss(model(inputs), targets, learner.targets_in_share(targets)))
    put_away(model, ranks)
    model.train()
    return ranks.mean(torch.stack(losses).mean())


def chosen_probes(record: RecordConfig) -> list[Probe]:
    """The probes that a run's record asks for, each once."""
    facts = [PROBES[name] for name in dict.fromkeys(record.probes)]
    return [getattr(gradlab.probes, probe.kind)(**probe.arguments) for probe in facts]


def recorded_facts(corpus: Corpus, device: torch.device, learner: Learner) -> dict[str, Any]:
    """What `run.json` says of a run beside its config."""
    with learner.precision.arithmetic():
        facts = device_facts(device)
    if learner.ranks.size > 1:
        facts["processes"] = f"{learner.ranks.size} ({learner.ranks.kind})"
    return {
        "device": {"name": platform.processor() or platform.machine(), **facts},
        "corpus": corpus.facts(),
        "params": sum(parameter.numel() for parameter in learner.model.parameters()),
    }
