"""Fixtures of runs of a tiny model on a tiny text, one thread each."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gradlab.config import DataConfig, PrecisionConfig, RunConfig, ScheduleConfig
from gradlab.models.presets import model_config


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some words in random order: enough structure for a loss that falls."""
    words = ["gradient", "norm", "scale", "layer", "the", "of", "and", "overflow", "rises", "\n"]
    text = " ".join(random.Random(0).choices(words, k=3000))
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text(text)
    return path


@pytest.fixture
def make_config(corpus_file: Path) -> Callable[..., RunConfig]:
    """A run of a tiny model: keywords are fields of the RunConfig, `model` those of its model."""
    return config_of(corpus_file)


def config_of(corpus: Path) -> Callable[..., RunConfig]:
    """What `make_config` gives, on a text."""

    def make(arch: str = "pre-ln", model: dict[str, Any] | None = None, **fields: Any) -> RunConfig:
        shape = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32, "max_seq_len": 16}
        config = RunConfig(
            arch=arch,
            size="tiny",
            model=model_config(arch, "nano", **{**shape, **(model or {})}),
            schedule=ScheduleConfig(lr=1e-3),
            steps=12,
            batch_size=4,
            precision=PrecisionConfig(name="fp16"),
            data=DataConfig(corpus=str(corpus)),
            device="cpu",
        )
        return config.replace(**fields)

    return make
