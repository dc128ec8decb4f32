"""Studies on a cluster of two Ray nodes on one machine, and what is refused without one."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import gradlab
from gradlab.config import RecordConfig, RunConfig, ScheduleConfig
from gradlab.errors import ConfigError, GradlabError
from gradlab.runs.document import versions
from gradlab.studies.cluster import Cluster
from gradlab.studies.connection import RAY_SETTINGS, connected
from gradlab.studies.engine import engine_of
from gradlab.studies.news import News, RunUpdate
from gradlab.studies.node import Home, Mailbox, do, look
from gradlab.studies.run import LocalPool, train_runs
from gradlab.studies.table import STABILITY
from gradlab.studies.workers import Job
from gradlab.training.progress import Progress

Make = Callable[..., RunConfig]


def home(folder: Path, **fields: Any) -> Home:
    return Home(**{"folder": folder, "marker": "m", "directory": folder, "versions": {}, **fields})


def test_a_node_says_why_it_cannot_train(tmp_path: Path) -> None:
    assert "does not see the folder" in str(look(home(tmp_path)))
    (tmp_path / "m").touch()
    assert look(home(tmp_path, versions=versions())) is None
    assert "has torch" in str(look(home(tmp_path, versions={**versions(), "torch": "1.2.3"})))
    assert "not at all" in str(look(home(tmp_path, versions={"lost": "1.0"})))


@pytest.mark.parametrize(
    "address", ["nowhere", "ray://127.0.0.1:10001", ":6379", "a:b", "127.0.0.1:99999", "[::1"]
)
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(ConfigError, match="give the host and port"), connected(address):
        pass


@pytest.mark.parametrize("listens", [False, True])
def test_an_address_where_no_cluster_answers_is_said_soon(
    listens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:  # and says nothing
            server.listen()
        address = "{}:{}".format(*server.getsockname())
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(GradlabError, match=f"no Ray cluster answers at {address}"), connected():
            pass
    assert time.monotonic() - began < 30


class Missing:
    """Finds no package ray, as if it were not installed."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError(f"No module named {name!r}", name="ray")


def test_without_the_package_the_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for loaded in list(sys.modules):
        if f"{loaded}.".startswith("ray."):
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    study = gradlab.studies.Stability(lr_step=1e-3)
    with pytest.raises(GradlabError, match=r"engine ray needs the package ray: .*\[ray\]"):
        gradlab.run_study(study, engine="ray")


def test_an_engine_is_named_right_and_has_its_own_options() -> None:
    with pytest.raises(ConfigError, match="unknown engine 'rya': did you mean 'ray'"):
        gradlab.run_study(gradlab.studies.Stability(lr_step=1e-3), engine="rya")
    with pytest.raises(ConfigError, match="add --engine ray"):
        gradlab.run_study(gradlab.studies.Stability(lr_step=1e-3), ray_address="127.0.0.1:1")
    with engine_of("local", None, local=LocalPool()) as engine:
        assert engine == LocalPool()


