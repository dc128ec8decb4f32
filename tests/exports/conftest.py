"""Runs that ended with their weights kept, made without training."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gradlab.config import PrecisionConfig, RecordConfig, RunConfig, ScheduleConfig
from gradlab.models.build import build_model
from gradlab.models.presets import model_config
from gradlab.models.transformer import Transformer
from gradlab.runs.verdict import Verdict
from gradlab.runs.writer import RunWriter
from gradlab.training.weights import save_weights

Kept = tuple[Path, Transformer]

SHAPE = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 24, "max_seq_len": 12}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where transformers puts the code that it runs: not among the user's."""
    utils = pytest.importorskip("transformers.dynamic_module_utils")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def keep(tmp_path: Path) -> Callable[..., Kept]:
    """Makes a run's folder with a model in it whose every parameter matters, and gives both."""

    def keep(
        arch: str = "normformer",
        *,
        name: str = "run",
        precision: str = "fp32",
        status: str = "finished",
        verdict: Verdict | None = None,
        weights: bool = True,
        fields: dict[str, Any] | None = None,
        text: dict[str, Any] | None = None,
        **model: Any,
    ) -> Kept:
        config = RunConfig(
            arch=arch,
            size="nano",
            model=model_config(arch, "nano", **{**SHAPE, **model}),
            schedule=ScheduleConfig(lr=1e-3),
            steps=4,
            precision=PrecisionConfig(name=precision),
            **{"record": RecordConfig(keep_weights=True), **(fields or {})},
        )
        corpus = {"name": "text", "sha256": "0", **(text or {})}
        if not config.model.is_causal:
            corpus.setdefault("mask_id", config.model.vocab_size - 1)
        writer = RunWriter(tmp_path / name, config, {"corpus": corpus})
        made = jittered(config, torch.float16 if precision == "fp16-pure" else torch.float32)
        if weights:
            save_weights(writer.path, made)
        if status == "finished":
            verdict = verdict or Verdict(reason="completed", step=3, lr=1e-3)
        writer.finish(status, verdict)
        return writer.path, made

    return keep


def jittered(config: RunConfig, dtype: torch.dtype) -> Transformer:
    """At inference, with norms, scales, biases and running means away from their initial values."""
    made = build_model(config.model, seed=0, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*made.parameters(), *kept_buffers(made)):
            tensor += 0.1 * torch.rand(tensor.shape, generator=generator).to(tensor.dtype)
    return made.eval()


def kept_buffers(model: Transformer) -> list[Tensor]:
    """What a state dict has beside the parameters."""
    parameters = dict(model.named_parameters())
    return [x for name, x in model.state_dict().items() if name not in parameters]


@pytest.fixture
def tokens() -> Tensor:
    """(3, 9) token ids."""
    return torch.randint(1, 256, (3, 9), generator=torch.Generator().manual_seed(2))
