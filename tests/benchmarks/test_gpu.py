"""The stages that need a card: how they are run, and each on a CPU at a tiny size."""

import json
import tarfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as runner
from benchmarks.gpu import fp16
from benchmarks.gpu.stages import Stage, stages

Stages = Callable[..., None]


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Stages:
    """Has the runner run these stages."""

    def choose(*given: Stage) -> None:
        monkeypatch.setattr(runner, "stages", lambda device, small: given)

    return choose


def run(out: Path, *more: str) -> int:
    return runner.main(["--device", "cpu", "--out", str(out), *more])


def test_a_stage_that_is_done_is_not_run_again(
    chosen: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = "python -c \"open('OUT/runs', 'a').write('x'); print(6 * 7)\""
    chosen(Stage("one", 20, (count, count)))
    assert run(tmp_path / "gpu") == 0
    assert run(tmp_path / "gpu") == 0
    assert (tmp_path / "gpu" / "one" / "runs").read_text() == "xx"
    assert "one: done before" in capsys.readouterr().out
    assert (tmp_path / "gpu" / "one" / "log.txt").read_text().count("\n42\n") == 2
    done = json.loads((tmp_path / "gpu" / "one" / "done.json").read_text())
    assert done["torch"] == version("torch")
    with tarfile.open(tmp_path / "gpu.tar.xz") as packed:
        assert "gpu/one/done.json" in packed.getnames()


def test_a_stage_that_fails_holds_up_no_other_and_is_tried_again(
    chosen: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen(
        Stage("bad", 20, ("python -c \"raise SystemExit('broken here')\"", "python -c 1")),
        Stage("good", 20, ("python -c 1",)),
    )
    assert run(tmp_path / "gpu") == 1
    out = capsys.readouterr().out
    assert "bad: failed with status 1" in out
    assert "broken here" in out
    assert "good: done" in out
    assert run(tmp_path / "gpu") == 1
    assert "good: done before" in capsys.readouterr().out


@pytest.mark.long
def test_a_stage_past_its_limit_is_stopped(
    chosen: Stages,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "SECONDS_TO_SAVE", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    chosen(Stage("slow", 2, (f'python -c "{deaf}"',)))
    assert run(tmp_path / "gpu") == 1
    assert "slow: stopped at its limit" in capsys.readouterr().out
    assert not (tmp_path / "gpu" / "slow" / "done.json").exists()


def test_all_stages_fit_into_eight_minutes() -> None:
    assert sum(stage.limit for stage in stages("cuda", small=False)) <= 8 * 60


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_without_a_card_it_says_what_can_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main([]) == 2
    assert "--device cpu" in capsys.readouterr().out


def test_products_of_the_emulation_hold_the_bound(capsys: pytest.CaptureFixture[str]) -> None:
    fp16.products(torch.device("cpu"), tiny=True)
    head, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == len(fp16.SHAPES) * len(fp16.SCALES)
    for row in rows:
        over, infinite, differ, worst, _ = row.split()[-5:]
        assert (over, infinite, float(differ), worst) == ("0", "0", 0.0, "0"), (head, row)


def test_what_is_out_of_bounds_is_counted() -> None:
    a, b = torch.randn(8, 16).half(), torch.randn(16, 8).half()
    exact, bound = fp16.exact_and_bound(a, b)
    assert fp16.out_of_bounds(exact.half(), exact, bound) == 0
    assert fp16.out_of_bounds((exact * 1.01).half(), exact, bound) > 32
    torch.testing.assert_close(
        fp16.ulp(torch.tensor([1.0, 2.0, 3.0, 2.0**-20])).log2(),
        torch.tensor([-10.0, -9.0, -9.0, -24.0]),
    )


@pytest.mark.long
def test_every_stage_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "gpu", "--minutes", "20") == 0, capsys.readouterr().out
