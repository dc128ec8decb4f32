"""What was kept is taken as long as it is whole, and made again where it is not."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gradlab.data.cache import cache_folder, cached_file, cached_tokens
from gradlab.data.tokens import Tokens

IDS = np.array([1, 5, 299, 7], np.uint16)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRADLAB_CACHE", str(tmp_path))


def ids(name: str = "name") -> tuple[Tokens, bool]:
    """The ids, and whether they were made."""
    made = []

    def make() -> Tokens:
        made.append(1)
        return IDS

    return cached_tokens(name, make, vocabulary=300), bool(made)


def test_ids_are_made_once() -> None:
    assert [ids()[1] for _ in range(3)] == [True, False, False]
    found = ids()[0]
    assert isinstance(found, np.memmap)
    assert found.dtype == IDS.dtype
    np.testing.assert_array_equal(found, IDS)


@pytest.mark.parametrize("vocabulary", [1 << 16, (1 << 16) + 1])
@pytest.mark.parametrize("size", [0, 1, 3])
def test_ids_of_any_number_and_vocabulary_come_back(vocabulary: int, size: int) -> None:
    made = np.arange(vocabulary - size, vocabulary).astype(
        np.uint16 if vocabulary == 1 << 16 else "u4"
    )
    for _ in range(2):
        found = cached_tokens("ids", lambda: made, vocabulary=vocabulary)
        assert found.dtype == made.dtype
        np.testing.assert_array_equal(found, made)


def array(x: object) -> bytes:
    content = io.BytesIO()
    np.save(content, np.asarray(x), allow_pickle=True)
    return content.getvalue()


def archive() -> bytes:
    content = io.BytesIO()
    np.savez(content, IDS)
    return content.getvalue()


def flipped(whole: bytes, at: int) -> bytes:
    changed = bytearray(whole)
    changed[at] ^= 1
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut by a byte": lambda whole: whole[:-1],
    "cut by an id": lambda whole: whole[:-2],
    "cut at its start": lambda whole: whole[2:],
    "an id left out": lambda whole: whole[:2] + whole[4:],
    "no id left": lambda whole: whole[8:],
    "cut short": lambda whole: whole[:5],
    "longer": lambda whole: whole + b"\0\0",
    "a bit of an id": lambda whole: flipped(whole, 0),
    "a bit of the end": lambda whole: flipped(whole, -1),
    "zeros, as after a crash": lambda whole: bytes(len(whole)),
    "something else": lambda whole: b"no array" * 100,
    "what earlier versions kept": lambda whole: array(IDS),
    "a pickled object": lambda whole: array(np.array([{"a": 1}], dtype=object)),
    "an archive": lambda whole: archive(),
    "a broken archive": lambda whole: archive()[:-30],
    "a cut header": lambda whole: array(IDS)[:40],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_made_again(damage: str) -> None:
    ids()
    file = cache_folder() / "name"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    found, made = ids()
    assert made
    np.testing.assert_array_equal(found, IDS)
    assert not ids()[1], "and kept in its place"


@pytest.mark.parametrize("damage", DAMAGES)
def test_so_is_any_other_file(damage: str) -> None:
    content = IDS.tobytes()
    assert cached_file("name", lambda: content) == content
    file = cache_folder() / "name"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    made = []
    for _ in range(2):
        assert cached_file("name", lambda: made.append(1) or content) == content  # type: ignore[func-returns-value]
    assert len(made) == 1


def test_without_a_home_all_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADLAB_CACHE", "~nobody-of-this-name/cache")
    assert cached_file("name", lambda: b"made") == b"made"
    assert [ids()[1], ids()[1]] == [True, True]


def test_another_ones_ids_are_not_taken() -> None:
    ids("other")
    (cache_folder() / "other").rename(cache_folder() / "name")
    assert ids()[1]


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to itself"])
def test_what_is_no_file_is_let_be(kind: str) -> None:
    file = cache_folder() / "name"
    if kind == "folder":
        file.mkdir()
        (file / "mine").touch()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(file)
    found, made = ids()
    assert made
    np.testing.assert_array_equal(found, IDS)
