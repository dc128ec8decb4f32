from pathlib import Path

import pytest

from gradlab.config import DataConfig, RecordConfig, RunConfig, ScheduleConfig
from gradlab.models.presets import model_config
from gradlab.runs.reader import Run

TINY = {"d_model": 16, "n_heads": 2, "d_ff": 32, "n_layers": 3, "max_seq_len": 8}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two architectures that the built-in loop really trained, with two seeds each."""
    from gradlab.training.loop import train

    text: Path = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("a rose is a rose is a rose. " * 60)
    return [
        train(
            RunConfig(
                arch=arch,
                size="nano",
                model=model_config(arch, "nano", **TINY),
                schedule=ScheduleConfig(lr=1e-2, warmup_steps=2),
                steps=14,
                seed=seed,
                batch_size=2,
                data=DataConfig(corpus=str(text)),
                record=RecordConfig(probes=("grad_norms", "scales"), every=1),
                val_every=3,
                val_batches=2,
                device="cpu",
            )
        )
        for seed in range(2)
        for arch in ("pre-ln", "normformer-resscale")
    ]
