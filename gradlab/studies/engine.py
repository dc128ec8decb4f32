"""Where a study's runs are made: processes of this machine, or the nodes of a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from gradlab.config import RunConfig
from gradlab.errors import ConfigError, unknown
from gradlab.studies.workers import Job
from gradlab.training.progress import Progress


class Engine(Protocol):
    """Where a study's runs are made."""

    def limit(self, jobs: int | None, device: str) -> int:
        """How many at the same time, where `jobs` are asked for on a device of that name."""

    def check(self, config: RunConfig) -> None:
        """Refuse a run that cannot be made there, as far as that is known before."""

    def run_jobs(
        self,
        jobs: Sequence[Job],
        *,
        limit: int,
        on_progress: Callable[[str, Progress], None],
        on_end: Callable[[str, str | None], None],
    ) -> None:
        """Make the runs, as `gradlab.studies.workers.run_jobs` says."""


ENGINES = ("local", "ray")
"""The names of the engines, the default first."""


@contextmanager
def engine_of(name: str, ray_address: str | None, *, local: Engine) -> Iterator[Engine]:
    """The engine of a name, for a while.

    Args:
        name: One of `ENGINES`.
        ray_address: Of the cluster, for the engine ray.
        local: The engine local.

    Raises:
        GradlabError: The name is unknown, or there is no such cluster.
    """
    if name not in ENGINES:
        raise ConfigError(unknown("engine", name, ENGINES))
    if name == "local":
        if ray_address is not None:
            raise ConfigError("ray_address goes with the engine ray: add --engine ray.")
        yield local
        return
    from gradlab.studies.cluster import Cluster
    from gradlab.studies.connection import connected

    with connected(ray_address):
        yield Cluster()
