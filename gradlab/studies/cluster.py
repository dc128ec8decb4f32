"""Runs on the nodes of a Ray cluster, the engine `ray` of `gradlab.run_study`.

Ray places each run, on a GPU where it asks for one, and does it again where its worker or its node
died: from the run's newest checkpoint, as the study's folder is on storage that all nodes share.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlab.config import RunConfig
from gradlab.errors import ConfigError, GradlabError
from gradlab.runs.document import versions
from gradlab.runs.files import write_whole
from gradlab.studies.connection import RETRIES, in_one_line
from gradlab.studies.node import Home, Mailbox, do, look
from gradlab.studies.workers import SECONDS_BETWEEN_NEWS, Job
from gradlab.training.device import resolve_device
from gradlab.training.interrupt import interrupt_never_lost
from gradlab.training.progress import Progress

_SECONDS_TO_LOOK = 60.0
"""A node may have to start Python and to import gradlab first, beside other work."""
_SECONDS_WITHOUT_NODES = 60.0


@dataclass(frozen=True)
class Cluster:
    """The Ray cluster that this process is connected to: an engine (`gradlab.studies.run`)."""

    def limit(self, jobs: int | None, device: str) -> int:
        """The number of runs at the same time, by default one for each CPU or GPU of the cluster.

        Raises:
            GradlabError: Fewer than one, or no node has what a run asks for.
        """
        asked = _asked(device)
        if not (nodes := _nodes(asked)):
            raise GradlabError(_no_node(asked))
        if jobs is None:
            return sum(int(min(node["Resources"][name] for name in asked)) for node in nodes)
        if jobs < 1:
            raise GradlabError(f"jobs = {jobs}: at least one run must be able to train.")
        return jobs

    def check(self, config: RunConfig) -> None:
        """Nothing: whether a run fits into a node's memory is seen there."""

    def run_jobs(
        self,
        jobs: Sequence[Job],
        *,
        limit: int,
        on_progress: Callable[[str, Progress], None],
        on_end: Callable[[str, str | None], None],
    ) -> None:
        """Do the jobs, begun in order, up to `limit` at the same time.

        Args:
            jobs: Runs of one study, in folders beside each other.
            limit: Runs at the same time; those that find no place wait for one.
            on_progress: As of `gradlab.studies.workers.run_jobs`.
            on_end: As there.

        Raises:
            GradlabError: A node does not see the study's folder, or has other versions of what
                decides numbers; or no node is left for a minute that has what a run asks for.
            KeyboardInterrupt: After Ctrl-C, SIGTERM or SIGHUP, once every running job has saved
                what it has.
        """
        if not jobs:
            return
        asked = _asked(jobs[0].config.device)
        with _marked(jobs[0].path.parent) as home:
            _look_at_nodes(asked, home)
            # A process for each run only where one would leave something to the next: memory of a
            # GPU, or the compiler's count of what it has compiled.
            alone = "GPU" in asked or any(job.config.compile for job in jobs)
            _Pool(asked, home, alone).run(jobs, limit, on_progress, on_end)


