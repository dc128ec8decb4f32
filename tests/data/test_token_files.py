import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from gradlab.config import DataConfig
from gradlab.data import load_corpus
from gradlab.errors import GradlabError


def ids(count: int, top: int = 50256) -> np.ndarray:
    drawn = np.random.default_rng(count).integers(0, top + 1, count).astype("<u2")
    drawn[count // 2] = top
    return drawn


def test_a_folder_gives_its_two_files_memory_mapped(tmp_path: Path) -> None:
    train, val = ids(1000), ids(200, top=300)
    train.tofile(tmp_path / "train.bin")
    val.tofile(tmp_path / "val.bin")
    corpus = load_corpus(DataConfig(corpus=str(tmp_path)), seq_len=64, vocab_size=50257)
    assert isinstance(corpus.train, np.memmap)
    assert isinstance(corpus.val, np.memmap)
    np.testing.assert_array_equal(corpus.train, train)
    np.testing.assert_array_equal(corpus.val, val)
    assert corpus.vocab_size == 50257
    assert corpus.sha256 == hashlib.sha256(train.tobytes() + val.tobytes()).hexdigest()


def test_a_single_file_is_split(tmp_path: Path) -> None:
    tokens = ids(1000)
    tokens.tofile(tmp_path / "all.bin")
    corpus = load_corpus(DataConfig(corpus=str(tmp_path / "all.bin"), held_out=0.25), seq_len=64)
    np.testing.assert_array_equal(corpus.train, tokens[:750])
    np.testing.assert_array_equal(corpus.val, tokens[750:])
    assert isinstance(corpus.val, np.memmap)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('meta.pkl was unpickled')",)


def test_a_pickle_beside_the_tokens_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(Bomb()))
    for part in ("train.bin", "val.bin"):
        ids(200).tofile(tmp_path / part)
    assert load_corpus(DataConfig(corpus=str(tmp_path)), seq_len=8).train.size == 200


def test_bad_token_files_are_one_sentence(tmp_path: Path) -> None:
    def load(name: str, **options: int) -> None:
        load_corpus(DataConfig(corpus=str(tmp_path / name)), seq_len=8, **options)

    with pytest.raises(GradlabError, match=r"none\.bin cannot be read: No such file"):
        load("none.bin")
    (tmp_path / "odd.bin").write_bytes(b"\0" * 401)
    with pytest.raises(GradlabError, match=r"odd\.bin has an odd length of 401 bytes"):
        load("odd.bin")
    (tmp_path / "empty.bin").touch()
    with pytest.raises(GradlabError, match=r"empty\.bin is empty"):
        load("empty.bin")
    ids(400, top=70).tofile(tmp_path / "past.bin")
    load("past.bin", vocab_size=71)
    with pytest.raises(GradlabError, match=r"the token id 70 at position \d+, past .* of 70"):
        load("past.bin", vocab_size=70)
    (tmp_path / "half").mkdir()
    ids(400).tofile(tmp_path / "half" / "train.bin")
    with pytest.raises(GradlabError, match=r"val\.bin cannot be read: No such file"):
        load("half")
    with pytest.raises(GradlabError, match="holds token ids already: leave out the tokenizer"):
        load_corpus(DataConfig(corpus=str(tmp_path / "past.bin"), tokenizer="gpt2"), seq_len=8)