@pytest.fixture(scope="module")
def ray_nodes() -> Iterator[Any]:
    """A cluster of two nodes with a CPU each, that this process is connected to.

    What is begun once and stays, the nodes and their workers, takes most of these tests' time.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY_SETTINGS.items():  # before the first import of ray
            patch.setenv(name, value)
        from ray import cloudpickle
        from ray.cluster_utils import Cluster as Nodes

        before = signal.getsignal(signal.SIGTERM)
        node = {"num_cpus": 1, "object_store_memory": 80_000_000}
        nodes = Nodes(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        this = sys.modules[__name__]
        cloudpickle.register_pickle_by_value(this)  # the workers cannot import it
        try:
            nodes.add_node(**node)
            signal.signal(signal.SIGTERM, before)  # which Ray replaced
            with connected(nodes.address):
                assert signal.getsignal(signal.SIGTERM) is before
                yield nodes
        finally:
            cloudpickle.unregister_pickle_by_value(this)
            nodes.shutdown()


@pytest.fixture
def ramp(make_config: Make) -> Make:
    def make(**fields: Any) -> RunConfig:
        return make_config(
            **{"schedule": ScheduleConfig(kind="ramp", lr_step=1e-4), "steps": 8, **fields}
        )

    return make


def on_ray(configs: list[RunConfig], out: Path, **how: Any) -> dict[str, str]:
    with engine_of("ray", None, local=LocalPool()) as engine:
        jobs = engine.limit(None, "cpu")
        return train_runs(configs, out, table=STABILITY, jobs=jobs, engine=engine, **how)


def make(jobs: list[Job]) -> dict[str, str | None]:
    """How each of the jobs ended on the cluster, by name."""
    ends: dict[str, str | None] = {}
    Cluster().run_jobs(
        jobs, limit=2, on_progress=lambda *_: None, on_end=lambda *end: ends.update([end])
    )
    return ends


def check_same(path: Path, config: RunConfig) -> None:
    """A run in a folder is to the bit what it is when it is trained here, at one go."""
    there, here = gradlab.load(path), gradlab.train(config)
    assert there.verdict == here.verdict
    for name in ("steps", "headroom"):
        pd.testing.assert_frame_equal(
            there.table(name).drop(columns="seconds", errors="ignore"),
            here.table(name).drop(columns="seconds", errors="ignore"),
        )


@pytest.mark.slow
@pytest.mark.long
def test_two_nodes_make_what_one_process_makes(
    ray_nodes: Any, ramp: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = ramp(arch="normformer", model={"vocab_size": 64})
    configs = [ramp(), wrong, ramp(seed=1), ramp(seed=2)]
    updates: list[RunUpdate] = []
    failed = on_ray(configs, tmp_path / "s", progress=updates.append)
    names = [gradlab.runs.study.run_name(config) for config in configs]
    assert list(failed) == [names[1]]
    assert "vocabulary" in failed[names[1]]
    assert {one.name for one in updates if one.state == "finished"} == {names[0], *names[2:]}
    last = {one.name: one.progress.step for one in updates if one.progress}
    assert last == {names[0]: 7, names[2]: 7, names[3]: 7}
    assert pd.read_csv(tmp_path / "s" / "stability.csv")["seed"].tolist() == [0, 1, 2]
    for config, name in zip(configs, names, strict=True):
        if config is not wrong:
            check_same(tmp_path / "s" / name, config)
    assert not list((tmp_path / "s").glob(".*"))
    assert capfd.readouterr() == ("", "")


class DiesOnce(Job):
    """Its process is killed after a step, the first time."""

    def do(self, progress: Callable[[Progress], None], between_steps: Callable[[], None]) -> None:
        seen = self.path.parent / f"{self.name}.steps"

        def note(news: Progress) -> None:
            with seen.open("a") as file:
                file.write(f"{news.step} {os.getpid()}\n")
            if news.step == 25 and seen.read_text().count("25 ") == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            progress(news)

        super().do(note, between_steps)


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_run_goes_on_from_its_checkpoint(
    ray_nodes: Any, ramp: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = ramp(steps=40, record=RecordConfig(checkpoint_every=10))
    ends = make([DiesOnce("run", config, tmp_path / "run")])
    assert ends == {"run": None}
    lines = [line.split() for line in (tmp_path / "run.steps").read_text().splitlines()]
    first, second = dict.fromkeys(process for _, process in lines)
    assert [int(step) for step, process in lines if process == first] == list(range(26))
    assert [int(step) for step, process in lines if process == second] == list(range(20, 40))
    check_same(tmp_path / "run", config)
    assert capfd.readouterr() == ("", "")


class Dies(Job):
    """Its process is killed whenever it is begun."""

    def do(self, progress: Callable[[Progress], None], between_steps: Callable[[], None]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.long
def test_a_run_whose_worker_always_dies_is_given_up_and_the_others_finish(
    ray_nodes: Any, ramp: Make, tmp_path: Path
) -> None:
    ends = make([Dies("dies", ramp(), tmp_path / "dies"), Job("run", ramp(), tmp_path / "run")])
    assert ends == {"dies": "its worker died, 4 times", "run": None}
    check_same(tmp_path / "run", ramp())


@pytest.mark.slow
def test_a_run_whose_last_news_find_nobody_has_finished(
    ray_nodes: Any, ramp: Make, tmp_path: Path
) -> None:
    import ray

    (tmp_path / "m").touch()
    nobody = ray.remote(num_cpus=0)(Mailbox).remote()
    ray.kill(nobody)
    job = Job("run", ramp(steps=2), tmp_path / "run")
    end = ray.remote(max_retries=0)(do).remote(job, home(tmp_path), nobody, False)
    assert ray.get(end) is None
    assert gradlab.load(tmp_path / "run").status == "finished"


@pytest.mark.slow
def test_ctrl_c_saves_what_there_is_and_resume_goes_on(
    ray_nodes: Any, ramp: Make, tmp_path: Path
) -> None:
    config = ramp(steps=150)
    seen: list[int] = []

    def interrupt(update: News) -> None:
        if isinstance(update, RunUpdate) and update.progress and update.progress.step > 2:
            raise KeyboardInterrupt

    def note(update: News) -> None:
        if isinstance(update, RunUpdate) and update.progress:
            seen.append(update.progress.step)

    out = tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        on_ray([config], out, progress=interrupt)
    run = out / gradlab.runs.study.run_name(config)
    stopped = gradlab.load(run)
    assert stopped.status == "interrupted"
    assert stopped.table("steps")["step"].tolist() == list(range(stopped.verdict.step + 1))
    assert on_ray([config], out, resume=True, progress=note) == {}
    assert min(seen) > stopped.verdict.step > 2
    check_same(run, config)


@pytest.mark.slow
def test_a_gpu_that_no_node_has_is_said(ray_nodes: Any) -> None:
    with pytest.raises(GradlabError, match="no node of the Ray cluster has a GPU"):
        Cluster().limit(None, "cuda")
    with pytest.raises(ConfigError, match="Ray chooses"):
        Cluster().limit(2, "cuda:1")
    with pytest.raises(GradlabError, match="jobs = 0"):
        Cluster().limit(0, "cpu")
    assert (Cluster().limit(None, "cpu"), Cluster().limit(5, "cpu")) == (2, 5)
    with pytest.raises(ConfigError, match="already"), connected(ray_nodes.address):
        pass


@pytest.mark.slow
@pytest.mark.long
def test_a_node_of_another_torch_is_said_before_anything_is_trained(
    ray_nodes: Any, ramp: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = tmp_path / "other" / "torch-1.2.3.dist-info" / "METADATA"
    facts.parent.mkdir(parents=True)
    facts.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.2.3\n")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "other"))
        other = ray_nodes.add_node(num_cpus=1, object_store_memory=80_000_000)
    try:
        with pytest.raises(GradlabError, match=r"has torch 1\.2\.3 and this machine"):
            on_ray([ramp()], tmp_path / "s")
    finally:
        ray_nodes.remove_node(other)
    assert not gradlab.load_study(tmp_path / "s").runs
