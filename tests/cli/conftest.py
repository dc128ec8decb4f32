from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser
from made_up_runs import STEPS, begin, nano, write_headroom, write_rows, write_steps

import gradlab.pages.pictures  # noqa: F401 (before a test replaces what it imports)
from gradlab.config import PrecisionConfig, RecordConfig, RunConfig, ScheduleConfig
from gradlab.runs.verdict import Verdict
from gradlab.runs.writer import RunWriter
from gradlab.studies import run as study_module
from gradlab.training.loop import train


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "text.txt"
    file.write_text("a rose is a rose is a rose. " * 40)
    return str(file)


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pytest loads readline, which leaves a terminal's width to child processes: xdist's workers.
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not rendered, which takes most of the time: each is an SVG of its own.

    They are rendered in `test_figures.py`, `test_report_html.py` and `test_run_stability.py`.
    """
    numbers = count()
    for module in ("gradlab.figures.save", "gradlab.pages.pictures"):
        monkeypatch.setattr(
            f"{module}.rendered", lambda figure, form: f"<svg>{next(numbers)}</svg>".encode()
        )


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


WriteRun = Callable[..., Path]


@pytest.fixture(scope="session")
def write_run() -> WriteRun:
    """Writes a run of a stability test without training: eight steps, then a verdict."""

    def write(
        folder: Path,
        arch: str = "pre-ln",
        seed: int = 0,
        *,
        tables: Sequence[str] = ("headroom",),
        loss: float = 2.0,
        reason: str | None = "loss_nonfinite",
        **fields: Any,
    ) -> Path:
        usual = {"schedule": ScheduleConfig(kind="ramp", lr_step=1e-2), "steps": 4000}
        usual |= {"precision": PrecisionConfig(name="fp16")}
        usual |= {"record": RecordConfig(probes=tuple(tables))}
        config = nano(arch, seed, **{**usual, **fields})
        info = {"params": 316_416, "corpus": {"name": "text", "sha256": "ab" * 32}}
        writer = RunWriter(folder, config, info)
        write_steps(writer, config, loss)
        if "headroom" in tables:
            write_headroom(writer)
        if "grad_norms" in tables:
            rows = [(step, layer) for step in STEPS for layer in range(2)]
            write_rows(
                writer,
                "grad_norms",
                step=[step for step, _ in rows],
                param=[f"blocks.{layer}.feed_forward.fc2.weight" for _, layer in rows],
                layer=[layer for _, layer in rows],
                grad_l1=[loss * (3 - layer) for _, layer in rows],
                nonfinite=0 if loss == loss else 10,
            )
        if reason is not None:
            lr = 0.07 + 0.001 * seed + 0.01 * (arch != "pre-ln")
            site = "blocks.0.attention.scores" if reason == "loss_nonfinite" else None
            verdict = Verdict(reason=reason, step=7, lr=lr, first_overflow=site, lr_min_loss=0.03)
            writer.finish("error" if reason == "error" else "finished", verdict)
        return folder

    return write


@pytest.fixture
def jobs_by(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Studies whose runs a function writes at once, and calls failed where it gives a sentence;
    Ctrl-C comes after the first `until` of them.
    """

    def fake(write: Callable[[Path, RunConfig], str | None], *, until: int | None = None) -> None:
        numbers = count()

        def run_jobs(jobs, *, limit, on_progress, on_end):  # type: ignore[no-untyped-def]
            for job in jobs:
                if next(numbers) == until:
                    raise KeyboardInterrupt
                on_end(job.name, write(job.path, job.config))

        monkeypatch.setattr(study_module, "run_jobs", run_jobs)

    return fake


@pytest.fixture
def fake_jobs(jobs_by: Callable[..., None]) -> Callable[..., None]:
    """The same, of runs with the loss that a function gives, or broken where that is None."""

    def fake(loss: Callable[[RunConfig], float | None], *, until: int | None = None) -> None:
        jobs_by(lambda path, config: _write_losses(path, config, loss(config)), until=until)

    return fake


@pytest.fixture
def trained_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies whose runs are trained in this process: a new one imports torch for seconds."""

    def run_jobs(jobs, *, limit, on_progress, on_end):  # type: ignore[no-untyped-def]
        for job in jobs:
            train(job.config, job.path, progress=partial(on_progress, job.name))
            on_end(job.name, None)

    monkeypatch.setattr(study_module, "run_jobs", run_jobs)


def _write_losses(folder: Path, config: RunConfig, loss: float | None) -> None:
    writer = begin(folder, config)
    last = config.steps - 1
    steps = {0: (5.5, None, 0.5), last: (3.0, loss, 2.0)}
    if loss is not None and 0 < config.val_every < last:
        steps[config.val_every - 1] = (4.0, loss + 1, 1.0)
    losses, val_losses, seconds = zip(*(steps[step] for step in sorted(steps)), strict=True)
    columns = {"loss": losses, "val_loss": val_losses, "seconds": seconds}
    write_rows(writer, "steps", step=sorted(steps), **columns)
    reason = "loss_rise" if loss is None else "completed"
    writer.finish("finished", Verdict(reason=reason, step=last))
