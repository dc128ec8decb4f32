"""Every example runs as it stands, without a download, and prints what it says."""

import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

# Name → the package that it needs, and something that it prints.
PRINTS = {
    "plain_loop": ("torch", "headroom_bits"),
    "own_probe": ("torch", "site"),
    "overflow": ("torch", "matmul"),
    "article_block": ("torch", "depends on 16 tokens: this attention is not causal"),
    "norms_off": ("torch", "Identity"),
    "study": ("torch", "gradlab run-stability --arch pre-ln"),
    "run_to_figures": ("torch", "headroom.svg"),
    "crash": ("transformers", "does not break"),
    "accelerate_loop": ("accelerate", "grad_l1"),
    "huggingface_trainer": ("transformers", "grad_l1"),
    "finetune_classifier": ("transformers", "verse, sum: [0, 1]"),
    "lightning_trainer": ("lightning", "grad_l1"),
    "tensorboard_sink": ("tensorboard", "tensorboard --logdir"),
    "wandb_sink": ("wandb", "grad_l1"),
}

QUICK = ("plain_loop", "own_probe", "overflow", "article_block")
LONG = ("study", "norms_off", "wandb_sink", "lightning_trainer", "accelerate_loop")


def _marks(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow, *([pytest.mark.long] if name in LONG else [])]


def test_each_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PRINTS)


def test_each_example_fits_on_a_screen() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 50} == {}


@pytest.mark.filterwarnings("ignore:The '[a-z_]+' does not have many workers")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is dep:FutureWarning")
@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=_marks(n)) for n in PRINTS],
)
def test_example(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package, printed = PRINTS[name]
    if find_spec(package) is None:
        pytest.skip(f"needs {package}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert printed in capsys.readouterr().out
