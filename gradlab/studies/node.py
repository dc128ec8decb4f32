"""What a node of a Ray cluster does for a study: see whether it can, and train runs.

A worker of Ray's does one run after the other. What is here runs there, and imports torch only once
a run begins.
"""

import os
import signal
import socket
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlab.errors import GradlabError, in_words
from gradlab.runs.document import versions
from gradlab.studies.workers import SECONDS_BETWEEN_NEWS, Job
from gradlab.training.progress import Progress


@dataclass(frozen=True)
class Home:
    """Of the machine where a study was begun, what every node has to share with it.

    Attributes:
        folder: The study's, absolute.
        marker: A file there, of a name that no other folder has.
        directory: Where relative paths of configs begin.
        versions: As a run's document has them.
    """

    folder: Path
    marker: str
    directory: Path
    versions: Mapping[str, str]


class Mailbox:
    """The last news of each run, until the study takes them. A process of its own (a Ray actor)."""

    def __init__(self) -> None:
        self._news: dict[str, Progress] = {}

    def put(self, name: str, news: Progress) -> None:
        """Tell how a run stands."""
        self._news[name] = news

    def take(self) -> dict[str, Progress]:
        """What has been told since the last time, by name."""
        news, self._news = self._news, {}
        return news


def look(home: Home) -> str | None:
    """Why this node cannot train a study's runs, in a sentence; None if it can."""
    node = f"the Ray node {socket.gethostname()}"
    if not (home.folder / home.marker).exists():
        return (
            f"{node} does not see the folder {home.folder} as this machine does: choose one on "
            "storage that all nodes share, by --out."
        )
    if not os.access(home.folder, os.W_OK):
        return f"{node} cannot write {home.folder}: change its permissions there."
    here = versions()
    for name, version in home.versions.items():
        if here.get(name) != version:
            return (
                f"{node} has {name} {here.get(name, 'not at all')} and this machine {version}: "
                "install the same versions on all nodes."
            )
    return None


def do(job: Job, home: Home, mailbox: Any, on_gpu: bool) -> str | None:
    """Train a run, or go on with it, on one thread if on a CPU.

    Args:
        job: The run.
        home: What its study needs here.
        mailbox: Handle of a `Mailbox`.
        on_gpu: Whether Ray has given it a GPU.

    Returns:
        Why it failed, in a sentence; None if it finished.

    Raises:
        KeyboardInterrupt: Ray was told to cancel it; what there is has been saved.
    """
    import ray
    from ray.exceptions import RayActorError

    signal.signal(signal.SIGINT, signal.default_int_handler)  # by which Ray cancels
    if reason := look(home):
        return reason
    if home.directory.is_dir():
        os.chdir(home.directory)
    if not on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what Ray gave to nobody is not to be taken
    last_sent = 0.0
    latest: Progress | None = None

    def report(news: Progress) -> None:
        nonlocal last_sent, latest
        latest = news
        if (now := time.monotonic()) - last_sent > SECONDS_BETWEEN_NEWS:
            last_sent = now
            mailbox.put.remote(job.name, news)

    try:
        import torch

        torch.set_num_threads(1)
        job.do(report, lambda: None)
    except GradlabError as error:
        return str(error)
    except Exception as error:
        traceback.print_exc()  # into Ray's log
        return in_words(error)
    if latest is not None:  # before the study learns of the end
        with suppress(RayActorError):  # it died: the run has finished all the same
            ray.get(mailbox.put.remote(job.name, latest))
    return None
