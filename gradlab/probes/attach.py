"""`gradlab.attach`: probes on any model, in the user's own training loop."""

import atexit
import sys
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler

from gradlab.config import Events
from gradlab.crash.keeper import Keeper
from gradlab.errors import GradlabError, GradlabWarning, in_words, unknown
from gradlab.probes.arguments import (
    flag,
    meta_of,
    outer_first,
    probes_of,
    run_folder,
    scaler_of,
    sinks_of,
    whole_number,
)
from gradlab.probes.cadence import Cadence
from gradlab.probes.chosen import check_compiled, default_probes, info_of, is_total
from gradlab.probes.distributed.processes import processes_of
from gradlab.probes.engine.follower import LoopFollower
from gradlab.probes.engine.recorder import Recorder
from gradlab.probes.gradient_norms import TotalNorm
from gradlab.probes.probe import Columns, Probe
from gradlab.probes.subject import optimizers_of, subject_of
from gradlab.runs.gather import Recording
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run
from gradlab.runs.writer import RunWriter

if TYPE_CHECKING:
    import pandas as pd

Optimizer = torch.optim.Optimizer

_attached: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


class Sink(Protocol):
    """Somewhere else for rows to go: TensorBoard, W&B, a user's own."""

    def write(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Take rows of a table, `step` among its columns."""

    def close(self) -> None:
        """No more rows will come."""


def attach(
    model: nn.Module,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    *,
    scaler: GradScaler | None = None,
    probes: Iterable[Probe] | None = None,
    every: Cadence = 1,
    events: Events = "exact",
    out: str | Path | None = None,
    memory: bool | None = None,
    sinks: Iterable[Sink] = (),
    meta: Mapping[str, Any] | None = None,
    window: int = 50,
    first_step: int = 0,
    group: "dist.ProcessGroup | None" = None,
    keep: str | Path | None = None,
    keep_steps: int = 1,
) -> "Probes":
    """Record what happens inside a model while the user's own loop trains it.

        with gradlab.attach(model, optimizer, scaler=scaler, out="runs/mine", every=10) as probes:
            for batch in loader:
                ...
        probes.table("grad_norms")

    The losses and weights stay the same to the bit, and afterwards no hook remains. A step is an
    attempt of the loop, counted from 0: it ends when the optimizer steps, or when the scaler keeps
    it from stepping.

    Args:
        model: Any module; DistributedDataParallel, FSDP2 and torch.compile's are seen through.
        optimizer: That trains it, or several. Without one, call `.step()` at each step's end.
        scaler: The GradScaler, if the loop uses one.
        probes: What to look at; None for gradient norms, learned scales, the health of parameters
            and buffers and headroom (before torch 2.13, unless the model is compiled).
        every: Rows are written at every n-th step, or where a function of the step says so; a
            probe may have a cadence of its own.
        events: "exact": every step is looked at, and one that was skipped, or had something that
            was not finite, is recorded with its rows whatever the cadence. "skipped": so is one
            with a gradient that was not finite, as every skipped step has; it is looked at
            afterwards, as its passes are made again. That costs next to nothing while all is well,
            but for one number a step read on the host, and hooks of the user's own are called
            again. "sampled": only the steps of the cadence are looked at.
        out: Run directory to make; `~` is the home folder. With several processes the first one,
            of rank 0, writes it.
        memory: Keep the rows in memory; None: if there is no `out`.
        sinks: More places for the rows.
        meta: What the run is, as {"norm": "pre", "lr": 3e-4}: kept in run.json, told by inspect and
            report, and by figures where it differs between runs.
        window: Steps between two copies from the device, as many in every process.
        first_step: Number of the next step: that of the checkpoint in a training resumed.
        group: Processes that train the model together, each with its share of the batch, all of
            which attach: the first records the largest activations, the overflows and the mean
            loss of all. None for those that DistributedDataParallel or FSDP2 show.
        keep: Folder for what it takes to do a bad step again with `gradlab.replay`: one that was
            skipped or had something that was not finite, or in which the loop raised. Of a streak
            of them the first is kept. For that, one number a step is read on the host.
        keep_steps: How many are kept at most, the newest.

    Raises:
        GradlabError: There is nothing to train in the model, none of it is the optimizer's, probes
            are attached to it already, a pattern fits nothing, or `out` or `keep` cannot be
            written.
    """
    return Probes(
        model,
        optimizers_of(optimizer),
        scaler=scaler,
        probes=probes,
        every=every,
        events=events,
        out=out,
        memory=memory,
        sinks=sinks,
        meta=meta,
        window=window,
        first_step=first_step,
        group=group,
        keep=keep,
        keep_steps=keep_steps,
    )


class Probes(Recording):
    """Probes at work on a model, until `close`. Made by `attach`."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: Mapping[Optimizer, Optimizer],
        *,
        scaler: GradScaler | None,
        probes: Iterable[Probe] | None,
        every: Cadence,
        events: Events,
        out: str | Path | None,
        memory: bool | None,
        sinks: Iterable[Sink],
        meta: Mapping[str, Any] | None,
        window: int,
        first_step: int,
        group: "dist.ProcessGroup | None",
        keep: str | Path | None,
        keep_steps: int,
    ) -> None:
        window = whole_number("window", window, 1, "rows are written every so many steps")
        first_step = whole_number("first_step", first_step, 0, "the number of the next step")
        if events not in get_args(Events):
            raise GradlabError(unknown("events", events, get_args(Events)))
        most = whole_number("keep_steps", keep_steps, 1, "how many bad steps are kept")
        folder, memory = run_folder("out", out), flag("memory", memory)
        kept = run_folder("keep", keep)
        sinks, scaler, told = sinks_of(sinks), scaler_of(scaler), meta_of(meta)
        subject = subject_of(model, tuple(dict.fromkeys(optimizers.values())))
        if subject.model in _attached:
            raise GradlabError(
                "probes are attached to this model already: close those first, or give attach all "
                "the probes at once."
            )
        chosen = default_probes(model, subject) if probes is None else probes_of(probes)
        check_compiled(model, chosen)
        self._model = subject.model
        self._window = window
        self._recorder = Recorder(self._write)
        self._closed = False
        self._is_first = not dist.is_initialized() or dist.get_rank() == 0
        with ExitStack() as undo:
            self._processes = processes_of(model, group)
            if self._processes is not None:
                undo.callback(self._processes.leave)
            info = info_of(subject, chosen) | {"events": events, "meta": told}
            self._keeper: Keeper | None = None
            self._folder: RunWriter | None = None
            for path in outer_first(folder if self._is_first else None, kept):
                if path is kept:
                    self._keeper = Keeper(path, subject, scaler, most=most)
                    undo.callback(self._keeper.close)
                else:
                    self._folder = RunWriter(path, None, info)
                    undo.callback(self._folder.discard)
            self._follower = LoopFollower(
                subject,
                chosen if any(map(is_total, chosen)) else (*chosen, TotalNorm()),
                optimizers=optimizers,
                every=every,
                events=events,
                scaler=scaler,
                first_step=first_step,
                on_step=self._after_step,
                processes=self._processes,
                keeper=self._keeper,
            )
            undo.callback(self._follower.close)
            in_memory = memory or (memory is None and folder is None)
            self._memory = MemoryWriter(None, info) if in_memory else None
            undo.pop_all()
        self._sinks: list[Sink] = [*sinks] if self._is_first else []
        writers: list[Any] = [self._folder, self._memory, *self._sinks]
        self._open = [writer for writer in writers if writer is not None]
        _attached.add(self._model)
        atexit.register(self._at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, GeneratorExit):  # the loop's generator was dropped: no error
            error = None
        try:
            self.close(error)
        except Exception as second:
            if error is None:
                raise
            error.add_note(f"The recording could not be ended either: {second}")

    def step(self) -> None:
        """The loop's step is over; for a loop whose optimizer was not given to `attach`.

        Raises:
            GradlabError: An optimizer was given, whose steps are counted, or the probes are closed.
        """
        self._refuse_if_closed()
        if self._follower.follows_optimizers:
            raise GradlabError("the steps of the optimizer that attach was given are counted.")
        self._follower.end_step()

    def loss(self, loss: Tensor | float) -> None:
        """Record the current step's loss, before the step; of several micro-batches, their mean.

        Raises:
            GradlabError: The loss is not one number, or the probes are closed.
        """
        self._refuse_if_closed()
        self._follower.note_loss(loss)

    def flush(self) -> None:
        """Copy what is on the device, and write it. Happens by itself once a window.

        With several processes, the first writes up to what the others have delivered, which they do
        once a window and where they flush themselves.
        """
        if not self._closed:
            self._flush(wait=False)

    def _flush(self, *, wait: bool) -> None:
        for recorded in self._follower.collect(wait=wait):
            self._recorder.take(recorded)
        self._recorder.flush()

    def _write(self, table: str, columns: Columns) -> None:
        for writer in list(self._open):
            self._guarded(writer, partial(writer.write, table, columns))

    def run(self) -> Run:
        """Everything recorded so far, as `gradlab.load` gives it.

        Raises:
            GradlabError: This process keeps no rows: another one does.
        """
        self.flush()
        keeper = self._memory or self._folder
        if keeper is None:
            raise GradlabError("this process keeps no rows: ask the first one, of rank 0.")
        return keeper.run()

    def table(self, name: str) -> "pd.DataFrame":
        """A table of everything recorded so far.

        Raises:
            GradlabError: There is no such table, or no probe that fills it.
        """
        return self.run().table(name)

    def _repr_html_(self) -> str:
        return self.run()._repr_html_()

    def close(self, error: BaseException | None = None) -> None:
        """Write what is left, and take off every hook. Closing twice is no mistake.

        Args:
            error: What ended the training before its time, for `run.json`.
        """
        if self._closed:
            return
        self._closed = True
        if error is not None and self._processes is not None:
            self._processes.hurry()
        # Each part even where the one before fails: after a CUDA error nothing can be copied.
        try:
            self._follower.end_unfinished(error)
        finally:
            self._follower.close()
            if self._keeper is not None:
                self._keeper.close()
            _attached.discard(self._model)
            atexit.unregister(self._at_exit)
            try:
                self._flush(wait=True)
            finally:
                if self._processes is not None:
                    self._processes.leave()
                self._finish(error)
                # Who keeps the probes for their tables keeps no model and no optimizer.
                del self._follower, self._keeper, self._model

    def _finish(self, error: BaseException | None) -> None:
        """Close what was written to, and say what ended the training."""
        status = "finished"
        if error is not None:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
        told: dict[str, Any] = {} if error is None else {"error": in_words(error)}
        if self._keeper is not None:
            told |= self._keeper.told
        for writer in list(self._open):
            if isinstance(writer, RunWriter | MemoryWriter):
                self._guarded(writer, partial(writer.finish, status, None, **told))
            else:
                self._guarded(writer, writer.close)

    def _at_exit(self) -> None:
        # Python leaves here what ended the script; in a session, any earlier mistake of the user's.
        ended_by = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
        self.close(ended_by)

    def _after_step(self) -> None:
        # Whoever flushed between: the processes' windows end at the same steps.
        if not self._closed and self._follower.next_step % self._window == 0:
            self._flush(wait=True)

    def _guarded(self, writer: Any, action: Any) -> None:
        """Do it; if it fails, say so once and go on without that writer: training comes first."""
        # What a sink of somebody else's raises can be anything; our own writers' mistakes are ours.
        is_sink = any(writer is sink for sink in self._sinks)
        expected = Exception if is_sink else GradlabError
        try:
            action()
        except expected as error:
            self._open = [other for other in self._open if other is not writer]
            if isinstance(writer, RunWriter):  # not to stand there as if it were still written
                with suppress(GradlabError):
                    writer.finish("error", None, error=in_words(error))
            warnings.warn(
                f"recording stops here, training goes on: {in_words(error)}",
                GradlabWarning,
                stacklevel=3,
            )

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise GradlabError("these probes are closed: attach again to record more.")
