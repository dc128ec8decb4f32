"""The tools, each as its documentation shows it, in its default configuration.

gradlab, DebugUnderflowOverflow, detect_anomaly and sherlorch say what they found. wandb, trainscope
and a logged norm leave numbers, which a person reads as charts: `chart_claims` reads them so.
"""

import asyncio
import io
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

import gradlab
from benchmarks.diagnosis.tool import Tool, chart_claims
from benchmarks.diagnosis.wandb_file import histories
from gradlab.analyses.finding import Finding
from gradlab.analyses.findings import findings
from gradlab.errors import GradlabError, GradlabWarning


class Gradlab(Tool):
    """`gradlab.attach` with its default probes, and what `gradlab inspect` then says."""

    title = "gradlab"
    package = "gradlab-diagnostics"

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def watching(
        self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None
    ) -> Iterator[None]:
        folder = tempfile.TemporaryDirectory(prefix="gradlab-diagnosis-")
        with folder, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            out = Path(folder.name) / "run"
            with gradlab.attach(model, optimizer, scaler=scaler, out=out) as self.probes:
                yield
            self.said += [str(w.message) for w in warned if w.category is GradlabWarning]
            if out.exists():  # the first process writes for all
                for finding in findings(gradlab.load(out)):
                    self.said += statements(finding)

    def loss(self, loss: Tensor) -> None:
        self.probes.loss(loss)

    def claims(self) -> list[str]:
        return self.said

    def is_report(self, error: Exception) -> bool:
        return isinstance(error, GradlabError)


def statements(finding: Finding) -> list[str]:
    """A finding's sentence, and the names in its table, each under its heading."""
    said = [f"{finding.what}: {finding.sentence}"]
    if finding.table is not None and finding.table.columns[0] != "step":  # else: a course
        names = finding.table.select_dtypes(exclude="number").astype(str)
        said.append("\n  ".join([f"{finding.what}:", *map(" ".join, names.to_numpy())]))
    return said


class UnderflowOverflow(Tool):
    """Its answer is the last frame that it prints before it raises."""

    title = "DebugUnderflowOverflow"
    package = "transformers"

    @contextmanager
    def watching(
        self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None
    ) -> Iterator[None]:
        from transformers.debug_utils import DebugUnderflowOverflow

        self.printed = io.StringIO()
        with redirect_stdout(self.printed):
            DebugUnderflowOverflow(model)
            yield

    def claims(self) -> list[str]:
        _, found, report = self.printed.getvalue().partition("Detected inf/nan during")
        if not found:
            return []
        # A frame begins with a module's name and class, far to the right of its numbers.
        frames = report.rstrip().split("\n" + " " * 17)
        return [f"{found} {frames[-1].strip()}"]

    def is_report(self, error: Exception) -> bool:
        return str(error).startswith("DebugUnderflowOverflow: inf/nan detected")


class DetectAnomaly(Tool):
    """torch's own: raises at the first backward operation that returns NaN."""

    title = "detect_anomaly"

    @contextmanager
    def watching(
        self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None
    ) -> Iterator[None]:
        with warnings.catch_warnings(record=True) as self.warned:
            warnings.simplefilter("always")
            with torch.autograd.detect_anomaly():
                yield

    def claims(self) -> list[str]:
        said = [str(warning.message) for warning in self.warned]
        return [text for text in said if text.startswith("Error detected")]

    def is_report(self, error: Exception) -> bool:
        return "returned nan values" in str(error)


class Sherlorch(Tool):
    """Asked about the loss, as its documentation has it."""

    title = "sherlorch"
    package = "sherlorch"

    @contextmanager
    def watching(
        self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None
    ) -> Iterator[None]:
        import sherlorch

        def start(*_: object) -> None:
            self.tracker.reset()
            self.tracker.enable()

        self.said: list[str] = []
        handle = model.register_forward_pre_hook(start)
        with sherlorch.trace(capture_stack=True) as self.tracker:
            self.tracker.watch(model, name="model")
            yield
        handle.remove()

    def loss(self, loss: Tensor) -> None:
        if not self.said and self.tracker.has_issue(loss):
            lines = str(self.tracker.diagnose(loss)).splitlines()
            self.said += [line.strip() for line in lines if "Culprit #" in line]

    def gradients(self) -> None:
        self.tracker.disable()  # the optimizer is no part of what it is asked about

    def claims(self) -> list[str]:
        return [claim.replace("[model.", "[") for claim in self.said]


class Watch(Tool):
    """A histogram of each parameter's gradient; one that is missing was not finite."""

    title = "wandb.watch"
    package = "wandb"

    @contextmanager
    def watching(
        self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None
    ) -> Iterator[None]:
        os.environ["WANDB_SILENT"] = "true"
        import wandb

        with tempfile.TemporaryDirectory(prefix="wandb-", ignore_cleanup_errors=True) as folder:
            self.run = wandb.init(mode="offline", dir=folder, project="diagnosis")
            try:
                self.run.watch(model, log="gradients", log_freq=1)
                yield
            finally:
                self.run.finish()
                self.series = histories(Path(folder))

    def loss(self, loss: Tensor) -> None:
        self.value = loss.item()

    def gradients(self) -> None:
        self.run.log({"loss": self.value})

    def claims(self) -> list[str]:
        return chart_claims(self.series)


class TrainScope(Tool):
    """Its report of the run, and the columns that its pages draw."""

    title = "trainscope"
    package = "trainscope"

    @contextmanager
    def watching(
        self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None
    ) -> Iterator[None]:
        import trainscope

        with tempfile.TemporaryDirectory(prefix="trainscope-") as folder:
            config = trainscope.TrainScopeConfig(run_dir=folder, run_name="run")
            self.scope = trainscope.TrainScope(model, optimizer, config=config).attach()
            try:
                yield
            finally:
                self.scope.detach()
                self.read(Path(folder) / "run")

    def read(self, run: Path) -> None:
        from trainscope.analysis import read_arrow
        from trainscope.report import build_run_report, render_run_markdown

        report = render_run_markdown(asyncio.run(build_run_report(run)))
        self.said = [line for line in report.splitlines() if "crossed" in line or "Spike s" in line]
        rows = asyncio.run(read_arrow(run / "global.arrow"))
        self.series = {"loss": [row["loss"] for row in rows]}
        for file in sorted((run / "layers").glob("*.arrow")):
            rows = asyncio.run(read_arrow(file))
            self.series[file.stem] = [
                math.nan if row["grad_nan_inf_ratio"] else row["grad_l2_norm"] for row in rows
            ]

    def loss(self, loss: Tensor) -> None:
        self.value = loss.item()

    def gradients(self) -> None:
        self.scope.step(self.value)

    def claims(self) -> list[str]:
        return self.said + chart_claims(self.series)


class LoggedNorm(Tool):
    """The loss and the norm of all gradients, as most loops log them."""

    title = "a logged norm"

    @contextmanager
    def watching(
        self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None
    ) -> Iterator[None]:
        self.parameters = list(model.parameters())
        self.series: dict[str, list[float]] = {"loss": [], "grad_norm": []}
        yield

    def loss(self, loss: Tensor) -> None:
        self.series["loss"].append(loss.item())

    def gradients(self) -> None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.series["grad_norm"].append(nn.utils.get_total_norm(gradients).item())

    def claims(self) -> list[str]:
        return chart_claims(self.series)


TOOLS: dict[str, type[Tool]] = {
    tool.title: tool
    for tool in (
        Gradlab,
        UnderflowOverflow,
        DetectAnomaly,
        Sherlorch,
        Watch,
        TrainScope,
        LoggedNorm,
    )
}
