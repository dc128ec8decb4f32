import pytest


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pytest loads readline, which leaves a terminal's width to child processes: xdist's workers.
    monkeypatch.delenv("COLUMNS", raising=False)
