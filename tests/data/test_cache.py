"""Ids that were kept are taken where they are ids, and made again where they are not."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradlab.data.cache import cache_folder, cached_tokens
from gradlab.data.tokens import Tokens

IDS = np.array([1, 5, 299], np.uint16)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRADLAB_CACHE", str(tmp_path))


def ids() -> tuple[Tokens, bool]:
    """The ids, and whether they were made."""
    made = []
    found = cached_tokens("name", lambda: made.append(1) or IDS, vocabulary=300)  # type: ignore[func-returns-value]
    return found, bool(made)


def test_ids_are_made_once() -> None:
    assert [ids()[1] for _ in range(3)] == [True, False, False]
    np.testing.assert_array_equal(ids()[0], IDS)


def archive() -> bytes:
    content = io.BytesIO()
    np.savez(content, IDS)
    return content.getvalue()


@pytest.mark.parametrize(
    "planted",
    [
        np.array([1, 300], np.uint16),  # out of the vocabulary
        IDS.astype(np.uint8),  # of another type than ids have
        IDS.astype(np.int64),
        IDS.astype(np.float32),
        IDS[None],
        IDS[0],
        np.array([{"a": "pickled object"}], dtype=object),
        archive(),
        b"",
        b"no array",
    ],
    ids=lambda planted: type(planted).__name__,
)
def test_what_is_no_array_of_such_ids_is_made_again(planted: Any) -> None:
    file = cache_folder() / "name.npy"
    if isinstance(planted, bytes):
        file.write_bytes(planted)
    else:
        np.save(file, planted, allow_pickle=True)
    found, made = ids()
    assert made
    np.testing.assert_array_equal(found, IDS)
    assert not ids()[1], "and kept in its place"
