import hashlib
import math
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from gradlab.config import DataConfig
from gradlab.data import corpus as corpus_module
from gradlab.data import load_corpus, tokens
from gradlab.errors import GradlabError


def plain_stdlib() -> bytes:
    folder = Path(sysconfig.get_path("stdlib"))
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".py"))
    files = [folder / name for name in names] + [folder / "pydoc_data" / "topics.py"]
    return b"\n".join(file.read_bytes() for file in files)


def write(tmp_path: Path, content: bytes, name: str = "text.txt") -> str:
    file = tmp_path / name
    file.write_bytes(content)
    return str(file)


def test_the_default_is_the_standard_library_as_bytes() -> None:
    text = plain_stdlib()
    corpus = load_corpus(DataConfig(), seq_len=64, vocab_size=256)
    assert corpus.name == "python-stdlib"
    assert corpus.vocab_size == 256
    assert corpus.train.dtype == np.uint8
    assert corpus.train.tobytes() + corpus.val.tobytes() == text
    assert corpus.sha256 == hashlib.sha256(text).hexdigest()
    assert corpus.val.size / len(text) == pytest.approx(0.05, abs=1e-6)


def test_a_missing_standard_library_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "python311.zip"))
    with pytest.raises(GradlabError, match=r"python-stdlib needs .* holds no \*\.py files"):
        load_corpus(DataConfig(), seq_len=64)
    (tmp_path / "os.py").write_text("pass")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(GradlabError, match=r"topics\.py cannot be read"):
        load_corpus(DataConfig(), seq_len=64)


def test_the_reserved_name_wins_over_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python-stdlib").mkdir()
    (tmp_path / "python-stdlib" / "train.bin").write_bytes(b"\0" * 64)
    monkeypatch.chdir(tmp_path)
    assert load_corpus(DataConfig(), seq_len=64).train.dtype == np.uint8


@pytest.mark.parametrize("held_out", [0.05, 0.3, 0.5])
def test_the_end_is_held_out_and_the_hash_does_not_depend_on_it(
    tmp_path: Path, held_out: float
) -> None:
    content = bytes(range(97, 123)) * 40
    name = write(tmp_path, content)
    corpus = load_corpus(DataConfig(corpus=name, held_out=held_out), seq_len=16)
    assert corpus.sha256 == hashlib.sha256(content).hexdigest()
    assert corpus.val.tobytes() == content[len(content) - corpus.val.size :]
    assert abs(corpus.val.size - held_out * len(content)) <= 1
    assert corpus.train.size + corpus.val.size == len(content)


def test_each_part_must_hold_a_sequence_and_the_next_token(tmp_path: Path) -> None:
    name = write(tmp_path, b"x" * 100)
    config = DataConfig(corpus=name, held_out=0.1)
    assert load_corpus(config, seq_len=9).val.size == 10
    with pytest.raises(
        GradlabError, match=r"the validation part .* has 10 tokens, fewer than .* 11"
    ):
        load_corpus(config, seq_len=10)
    with pytest.raises(GradlabError, match=r"the training part .* has 90 tokens"):
        load_corpus(config, seq_len=90)


def test_an_id_past_the_models_vocabulary_is_named_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "CHUNK", 7)  # so that the place lies beyond the first chunk
    name = write(tmp_path, b"a" * 50 + b"z" + b"a" * 50)
    config = DataConfig(corpus=name)
    assert load_corpus(config, seq_len=2, vocab_size=ord("z") + 1).vocab_size == 256
    with pytest.raises(GradlabError, match=r"the token id 122 at position 50, past .* of 122"):
        load_corpus(config, seq_len=2, vocab_size=ord("z"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_the_survey_is_the_same_in_small_chunks(
    dtype: type[np.unsignedinteger], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.random.default_rng(0).integers(0, 200, 1000).astype(dtype)
    parts = (ids[:700], ids[700:])
    whole = corpus_module._survey("x", parts, None)
    monkeypatch.setattr(tokens, "CHUNK", 13)
    assert corpus_module._survey("x", parts, None) == whole
    little = ids.astype(np.dtype(dtype).newbyteorder("<"))
    assert whole == (hashlib.sha256(little.tobytes()).hexdigest(), int(ids.max()))


def test_a_corpus_is_large_enough_to_learn_from() -> None:
    corpus = load_corpus(DataConfig(), seq_len=64)
    assert corpus.train.size > 4_000_000
    assert math.log(20) < corpus_entropy(corpus.train) < math.log(40)


def corpus_entropy(ids: np.ndarray) -> float:
    counts = np.unique(ids, return_counts=True)[1] / ids.size
    return float(-np.sum(counts * np.log(counts)))
