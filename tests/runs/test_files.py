import errno
import os
from pathlib import Path

import pytest

from gradlab.errors import GradlabError
from gradlab.runs.files import write_whole


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "study.json"
    for content in (b"first", b"a longer second", b""):
        write_whole(file, content)
        assert file.read_bytes() == content
        assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "there is no space left to write"),
        (errno.EDQUOT, "there is no space left to write"),
        (errno.EROFS, "cannot be written .Read-only file system.: choose another folder"),
    ],
)
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, number: int, sentence: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    file = tmp_path / "run.json"
    write_whole(file, b"old")
    monkeypatch.setattr(os, moment, fail)
    with pytest.raises(GradlabError, match=sentence) as caught:
        write_whole(file, b"new")
    assert str(file) in str(caught.value)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_an_interrupt_is_passed_on_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "run.json"
    write_whole(file, b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_no_moment_shows_a_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.json"
    write_whole(file, b"old")
    seen = []
    sync = os.fsync

    def look(descriptor: int) -> None:
        seen.append(file.read_bytes())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    write_whole(file, b"new")
    assert seen == [b"old"]  # complete on disk, and not yet under its name
