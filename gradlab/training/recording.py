"""From what steps leave on the device to rows in a run's tables, and to its verdict."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from gradlab.config import RunConfig
from gradlab.probes.headroom import Headroom, SiteStep
from gradlab.probes.overflows import overflows, site_label
from gradlab.probes.roles import role
from gradlab.probes.statistics import headroom_bits
from gradlab.runs.verdict import Reason, Verdict
from gradlab.training.progress import Progress
from gradlab.training.stability import StabilityMonitor
from gradlab.training.step import StepResult

Columns = dict[str, list[Any]]


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
    """

    config: RunConfig
    writer: Writer
    headroom: Headroom | None
    monitor: StabilityMonitor
    _last: Progress | None = None
    _last_sites: SiteStep | None = None
    _results: list[Tensor] = field(default_factory=list)
    _validations: dict[int, Tensor] = field(default_factory=dict)
    _seconds: list[float] = field(default_factory=list)
    _looked: int = 0
    _broke: bool = False
    _updates: int = 0
    _began: float = field(default_factory=time.perf_counter)
    _rows: dict[str, Columns] = field(default_factory=dict)
    _site_steps: list[SiteStep] = field(default_factory=list)
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
        site_steps = self.headroom.collect() if self.headroom else [None] * len(numbers)
        seconds = self._seconds
        self._results, self._seconds = [], []
        for row, elapsed, sites in zip(numbers, seconds, site_steps, strict=False):
            self._broke = self._take(row, elapsed, sites)
            if self._broke and self.config.stop_when_destabilised:
                break
        return self._broke

    def flush(self) -> None:
        """Write the rows of the steps looked at; the last steps' headroom is held back.

        Whether a step stands before a break, where every step's headroom is of interest, shows
        only later.
        """
        held_back = max(self.config.record.window, 2 * self.config.stability.patience)
        self._write(headroom_until=self._looked - held_back, every_step=False)

    def flush_all(self, *, broke: bool) -> None:
        """Write what is left; the headroom held back at every step if the run broke."""
        self._write(headroom_until=self._looked, every_step=broke)

    @property
    def unwritten(self) -> int:
        """Steps looked at since the last flush."""
        return len(self._rows.get("steps", {}).get("step", ()))

    def progress(self) -> Progress | None:
        """The last step looked at, with its tightest site; None before the first."""
        if self._last is None:
            return None
        least, tightest = _tightest(self._last_sites)
        return replace(self._last, least_headroom=least, tightest_site=tightest)

    def verdict(self, otherwise: Reason) -> Verdict:
        """The run's verdict, with the first overflow at the step that it names."""
        step, lr = (self._last.step, self._last.lr) if self._last else (0, self.config.lr(0))
        verdict = self.monitor.verdict(otherwise=otherwise, step=step, lr=lr)
        if not verdict.broke or verdict.step is None:
            return verdict
        return verdict.replace(first_overflow=self._producers.get(verdict.step))

    def _take(self, row: list[float], elapsed: float, sites: SiteStep | None) -> bool:
        loss, grad_norm, loss_scale, next_loss_scale = row
        step = self._looked
        self._looked += 1
        lr = self.config.lr(step)
        skipped = next_loss_scale < loss_scale
        self._updates += not skipped
        val_loss = self._validations.pop(step, None)
        self._add(
            "steps",
            step=step,
            update=self._updates,
            lr=lr,
            loss=loss,
            val_loss=None if val_loss is None else val_loss.item(),
            loss_scale=loss_scale,
            skipped=skipped,
            grad_norm=grad_norm,
            tokens=(step + 1) * self.config.tokens_per_step,
            seconds=elapsed,
        )
        if sites:
            self._site_steps.append(sites)
            self._add_overflows(sites, loss_scale, skipped)
        # Which site is tightest takes a look at all of them: only when somebody asks.
        self._last = Progress(step, self.config.steps, lr, loss, loss_scale, None, None, elapsed)
        self._last_sites = sites
        gradient_finite = math.isfinite(grad_norm) and not skipped
        return self.monitor.observe(step, lr, loss, loss_scale, gradient_finite)

    def _add(self, table: str, **values: Any) -> None:
        columns = self._rows.setdefault(table, {name: [] for name in values})
        for name, value in values.items():
            columns[name].append(value)

    def _add_overflows(self, sites: SiteStep, loss_scale: float, skipped: bool) -> None:
        producer: str | None = None
        for event in overflows(sites):
            if event.producer:
                producer = self._producers[sites.step] = site_label(event.place)
            layer, op = role(event.place.site)
            self._add(
                "overflows",
                step=sites.step,
                order=event.order,
                site=event.place.site,
                layer=layer,
                op=op,
                direction=event.place.direction,
                kind=event.kind,
                count=event.count,
                numel=event.place.numel,
                producer=producer,
                loss_scale=loss_scale,
                skipped=skipped,
            )

    def _write(self, *, headroom_until: int, every_step: bool) -> None:
        due = [sites for sites in self._site_steps if sites.step < headroom_until]
        self._site_steps = self._site_steps[len(due) :]
        for sites in due:
            if sites.sampled or every_step:
                self._add_headroom(sites)
        rows, self._rows = self._rows, {}
        for table, columns in rows.items():
            self.writer.write(table, columns)

    def _add_headroom(self, sites: SiteStep) -> None:
        for index, place in enumerate(sites.places):
            layer, op = role(place.site)
            counts = sites.details.get(index)
            finite = sites.finite(index)
            max_abs = sites.max_abs(index)
            self._add(
                "headroom",
                step=sites.step,
                site=place.site,
                layer=layer,
                op=op,
                direction=place.direction,
                dtype=str(place.dtype).removeprefix("torch."),
                max_abs=max_abs,
                headroom_bits=headroom_bits(max_abs, nonfinite=not finite),
                underflow_frac=counts.subnormal / max(1, counts.nonzero) if counts else None,
                nonfinite=0 if finite or not counts else counts.infinite + counts.nan,
            )


def _tightest(sites: SiteStep | None) -> tuple[float | None, str | None]:
    """The least headroom of a step and its site, the first of equals in execution order.

    In an FP16 run only FP16 tensors count: no other can overflow. Where there is none, all do.
    """
    if sites is None or not sites.places:
        return None, None
    fp16 = [i for i, place in enumerate(sites.places) if place.dtype is torch.float16]
    index = max(
        fp16 or range(len(sites.places)),
        key=lambda i: sites.max_abs(i) if sites.finite(i) else math.inf,
    )
    bits = headroom_bits(sites.max_abs(index), nonfinite=not sites.finite(index))
    return bits, site_label(sites.places[index])
