"""A BPE of the text at hand: what it is trained on, what it makes, and what it refuses."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.config import DataConfig
from gradlab.data import bpe, load_corpus
from gradlab.data.bpe import SPECIAL, cut, pieces
from gradlab.data.cache import cache_folder
from gradlab.data.tokenizer import encode, tokenizer_of
from gradlab.errors import GradlabError

SIZE = 300

LINES = [
    " = A Heading = ",
    " ",
    " The naïve 猫 sat on the mat , and the <mask> sat on it <eos> . ",
    "\tif the cat:\n        return the_mat  # the mat",
]
TEXT = "\n".join(LINES * 40)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("tokenizers")
    file = tmp_path_factory.mktemp("text") / "wiki.txt"
    file.write_text(TEXT, encoding="utf-8")
    return str(file)


def test_ids_are_the_texts_with_the_special_ones_last_and_unused(text: str) -> None:
    corpus = load_corpus(DataConfig(corpus=text, tokenizer="bpe"), seq_len=8, vocab_size=SIZE)
    tokenizer = tokenizer_of(corpus.tokenizer)
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [297, 298, 299]
    assert corpus.vocab_size == tokenizer.get_vocab_size() == SIZE
    ids = np.concatenate([corpus.train, corpus.val])
    assert ids.max() < 297, "<mask> in a text is text"
    assert tokenizer.decode(ids.tolist()) == TEXT
    assert corpus.train.size < len(TEXT.encode()) / 2


def test_what_is_held_out_is_what_bytes_hold_out_and_is_not_trained_on(
    text: str, tmp_path: Path
) -> None:
    data = DataConfig(corpus=text, tokenizer="bpe", held_out=0.3)
    held_out = load_corpus(data, seq_len=8, vocab_size=SIZE)
    plain = load_corpus(data.replace(tokenizer="bytes"), seq_len=8)
    words = tokenizer_of(held_out.tokenizer).decode(held_out.val.tolist()).encode()
    assert words == plain.val.tobytes()
    other = tmp_path / "other.txt"
    other.write_bytes(plain.train.tobytes() + b"z" * plain.val.size)
    again = load_corpus(data.replace(corpus=str(other)), seq_len=8, vocab_size=SIZE)
    assert again.tokenizer == held_out.tokenizer
    np.testing.assert_array_equal(again.train, held_out.train)


@given(
    documents=st.lists(st.text(alphabet="a\né猫😀").map(str.encode), min_size=1, max_size=4),
    held_out=st.floats(0.01, 0.99),
)
def test_a_text_is_cut_where_its_bytes_are_or_after_the_character_there(
    documents: list[bytes], held_out: float
) -> None:
    text = b"\n".join(documents)
    first, second = (b"\n".join(part) for part in cut(documents, held_out))
    assert first + second == text
    assert first.decode() + second.decode() == text.decode()
    at = int(len(text) * (1 - held_out))
    assert 0 <= len(first) - at < 4


@given(st.lists(st.text(alphabet="a \n猫", max_size=60).map(str.encode), max_size=3))
def test_pieces_are_the_same_text_and_the_same_ids(documents: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe, "_PIECE", 7)
        cuts = [*pieces(documents)]
    assert b"\n".join(cuts) == b"\n".join(documents)
    tokenizer = tokenizer_of(trained_once())
    np.testing.assert_array_equal(encode(tokenizer, cuts), encode(tokenizer, documents))


def trained_once() -> bytes:
    pytest.importorskip("tokenizers")
    return bpe.trained("a text", [TEXT.encode()], SIZE)


def test_it_is_trained_once_and_anew_where_the_cache_is_no_use(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataConfig(corpus=text, tokenizer="bpe")
    monkeypatch.setenv("GRADLAB_CACHE", str(tmp_path / "cache"))
    first = load_corpus(data, seq_len=8, vocab_size=SIZE)
    train = bpe._train
    monkeypatch.setattr(bpe, "_train", lambda *_: pytest.fail("trained again"))
    for _ in range(2):
        again = load_corpus(data, seq_len=8, vocab_size=SIZE)
        assert (again.tokenizer, again.sha256) == (first.tokenizer, first.sha256)
        for file in cache_folder().glob("ids-*"):
            file.write_bytes(file.read_bytes()[:100])  # damaged: encoded again
    monkeypatch.setattr(bpe, "_train", train)
    monkeypatch.setenv("GRADLAB_CACHE", os.devnull)  # no folder
    again = load_corpus(data, seq_len=8, vocab_size=SIZE)
    assert (again.tokenizer, again.sha256) == (first.tokenizer, first.sha256)


@pytest.mark.parametrize("vocab_size", [None, 256, 257, 259])
def test_a_vocabulary_without_room_is_refused(text: str, vocab_size: int | None) -> None:
    with pytest.raises(GradlabError, match="260 ids at least: give vocab_size, as 4096"):
        load_corpus(DataConfig(corpus=text, tokenizer="bpe"), seq_len=8, vocab_size=vocab_size)


def test_a_text_too_short_for_its_vocabulary_says_what_it_has(text: str) -> None:
    data = DataConfig(corpus=text, tokenizer="bpe")
    with pytest.raises(
        GradlabError, match=r"too short for a vocabulary of 9,999: .* for (\d+)"
    ) as e:
        load_corpus(data, seq_len=8, vocab_size=9999)
    most = int(str(e.value).split(" for ")[-1].split(";")[0])
    assert load_corpus(data, seq_len=8, vocab_size=most).vocab_size == most
    with pytest.raises(GradlabError, match="too short"):
        load_corpus(data, seq_len=8, vocab_size=most + 1)


def test_without_the_package_the_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(GradlabError, match=r"'bpe' needs .* 'gradlab-diagnostics\[datasets\]'"):
        load_corpus(DataConfig(tokenizer="bpe"), seq_len=8, vocab_size=SIZE)


def test_a_masked_models_mask_is_the_last_id_and_special_ones_are_not_drawn(text: str) -> None:
    data = DataConfig(corpus=text, tokenizer="bpe")
    corpus = load_corpus(data, seq_len=8, vocab_size=SIZE, objective="masked")
    assert corpus.masking.mask_id == corpus.facts()["mask_id"] == SIZE - 1
    assert corpus.masking.ordinary.tolist() == list(range(297))


def test_a_masked_model_on_bytes_has_one_id_more(text: str) -> None:
    data = DataConfig(corpus=text)
    corpus = load_corpus(data, seq_len=8, vocab_size=257, objective="masked")
    assert corpus.masking.mask_id == 256
    assert corpus.masking.ordinary.tolist() == list(range(256))
    with pytest.raises(GradlabError, match=r"and one more for the mask \(257 for bytes\)"):
        load_corpus(data, seq_len=8, vocab_size=100, objective="masked")


def test_a_masked_model_takes_the_mask_of_a_tokenizer_and_refuses_one_without(
    text: str, tmp_path: Path
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    names = {f"w{i}": i for i in range(9)} | {"[MASK]": 9, "?": 10}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    file = tmp_path / "tokenizer.json"
    made.save(str(file))
    data = DataConfig(corpus=text, tokenizer=str(file))
    corpus = load_corpus(data, seq_len=8, vocab_size=11, objective="masked")
    assert corpus.masking.mask_id == 9
    assert corpus.masking.ordinary.tolist() == [*range(9), 10]
    with pytest.raises(GradlabError, match=r"has ids up to 10, past .*: give the model vocab_size"):
        load_corpus(data, seq_len=8, vocab_size=10, objective="masked")
    del names["[MASK]"]
    made.model = tokenizers.models.WordLevel(names, unk_token="?")
    made.save(str(file))
    with pytest.raises(GradlabError, match=r"has no mask token \(<mask> or \[MASK\]\)"):
        load_corpus(data, seq_len=8, vocab_size=11, objective="masked")
