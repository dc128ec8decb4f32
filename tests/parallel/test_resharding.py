"""A run goes on with another number of processes than it was begun with, and another way."""

import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from tiny_runs import config_of
from torch.profiler import ProfilerActivity, profile
from two_processes import one_of_two, run_in_two

import gradlab
from gradlab.config import OptimizerConfig, PrecisionConfig, RecordConfig, RunConfig
from gradlab.errors import GradlabError, GradlabWarning
from gradlab.models.build import build_model
from gradlab.models.presets import model_config
from gradlab.parallel.model import sharded_model
from gradlab.parallel.ranks import Ranks
from gradlab.parallel.spread import own_part
from gradlab.training.checkpoint import found, read
from gradlab.training.loop import train
from gradlab.training.weights import read_weights, save_weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo"),
]

STEPS, STOP = 8, 5


def config(corpus: Path, kind: str) -> RunConfig:
    return config_of(corpus)(
        "normformer",
        steps=STEPS,
        parallel=kind,
        optimizer=OptimizerConfig(eps=1e-4),
        precision=PrecisionConfig(name="fp32"),
        record=RecordConfig(probes=("grad_norms", "scales"), every=2),
    )


def stopping() -> Callable[[], None]:
    """Called after each step; stops the run after some."""
    left = iter(range(STOP - 1, -1, -1))

    def stop() -> None:
        if not next(left):
            raise KeyboardInterrupt

    return stop


def begin(config: RunConfig, out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(config, out, between_steps=stopping())


def work(rank: str, port: str, size: str, folder: str, corpus: str, *todo: str) -> None:
    """One of the processes: makes whole runs, begins some, and goes on with others."""
    with one_of_two(rank, port, int(size)):
        check_initial_values(Ranks(int(rank), int(size), "fsdp"), Path(folder))
        for what in todo:
            how, kind, name = what.split(":")
            out, asked = Path(folder) / name, config(Path(corpus), kind)
            if how == "begin":
                begin(asked, out)
            else:
                train(asked, out, resume=how == "resume")


def check_initial_values(ranks: Ranks, folder: Path) -> None:
    """Those of one process, made without the memory that it takes: a part, and some parameters.

    The file of them is that of one process, too.
    """
    model = model_config("normformer", "nano", n_layers=12)
    made = partial(sharded_model, model, device=torch.device("cpu"), dtype=torch.float32, seed=1)
    made()  # what a process makes once, as groups, is no part of a model
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        parts = made()
    events = profiled.profiler.kineto_results.events()
    memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    most = max(accumulate(nbytes for _, nbytes in memory))
    whole = build_model(model, seed=1)
    own = sum(own_part(x).nbytes for x in parts.parameters())
    assert own < 0.6 * sum(x.nbytes for x in whole.parameters())
    assert own < most < own + 4 * max(x.nbytes for x in whole.parameters())
    for part, x in zip(parts.parameters(), whole.parameters(), strict=True):
        assert torch.equal(part.full_tensor(), x)
    save_weights(folder, parts, ranks)
    if ranks.is_first:
        written = read_weights(folder)
        save_weights(folder, whole)
        assert written == read_weights(folder)


def tables(run: Path) -> Sequence[pd.DataFrame]:
    loaded = gradlab.load(run)
    assert loaded.status == "finished"
    return [
        loaded.table("steps").drop(columns="seconds"),
        loaded.table("grad_norms").sort_values(["step", "param"], ignore_index=True),
        loaded.table("scales").sort_values(["step", "param", "index"], ignore_index=True),
    ]


def check_same(one: Path, other: Path, *, rtol: float) -> None:
    for found_there, expected in zip(tables(one), tables(other), strict=True):
        pd.testing.assert_frame_equal(found_there, expected, rtol=rtol, atol=rtol and 2e-8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path) -> Path:
    """Runs of one process and of two, whole and stopped, and gone on with by two."""
    folder = tmp_path_factory.mktemp("resharding")
    train(config(corpus_file, "none"), folder / "one")
    begin(config(corpus_file, "none"), folder / "one-ddp")
    shutil.copytree(folder / "one-ddp", folder / "one-fsdp")
    todo = ["whole:fsdp:two", "begin:fsdp:stopped", "begin:fsdp:two-two", "resume:fsdp:two-two"]
    todo += ["resume:ddp:one-ddp", "resume:fsdp:one-fsdp"]
    run_in_two(__file__, "2", str(folder), str(corpus_file), *todo)
    return folder


def test_as_many_go_on_to_the_bit(folder: Path) -> None:
    check_same(folder / "two-two", folder / "two", rtol=0)
    check_same(folder / "two", folder / "one", rtol=1e-5)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_go_on_where_one_stopped(kind: str, folder: Path) -> None:
    check_same(folder / f"one-{kind}", folder / "one", rtol=1e-5)


def test_one_goes_on_where_two_stopped(folder: Path, tmp_path: Path, corpus_file: Path) -> None:
    shutil.copytree(folder / "stopped", tmp_path / "run")
    with pytest.warns(GradlabWarning, match=r"processes was 2 \(fsdp\) and is none"):
        train(config(corpus_file, "none"), tmp_path / "run", resume=True)
    check_same(tmp_path / "run", folder / "one", rtol=1e-5)
    assert not found(tmp_path / "run")


def test_each_process_wrote_its_part_and_no_pickle(folder: Path) -> None:
    (path,) = found(folder / "stopped")
    names = sorted(part.name for part in path.iterdir())
    assert names[0] == "facts.json"
    assert len(names) == 3
    assert all(name.endswith(".safetensors") for name in names[1:])
    sizes = [part.stat().st_size for part in path.glob("*.safetensors")]
    assert max(sizes) < 0.6 * sum(sizes)
    whole = read(path).tensors
    assert whole["model.embed.weight"].shape == whole["optimizer.0.exp_avg"].shape
    assert whole["random.cpu"].shape[0] == 2


@pytest.mark.parametrize("which", ["facts.json", "shard-00001", "shard-00002", "another", "gone"])
def test_damage_is_refused(which: str, folder: Path, tmp_path: Path, corpus_file: Path) -> None:
    shutil.copytree(folder / "stopped", tmp_path / "run")
    (path,) = found(tmp_path / "run")
    parts = sorted(path.iterdir())
    if which == "another":
        shutil.copy(parts[1], path / "shard-00003.safetensors")
    elif which == "gone":
        parts[2].unlink()
    else:
        (part,) = path.glob(f"{which}*")
        content = bytearray(part.read_bytes())
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
    with pytest.raises(GradlabError):
        read(path)
    with pytest.raises(GradlabError, match="no checkpoint of the run can be used"):
        train(config(corpus_file, "none"), tmp_path / "run", resume=True)


@pytest.mark.long
def test_four_go_on_where_two_stopped_and_one_after_them(
    folder: Path, tmp_path: Path, corpus_file: Path
) -> None:
    """Some parameters have fewer entries than there are processes."""
    shutil.copytree(folder / "stopped", tmp_path / "run")
    todo = ["resume:fsdp:run", "begin:fsdp:four"]
    run_in_two(__file__, "4", str(tmp_path), str(corpus_file), *todo, processes=4)
    check_same(tmp_path / "run", folder / "one", rtol=1e-5)
    with pytest.warns(GradlabWarning, match="processes"):
        train(config(corpus_file, "none"), tmp_path / "four", resume=True)
    check_same(tmp_path / "four", folder / "one", rtol=1e-5)
    assert torch.get_num_threads() == 1


if __name__ == "__main__":
    work(*sys.argv[1:])
