"""A mistake in a study's options is one sentence, before anything is timed, run or written."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gradlab.cli.main import app
from gradlab.studies import run as study_module
from gradlab.studies import step_times as times_module

SMALL = "--device cpu --width 16 --max-seq-len 8 --batch-size 2 --jobs 1"
USUAL = {
    "ablate": "--n-layers 2 --steps 12 --warmup 2",
    "depth-scan": "",
    "grad-norms": "--size nano --n-layers 4 --steps 10 --warmup 2 --average 4",
    "league": "--n-layers 4 --steps 12 --lr 0.001 --lr 0.1 --lowest 0.001 --highest 0.512",
    "limit": "--n-layers 2 --lowest 1e-3 --highest 0.256 --factor 2",
    "lr-search": "--n-layers 2 --steps 6 --warmup 2",
    "run-stability": "--n-layers 1 --steps 3",
    "variants": "--n-layers 2 --steps 30 --warmup 2",
}
MISTAKES = [
    ("ablate --row minus-ffn", "unknown row 'minus-ffn': did you mean 'minus-ffn-ln'"),
    ("ablate --equal tine", "unknown equal 'tine': did you mean 'time'"),
    ("ablate --no-ffn-mid-norm", "ffn_mid_norm: the rows of the study differ in it"),
    ("ablate --schedule ramp", "schedule = ramp has no learning rate to compare at"),
    ("ablate --schedule liner", "did you mean 'linear'"),
    ("ablate --warmup 12", "--warmup 12 leaves none of the 12 steps at the learning rate"),
    ("ablate --steps 0", "steps = 0 should be greater than or equal to 1"),
    ("ablate --seeds 0", "seeds = 0: a study needs at least one seed"),
    ("ablate --jobs 0", "jobs = 0"),
    ("ablate --out TAKEN", "TAKEN holds something that is not a study"),
    ("variants --variant grad-clp", "unknown variant 'grad-clp': did you mean 'grad-clip'"),
    ("variants --variant grad-clp", "one of your own is written as clip_norm=0.1,dropout=0.1"),
    ("variants --variant clip=0.1", "variant clip=0.1: unknown option 'clip'"),
    ("variants --variant lr=fast", "variant lr=fast: lr = fast is no number, nor a multiple"),
    ("variants --variant clip_norm=2x", "clip_norm = 2x: there is none to multiply"),
    ("variants --variant batch_size=0.75x", "batch_size = 0.75x comes to 1.5: batch_size must be"),
    ("variants --variant dropout=2", "variant dropout=2: dropout = 2.0 should be less than 1"),
    ("variants --variant longer-warmup --warmup 3", "leaves none of the 30 steps"),
    ("variants --variant schedule=ramp", "variant schedule=ramp: schedule = ramp has no learning"),
    ("variants --arch norm-former", "unknown architecture 'norm-former'"),
    ("variants --equal tine", "unknown equal 'tine': did you mean 'time'"),
    ("variants --seeds 0", "seeds = 0: a study needs at least one seed"),
    ("grad-norms --arch normfomer", "did you mean 'normformer'"),
    ("grad-norms --seeds 0", "seeds = 0: a study needs at least one seed"),
    ("grad-norms --average 5", "10 steps have no room for two windows of 5 after 2 of warm-up"),
    ("grad-norms --average 0", "average at least one"),
    ("grad-norms --every 5", "every = 5: a window of 4 steps may then have no look"),
    ("grad-norms --probes headrom", "did you mean 'headroom'"),
    ("grad-norms --lr 0", "lr = 0.0 should be greater than 0"),
    ("grad-norms --jobs 0", "jobs = 0"),
    ("grad-norms --out TAKEN", "TAKEN holds something that is not a study"),
    ("lr-search --arch normfomer", "did you mean 'normformer'"),
    ("lr-search --lr 0", "lr = 0.0 should be greater than 0"),
    ("lr-search --schedule ramp", "schedule = ramp has no learning rate to compare at"),
    ("lr-search --warmup 6", "--warmup 6 leaves none of the 6 steps"),
    ("lr-search --val-batches 0", "val_batches = 0 should be greater than or equal to 1"),
    ("lr-search --lr 1e-3 --lr 1.0000001e-3", "two runs of the study have the same name"),
    ("run-stability --arch normfomer", "did you mean 'normformer'"),
    ("run-stability --objective mlm", "unknown objective 'mlm'"),
    ("run-stability --size nanno", "unknown size 'nanno'"),
    ("run-stability --device cuda:99", "device 'cuda:99': "),
    ("run-stability --device gpu", "unknown device 'gpu'"),
    ("run-stability --lr-step 0", "lr_step = 0.0 should be greater than 0"),
    ("run-stability --lr-step nan", "lr_step = nan should be"),
    ("run-stability --n-heads 3", "d_model = 16, is not divisible by n_heads = 3"),
    ("run-stability --corpus no/such/text.txt", "no/such/text.txt"),
    ("run-stability --corpus EMPTY", "EMPTY"),
    ("run-stability --corpus SHORT", "SHORT"),
    ("run-stability --corpus BINARY", "UTF-8"),
    ("run-stability --corpus odd.bin", "odd.bin"),
    ("run-stability --corpus large.bin", "past the vocabulary of 256"),
    ("run-stability --jobs 0", "jobs = 0"),
    ("run-stability --out TAKEN", "TAKEN holds something that is not a study"),
    ("run-stability --out SHORT", "SHORT"),
    ("limit --lowest 1", "lowest = 1"),
    ("limit --factor 1", "factor = 1"),
    ("limit --arch pre-lm", "did you mean"),
    ("limit --seeds 0", "seeds = 0"),
    ("limit --warmup 200", "--warmup 200"),
    ("limit --lr-step 0", "lr_step"),
    ("league --only limits", "did you mean 'limit'"),
    ("league --arch pre-lm", "did you mean"),
    ("league --seeds 0", "seeds = 0"),
    ("league --lowest 1", "lowest = 1"),
    ("league --lr 0", "lr = 0"),
    ("league --beside NOTHING", "there is no league to show it beside: NOTHING does not exist."),
    ("depth-scan --depth 0", "depth = 0"),
    ("depth-scan --depth -3", "depth = -3"),
    ("depth-scan --depth 1000000000", "memory"),
    ("depth-scan --depth 12 --depth 3000000", "3000000 layers"),
    ("depth-scan --warmup -1", "warmup = -1"),
    ("depth-scan --warmup 150", "--warmup 150"),
    ("depth-scan --n-layers 3", "--depth"),
    ("depth-scan --arch pre-lm", "did you mean"),
    ("depth-scan --stable --factor 1", "factor = 1"),
]


@pytest.mark.parametrize(("line", "sentence"), MISTAKES)
def test_a_mistake_is_one_sentence_before_anything_runs(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, line: str, sentence: str
) -> None:
    begun: list[object] = []
    monkeypatch.setattr(study_module, "run_jobs", lambda *args, **_: begun.append(args))
    monkeypatch.setattr(times_module, "step_times", lambda *args, **_: begun.append(args))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").write_text("")
    (tmp_path / "SHORT").write_text("ab")
    (tmp_path / "BINARY").write_bytes(b"\xff\xfe\x00" * 400)
    (tmp_path / "odd.bin").write_bytes(b"\x00" * 1001)
    (tmp_path / "large.bin").write_bytes(b"\x00\x10" * 1000)
    (tmp_path / "TAKEN").mkdir()
    (tmp_path / "TAKEN" / "mine.txt").write_text("precious")
    command, *mistake = line.split()
    usual = [*SMALL.split(), *USUAL[command].split(), "--corpus", text, "--out", "study"]
    result = CliRunner().invoke(app, [command, *usual, *mistake])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert sentence in result.stderr
    assert not begun
    assert not (tmp_path / "study").exists()
    assert [file.name for file in (tmp_path / "TAKEN").iterdir()] == ["mine.txt"]
