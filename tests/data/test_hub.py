import sys
from pathlib import Path
from typing import Any

import pytest

from gradlab.config import DataConfig
from gradlab.data import load_corpus
from gradlab.errors import GradlabError

ROWS = [f"row {i} é" for i in range(40)]
TEXT = "\n".join(ROWS).encode()


def test_without_the_package_the_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        GradlabError, match=r"'hf:x' needs .* pip install 'gradlab-diagnostics\[datasets\]'"
    ):
        load_corpus(DataConfig(corpus="hf:x"), seq_len=8)


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = pytest.importorskip("datasets")
    monkeypatch.setattr(module.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return module


def both(name: Path | str) -> tuple[bytes, bytes]:
    corpus = load_corpus(DataConfig(corpus=f"hf:{name}", held_out=0.25), seq_len=8)
    assert corpus.vocab_size == 256
    return corpus.train.tobytes(), corpus.val.tobytes()


def test_a_saved_split_is_cut_and_empty_rows_are_left_out(datasets: Any, tmp_path: Path) -> None:
    rows = [*ROWS[:20], "", None, *ROWS[20:]]
    datasets.Dataset.from_dict({"id": range(42), "text": rows}).save_to_disk(tmp_path / "one")
    train, val = both(tmp_path / "one")
    assert train + val == TEXT


def test_saved_train_and_validation_splits_are_the_two_parts(datasets: Any, tmp_path: Path) -> None:
    splits = {"test": ROWS[:5], "train": ROWS, "validation": ROWS[10:30]}
    datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"story": rows}) for name, rows in splits.items()}
    ).save_to_disk(tmp_path / "two")
    assert both(tmp_path / "two") == (TEXT, "\n".join(ROWS[10:30]).encode())


def test_a_folder_of_data_files_is_loaded(datasets: Any, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    datasets.Dataset.from_dict({"text": ROWS}).to_json(folder / "train.jsonl")
    train, val = both(folder)
    assert train + val == TEXT


def test_datasets_that_do_not_fit_are_one_sentence(datasets: Any, tmp_path: Path) -> None:
    make = datasets.Dataset.from_dict
    make({"a": ROWS, "b": ROWS, "n": range(40)}).save_to_disk(tmp_path / "columns")
    with pytest.raises(GradlabError, match="no column named text and 2 text columns among a, b, n"):
        both(tmp_path / "columns")
    datasets.DatasetDict({"x": make({"text": ROWS}), "y": make({"text": ROWS})}).save_to_disk(
        tmp_path / "splits"
    )
    with pytest.raises(GradlabError, match="has no split named train, only x, y"):
        both(tmp_path / "splits")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(GradlabError, match=r"the dataset 'hf:.*nothing' cannot be loaded: .+"):
        both(tmp_path / "nothing")
