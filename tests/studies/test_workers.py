"""What a run's own process is given."""

import os
import signal
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch

from gradlab.config import RunConfig
from gradlab.studies import workers
from gradlab.studies.workers import Job
from gradlab.training import loop


def test_a_run_has_the_environment_of_its_study_and_is_not_interrupted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Though the server that it is forked from was started in another one."""
    seen = []

    def train(*_: Any, **__: Any) -> None:
        seen.append(dict(os.environ))

    handlers: dict[int, Any] = {}
    monkeypatch.setattr(os, "environ", {"OLD": "1", "BOTH": "1"})
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(loop, "train", train)
    _, theirs = Pipe()
    config = RunConfig.model_construct()
    workers._work(Job("run", config, tmp_path), theirs, {"BOTH": "2", "NEW": "2"})
    assert seen == [{"BOTH": "2", "NEW": "2"}]
    assert handlers[signal.SIGINT] == signal.SIG_IGN
