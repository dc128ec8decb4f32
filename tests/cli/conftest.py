from pathlib import Path

import pytest


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "text.txt"
    file.write_text("a rose is a rose is a rose. " * 40)
    return str(file)


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pytest loads readline, which leaves a terminal's width to child processes: xdist's workers.
    monkeypatch.delenv("COLUMNS", raising=False)
