"""From what steps leave on the device to rows in a run's tables, and to its verdict."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from gradlab.config import RunConfig
from gradlab.fp16 import headroom_bits
from gradlab.probes.engine.session import Session
from gradlab.probes.engine.window import RecordedStep
from gradlab.probes.headroom.overflows import site_label
from gradlab.probes.headroom.probe import Headroom
from gradlab.probes.sites import SiteStep
from gradlab.probes.tables import Tables, append
from gradlab.runs.verdict import Reason, Verdict
from gradlab.training.progress import Progress
from gradlab.training.stability import StabilityMonitor
from gradlab.training.step import StepResult


class Writer(Protocol):
    """Where rows go: a run directory or memory (`gradlab.runs.writer`)."""

    def write(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Append rows to a table."""


@dataclass
class Recording:
    """Keeps a run's steps on the device until they are looked at, then judges and writes them.

    `keep` takes a step as it comes, without touching a device value. `look` copies what has
    gathered, in one go, and follows the stability criterion over it: the tables end at the step
    where the criterion fired, however many steps were in flight.

    Attributes:
        config: Of the run.
        writer: Where its rows go.
        session: The probes at work on its model, if there are any.
        headroom: The one of them that says which site is tightest, if it is there.
        monitor: Judges.
    """

    config: RunConfig
    writer: Writer
    session: Session | None
    headroom: Headroom | None
    monitor: StabilityMonitor
    _last: Progress | None = None
    _results: list[Tensor] = field(default_factory=list)
    _validations: dict[int, Tensor] = field(default_factory=dict)
    _seconds: list[float] = field(default_factory=list)
    _looked: int = 0
    _broke: bool = False
    _updates: int = 0
    _began: float = field(default_factory=time.perf_counter)
    _rows: Tables = field(default_factory=dict)
    _producers: dict[int, str] = field(default_factory=dict)

    def keep(self, result: StepResult, val_loss: Tensor | None = None) -> None:
        """Take in the next step, and the validation made after it if there was one."""
        if val_loss is not None:
            self._validations[self._looked + len(self._results)] = val_loss
        self._results.append(result.packed())
        self._seconds.append(time.perf_counter() - self._began)

    def look(self) -> bool:
        """Judge the steps kept since the last look; True if the run has destabilised.

        Steps after that are dropped, unless the run goes on all the same.
        """
        if not self._results:
            return self._broke
        numbers = torch.stack(self._results).tolist()
        self._seconds[-1] = time.perf_counter() - self._began  # a GPU had not come so far
        probed: Iterable[RecordedStep | None] = [None] * len(numbers)
        if self.session:
            probed = self.session.collect()
        seconds = self._seconds
        self._results, self._seconds = [], []
        # A step that failed on its way has readings and no result.
        for row, elapsed, readings in zip(numbers, seconds, probed, strict=False):
            self._broke = self._take(row, elapsed, readings)
            if self._broke and self.config.stop_when_destabilised:
                break
        return self._broke

    def flush(self) -> None:
        """Write the rows of the steps looked at."""
        rows, self._rows = self._rows, {}
        for table, columns in rows.items():
            self.writer.write(table, columns)

    def flush_all(self, *, broke: bool) -> None:
        """Write what is left, with the headroom of every step on the way if the run broke."""
        if broke and self.headroom:
            append(self._rows, self.headroom.lead_up(until=self._looked - 1))
        self.flush()

    @property
    def unwritten(self) -> int:
        """Steps looked at since the last flush."""
        return len(self._rows.get("steps", {}).get("step", ()))

    def progress(self) -> Progress | None:
        """The last step looked at, with its tightest site; None before the first."""
        if self._last is None:
            return None
        least, tightest = _tightest(self.headroom.latest if self.headroom else None)
        return replace(self._last, least_headroom=least, tightest_site=tightest)

    def verdict(self, otherwise: Reason) -> Verdict:
        """The run's verdict, with the first overflow at the step that it names."""
        step, lr = (self._last.step, self._last.lr) if self._last else (0, self.config.lr(0))
        verdict = self.monitor.verdict(otherwise=otherwise, step=step, lr=lr)
        if not verdict.broke or verdict.step is None:
            return verdict
        return verdict.replace(first_overflow=self._producers.get(verdict.step))

    def _take(self, row: list[float], elapsed: float, probed: RecordedStep | None) -> bool:
        loss, grad_norm, loss_scale, next_loss_scale = row
        step = self._looked
        self._looked += 1
        lr = self.config.lr(step)
        skipped = next_loss_scale < loss_scale
        self._updates += not skipped
        val_loss = self._validations.pop(step, None)
        values = {
            "step": step,
            "update": self._updates,
            "lr": lr,
            "loss": loss,
            "val_loss": None if val_loss is None else val_loss.item(),
            "loss_scale": loss_scale,
            "skipped": skipped,
            "grad_norm": grad_norm,
            "tokens": (step + 1) * self.config.tokens_per_step,
            "seconds": elapsed,
        }
        append(self._rows, {"steps": {name: [value] for name, value in values.items()}})
        for tables in probed.tables if probed else ():
            append(self._rows, tables)
            if events := tables.get("overflows"):
                self._producers[step] = events["producer"][0]
        # Which site is tightest takes a look at all of them: only when somebody asks.
        self._last = Progress(step, self.config.steps, lr, loss, loss_scale, None, None, elapsed)
        gradient_finite = math.isfinite(grad_norm) and not skipped
        return self.monitor.observe(step, lr, loss, loss_scale, gradient_finite)


def _tightest(sites: SiteStep | None) -> tuple[float | None, str | None]:
    """The least headroom of a step and its site, the first of equals in execution order.

    In an FP16 run only FP16 tensors count: no other can overflow. Where there is none, all do.
    """
    if sites is None or not sites.order:
        return None, None
    fp16 = [i for i in sites.order if sites.places[i].dtype is torch.float16]
    index = max(
        fp16 or sites.order,
        key=lambda i: sites.max_abs(i) if sites.finite(i) else math.inf,
    )
    bits = headroom_bits(sites.max_abs(index), nonfinite=not sites.finite(index))
    return bits, site_label(sites.places[index])
