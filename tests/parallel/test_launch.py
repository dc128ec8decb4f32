"""What several processes cannot train is refused before anything begins."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gradlab
from gradlab.config import RunConfig
from gradlab.errors import ConfigError, GradlabError
from gradlab.parallel import environment
from gradlab.parallel.launch import device_name, joined
from gradlab.parallel.ranks import ALONE, Ranks


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun starts the second of two processes."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)


REFUSED = [
    ({"batch_size": 5}, "batch_size = 5 cannot be shared evenly by 2 processes: choose 4 or 6"),
    ({"batch_size": 1}, "choose 2,"),
    ({"compile": True}, "compile"),
    ({"model": {"norm": "batchnorm"}}, "batchnorm"),
    ({"model": {"init": "admin", "res_scale": "both"}, "parallel": "fsdp"}, "admin"),
    ({"device": "cuda:0"}, "device 'cuda:0' would be that of all 2 processes"),
    ({}, "not MASTER_ADDR, MASTER_PORT: start them by torchrun"),
]


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(("fields", "said"), REFUSED)
def test_what_cannot_be_shared_is_refused(
    fields: dict[str, Any], said: str, make_config: Callable[..., RunConfig]
) -> None:
    with pytest.raises(ConfigError, match=said), joined(make_config(**fields)):
        pass


@pytest.mark.usefixtures("two")
def test_each_process_takes_its_own_gpu() -> None:
    assert device_name("cuda", 2) == "cuda:1"
    assert device_name("cpu", 2) == "cpu"
    assert device_name("cuda:0", 1) == "cuda:0"


@pytest.mark.usefixtures("two")
def test_studies_and_replays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GradlabError, match="a study cannot be made by the 2 processes"):
        gradlab.run_study(gradlab.studies.Stability(), tmp_path / "study")
    with pytest.raises(GradlabError, match="a replay cannot be made"):
        gradlab.replay(tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_processes_are_needed_where_they_are_asked_for(
    kind: str, make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="torchrun"), joined(make_config(parallel=kind)):
        pass
    for name in ("WORLD_SIZE", "RANK"):  # torchrun with one process is one
        monkeypatch.setenv(name, "1" if name == "WORLD_SIZE" else "0")
    with joined(make_config(parallel=kind)) as ranks:
        assert ranks is ALONE


@pytest.mark.usefixtures("two")
def test_each_for_itself_if_told_so(make_config: Callable[..., RunConfig]) -> None:
    with joined(make_config(parallel="none")) as ranks:
        assert ranks is ALONE


def test_an_environment_that_is_none_of_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 'two'"):
        environment.processes()
    monkeypatch.setenv("RANK", "two")
    assert environment.tells()


@pytest.mark.usefixtures("two")
@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="there is a second GPU")
def test_a_gpu_that_is_not_there_is_refused(make_config: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match="device 'cuda:1'"), joined(make_config(device="cuda")):
        pass


@pytest.mark.usefixtures("two")
def test_a_port_that_is_taken_is_said(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        with pytest.raises(GradlabError, match="do not meet at 127"), joined(make_config()):
            pass


@pytest.mark.usefixtures("two")
def test_one_process_tells() -> None:
    error = GradlabError("x")
    assert not environment.tells()
    assert not environment.tells(error)
    error.told_elsewhere = False
    assert environment.tells(error)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shares_are_the_whole_batch_and_dropout_is_each_ones_own(size: int) -> None:
    ranks = [Ranks(rank, size) for rank in range(size)]
    batch = list(range(12))
    assert [x for one in ranks for x in batch[one.share(12)]] == batch
    for seed in (0, 1, (1 << 63) - 1):
        seeds = [one.seed(seed) for one in ranks]
        assert seeds[0] == seed
        assert len(set(seeds)) == size
        assert all(0 <= s < 1 << 63 for s in seeds)
