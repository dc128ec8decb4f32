import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradlab.config import DataConfig
from gradlab.data import load_corpus
from gradlab.data.tokenizer import encode, load_tokenizer
from gradlab.errors import GradlabError


@dataclass
class Encoding:
    ids: list[int]


class Letters:
    """A tokenizer of one id a letter, whose vocabulary has a gap."""

    def __init__(self, top: int) -> None:
        self.top = top

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0, "last": self.top}

    def encode_batch(self, texts: list[str], add_special_tokens: bool) -> list[Encoding]:
        assert not add_special_tokens
        return [Encoding([ord(letter) for letter in text]) for text in texts]


@pytest.mark.parametrize(("top", "dtype"), [(65535, np.uint16), (65536, np.uint32)])
def test_documents_are_joined_by_newlines_in_the_smallest_type(top: int, dtype: type) -> None:
    documents = [f"word {i} é".encode() for i in range(2500)]
    ids = encode(Letters(top), documents)
    assert ids.dtype == dtype
    assert "".join(map(chr, ids.tolist())).encode() == b"\n".join(documents)


def test_no_documents_give_no_tokens() -> None:
    assert encode(Letters(300), []).shape == (0,)


def test_without_the_package_the_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(GradlabError, match=r"pip install 'gradlab-diagnostics\[datasets\]'"):
        load_corpus(DataConfig(tokenizer="gpt2"), seq_len=8)


def test_a_folder_named_like_the_package_is_not_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizers").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "tokenizers", raising=False)
    with pytest.raises(GradlabError, match="needs the package tokenizers"):
        load_tokenizer("gpt2")
    sys.modules.pop("tokenizers", None)


def words(vocabulary: int = 40) -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    names = {f"w{i}": i for i in range(vocabulary)} | {"?": vocabulary}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return made


def test_a_tokenizer_file_makes_ids_of_a_text(tmp_path: Path) -> None:
    made = words()
    made.enable_truncation(max_length=3)  # a model's cut must not shorten the corpus
    made.enable_padding(length=99)
    made.save(str(tmp_path / "tokenizer.json"))
    expected = np.random.default_rng(0).integers(0, 40, 300)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{i}" for i in expected))
    for name in (tmp_path, tmp_path / "tokenizer.json"):
        corpus = load_corpus(DataConfig(corpus=str(text), tokenizer=str(name)), seq_len=8)
        assert corpus.vocab_size == 41
        np.testing.assert_array_equal(np.concatenate([corpus.train, corpus.val]), expected)


def test_a_tokenizer_that_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    with pytest.raises(GradlabError, match=r"there is no tokenizer file .*none\.json"):
        load_tokenizer(str(tmp_path / "none.json"))
    with pytest.raises(GradlabError, match="there is no tokenizer file"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(GradlabError, match=r"bad\.json' cannot be loaded \(.+\): give"):
        load_tokenizer(str(tmp_path / "bad.json"))