class _Pool:
    """The jobs of one study while they are done."""

    def __init__(self, asked: dict[str, int], home: Home, alone: bool) -> None:
        import ray

        self._asked = asked
        self._home = home
        self._do = ray.remote(
            num_cpus=1,
            num_gpus=asked.get("GPU", 0),
            max_calls=1 if alone else 0,
            max_retries=RETRIES,
        )(do)
        here = ray.get_runtime_context().get_node_id()
        mailbox = ray.remote(num_cpus=0, max_restarts=-1)(Mailbox)
        self._mailbox = mailbox.options(scheduling_strategy=_on(here)).remote()
        self._running: dict[Any, str] = {}
        self._with_nodes = time.monotonic()

    def run(
        self,
        jobs: Sequence[Job],
        limit: int,
        on_progress: Callable[[str, Progress], None],
        on_end: Callable[[str, str | None], None],
    ) -> None:
        import ray

        waiting = list(jobs)
        try:
            with interrupt_never_lost() as check_interrupt:
                while waiting or self._running:
                    while waiting and len(self._running) < limit:
                        self._begin(waiting.pop(0))
                    ended, _ = ray.wait(list(self._running), timeout=SECONDS_BETWEEN_NEWS)
                    for name, news in self._news().items():
                        on_progress(name, news)
                    for one in ended:
                        on_end(self._running.pop(one), _message(one))
                    check_interrupt()
                    self._see_to_nodes()
        except BaseException:
            self._stop()
            raise

    def _begin(self, job: Job) -> None:
        begun = self._do.remote(job, self._home, self._mailbox, "GPU" in self._asked)
        self._running[begun] = job.name

    def _news(self) -> dict[str, Progress]:
        import ray
        from ray.exceptions import RayActorError

        with suppress(RayActorError):  # it died: Ray makes another, and more news will come
            news: dict[str, Progress] = ray.get(self._mailbox.take.remote())
            return news
        return {}

    def _see_to_nodes(self) -> None:
        now = time.monotonic()
        if now - self._with_nodes < _SECONDS_WITHOUT_NODES / 12:
            return
        if _nodes(self._asked):
            self._with_nodes = now
        elif now - self._with_nodes > _SECONDS_WITHOUT_NODES:
            raise GradlabError(f"{_no_node(self._asked)} Go on with --resume once there is one.")

    def _stop(self) -> None:
        """Let the running jobs save what they have; a second Ctrl-C ends them at once."""
        import ray

        running = list(self._running)
        try:
            for one in running:
                ray.cancel(one)
            if running:
                ray.wait(running, num_returns=len(running))
        except KeyboardInterrupt:
            for one in running:
                ray.cancel(one, force=True)


def _message(ended: Any) -> str | None:
    """What a job has to say of its end: None if it finished."""
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError

    try:
        said: str | None = ray.get(ended)
        return said
    except OutOfMemoryError:
        return f"memory ran out on its node, {RETRIES + 1} times: choose a smaller model or --jobs."
    except (WorkerCrashedError, NodeDiedError):
        return f"its worker died, {RETRIES + 1} times"
    except RayError as error:
        return in_one_line(error)


def _look_at_nodes(asked: dict[str, int], home: Home) -> None:
    """Refuse a cluster with a node that would fail every run that it is given."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    looking = {
        node["NodeManagerHostname"]: task.options(scheduling_strategy=_on(node["NodeID"])).remote(
            home
        )
        for node in _nodes(asked)
    }
    for name, answer in looking.items():
        try:
            reason = ray.get(answer, timeout=_SECONDS_TO_LOOK)
        except GetTimeoutError:
            reason = f"the Ray node {name} does not answer: see to it, or take it out."
        except RayError as error:
            reason = (
                f"the Ray node {name} cannot run gradlab: install gradlab-diagnostics[ray] there "
                f"({in_one_line(error)})."
            )
        if reason:
            raise GradlabError(reason)


@contextmanager
def _marked(folder: Path) -> Iterator[Home]:
    """A study's folder with a file in it that only this folder has."""
    folder = folder.absolute()
    marker = folder / f".{secrets.token_hex(8)}.{os.getpid()}.tmp"  # removed, if it should be left
    write_whole(marker, b"")
    try:
        yield Home(folder, marker.name, Path.cwd(), versions())
    finally:
        marker.unlink(missing_ok=True)


def _asked(device: str) -> dict[str, int]:
    """What a run asks of a node.

    Raises:
        ConfigError: A GPU's number.
    """
    if device.startswith("cuda:"):
        raise ConfigError(f"device {device!r}: Ray chooses each run's GPU; use --device cuda.")
    on_gpu = device == "cuda" or resolve_device(device).type == "cuda"
    return {"CPU": 1, "GPU": 1} if on_gpu else {"CPU": 1}


def _nodes(asked: dict[str, int]) -> list[dict[str, Any]]:
    """The nodes that can do a run, if not now then later."""
    import ray

    return [
        node
        for node in ray.nodes()
        if node["Alive"]
        and all(node["Resources"].get(name, 0) >= count for name, count in asked.items())
    ]


def _no_node(asked: dict[str, int]) -> str:
    if "GPU" in asked:
        return "no node of the Ray cluster has a GPU: add one, or use --device cpu."
    return "no node of the Ray cluster has a CPU for runs: add one that has."


def _on(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)
