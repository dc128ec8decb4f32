import os
from pathlib import Path

import pytest

from gradlab.config import DataConfig
from gradlab.data import load_corpus
from gradlab.data.text import byte_tokens, text_documents
from gradlab.errors import GradlabError


def test_a_folder_is_its_txt_files_in_order_of_their_paths(tmp_path: Path) -> None:
    for name, content in {
        "b.txt": "second",
        "a/z.txt": "first",
        "c.md": "not text",
        ".hidden/x.txt": "no",
        ".cache.txt": "no",
        "b/é.txt": "last, ünïcode",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content, encoding="utf-8")
    documents = text_documents(str(tmp_path))
    assert documents == [b"first", "last, ünïcode".encode(), b"second"]
    assert byte_tokens(documents).tobytes() == b"\n".join(documents)


@pytest.mark.parametrize(
    ("content", "position", "byte"),
    [(b"\xff", 0, "0xff"), (b"abc\xe9 d", 3, "0xe9"), ("é".encode() * 5 + b"\xc3", 10, "0xc3")],
)
def test_text_that_is_not_utf8_is_named_with_the_byte(
    tmp_path: Path, content: bytes, position: int, byte: str
) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes(content)
    with pytest.raises(
        GradlabError, match=rf"latin\.txt is not UTF-8 text: byte {position} is {byte}"
    ):
        text_documents(str(file))


def test_what_is_missing_or_empty_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(GradlabError, match=r"there is no corpus 'no-such\.txt': give"):
        text_documents("no-such.txt")
    with pytest.raises(GradlabError, match=r"holds neither \*\.txt files nor train\.bin"):
        text_documents(str(tmp_path))
    empty = tmp_path / "empty.txt"
    empty.touch()
    for path in (empty, tmp_path):
        with pytest.raises(GradlabError, match=r"is empty"):
            text_documents(str(path))


def test_a_file_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    file = tmp_path / "secret.txt"
    file.write_text("x")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(GradlabError, match=r"secret\.txt cannot be read: Permission denied"):
        text_documents(str(file))


def test_a_text_file_becomes_a_corpus_of_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    content = "naïve café\n".encode() * 30
    file.write_bytes(content)
    corpus = load_corpus(DataConfig(corpus=str(file), held_out=0.2), seq_len=16)
    assert corpus.train.tobytes() + corpus.val.tobytes() == content
    assert corpus.name == str(file)
