"""Two processes train one model: everything that is recorded is as one process has it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from tiny_runs import config_of
from two_processes import one_of_two, run_in_two

import gradlab
from gradlab.config import (
    OptimizerConfig,
    PrecisionConfig,
    RecordConfig,
    RunConfig,
    ScheduleConfig,
)
from gradlab.training.loop import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo"),
]

# A gradient that is zero but for rounding, the key's bias's, moves nothing with such an ε.
ADAM: Mapping[str, Any] = {"eps": 1e-4}

RECORD: Mapping[str, Any] = {
    "probes": ("headroom", "grad_norms", "scales", "scores", "optimizer", "entropy", "states"),
    "every": 3,
}

WAYS: Mapping[str, dict[str, Any]] = {
    "fifty": {"steps": 50},
    "accumulated": {
        "accumulation": 2,
        "steps": 7,
        "val_every": 3,
        "val_batches": 2,
        "optimizer": OptimizerConfig(clip_norm=0.3, z_loss=1e-3, **ADAM),
        "record": RecordConfig(**RECORD, keep_weights=True),
    },
    # Of the two tokens that are chosen from 12, one process may have none.
    "masked": {
        "model": {"objective": "masked", "max_seq_len": 6},
        "batch_size": 2,
        "accumulation": 2,
        "steps": 7,
        "val_every": 3,
        "val_batches": 3,
        "optimizer": OptimizerConfig(z_loss=1e-3, **ADAM),
    },
    # The first step's loss scale is too high for FP16, and soon the rate for anything. The other
    # probes, which take most of the time, are those of the other ways.
    "breaking": {
        "arch": "pre-ln",
        "record": RecordConfig(probes=("headroom",), every=3),
        "steps": 200,
        "val_every": 3,
        "val_batches": 1,
        "schedule": ScheduleConfig(lr=3.0),
        "precision": PrecisionConfig(name="fp16-pure", initial_loss_scale=2.0**24),
    },
}
KINDS = ("ddp", "fsdp")
LONG = ("fifty",)

KEYS = {
    "steps": ["step"],
    "grad_norms": ["step", "param"],
    "scales": ["step", "param", "index"],
    "headroom": ["step", "site", "direction"],
    "scores": ["step", "site", "head", "bound"],
    "optimizer": ["step", "param"],
    "entropy": ["step", "site", "head"],
}


def config(corpus: Path, way: str, kind: str) -> RunConfig:
    settings = {
        "arch": "normformer",
        "optimizer": OptimizerConfig(**ADAM),
        "schedule": ScheduleConfig(lr=3e-3),
        "precision": PrecisionConfig(name="fp32"),
        "record": RecordConfig(**RECORD),
        "parallel": kind,
    }
    return config_of(corpus)(**settings | WAYS[way])


def work(rank: str, port: str, folder: str, corpus: str, *ways: str) -> None:
    """One of the processes: every case after the other."""
    with one_of_two(rank, port) as mine:
        for kind in KINDS:
            for way in ways:
                run = train(config(Path(corpus), way, kind), Path(folder) / f"{kind}-{way}")
                if mine:
                    assert run.table("steps").empty
                    written = gradlab.load(Path(folder) / f"{kind}-{way}")
                    assert (run.path, run.verdict) == (None, written.verdict)


def made(folder: Path, corpus: Path, ways: Sequence[str]) -> Path:
    """Where two processes have trained each way, of each kind, and one alone."""
    run_in_two(__file__, str(folder), str(corpus), *ways)
    for way in ways:
        train(config(corpus, way, "none"), folder / f"none-{way}")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path) -> Path:
    ways = [way for way in WAYS if way not in LONG]
    return made(tmp_path_factory.mktemp("together"), corpus_file, ways)


def rows(folder: Path, kind: str, way: str, table: str) -> pd.DataFrame:
    found = gradlab.load(folder / f"{kind}-{way}").table(table)
    return found.sort_values(KEYS[table], ignore_index=True).drop(
        columns="seconds", errors="ignore"
    )


def check_tables(folder: Path, kind: str, way: str) -> None:
    for table in KEYS:
        found, alone = rows(folder, kind, way, table), rows(folder, "none", way, table)
        assert len(alone) > 0
        pd.testing.assert_frame_equal(found, alone, rtol=1e-5, atol=2e-8, obj=table)
    run = gradlab.load(folder / f"{kind}-{way}")
    assert run.table("faults").empty
    assert run.info["device"]["processes"] == f"2 ({kind})"


@pytest.mark.parametrize("way", ["accumulated", "masked"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_table_is_that_of_one_process(kind: str, way: str, folder: Path) -> None:
    check_tables(folder, kind, way)


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_that_are_kept_are_those_of_one_process(kind: str, folder: Path) -> None:
    found, alone = (gradlab.load_model(folder / f"{k}-accumulated") for k in (kind, "none"))
    for (name, x), (expected_name, expected) in zip(
        found.state_dict().items(), alone.state_dict().items(), strict=True
    ):
        assert name == expected_name
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.long
def test_every_table_of_fifty_steps_is_that_of_one_process(
    tmp_path: Path, corpus_file: Path
) -> None:
    folder = made(tmp_path, corpus_file, LONG)
    for kind in KINDS:
        check_tables(folder, kind, "fifty")


@pytest.mark.parametrize("kind", KINDS)
def test_they_skip_and_stop_at_one_step(kind: str, folder: Path) -> None:
    """That every process stopped there is why the case came to its end at all."""
    steps = rows(folder, kind, "breaking", "steps")
    alone = rows(folder, "none", "breaking", "steps")
    begun = alone["step"] < 8
    assert alone["skipped"][begun].any()
    assert not alone["skipped"][begun].all()
    np.testing.assert_array_equal(steps["skipped"][: begun.sum()], alone["skipped"][begun])
    np.testing.assert_array_equal(steps["loss_scale"][: begun.sum()], alone["loss_scale"][begun])
    verdict = gradlab.load(folder / f"{kind}-breaking").verdict
    assert verdict is not None
    assert verdict.broke
    assert len(steps) == verdict.detected_step + 1 < 200


if __name__ == "__main__":
    work(*sys.argv[1:])
