"""The file of a trained model's weights, which is safetensors' own to the byte."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.models.build import build_model
from gradlab.models.transformer import Transformer
from gradlab.parallel.ranks import Ranks
from gradlab.training.weights import WEIGHTS_FILE, model_of, read_weights, save_weights

Make = Callable[..., RunConfig]


@pytest.mark.parametrize("model", [{}, {"norm": "batchnorm"}, {"res_scale": "both-scalar"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_file_is_what_safetensors_writes(
    model: dict[str, Any], dtype: torch.dtype, make_config: Make, tmp_path: Path
) -> None:
    config = make_config(model=model).model
    made = build_model(config, seed=0, dtype=dtype)
    save_weights(tmp_path, made)
    tensors = {f"model.{name}": x for name, x in made.state_dict().items()}
    assert read_weights(tmp_path) == safetensors.torch.save(tensors, {"format": "pt"})
    again = model_of(read_weights(tmp_path), config)
    for name, x in made.state_dict().items():
        assert torch.equal(again.state_dict()[name], x)


def test_one_parameter_at_a_time_is_put_together(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Tensor]] = []

    def copied(x: Tensor) -> Tensor:
        assert not any(earlier() is not None for earlier in made)
        made.append(weakref.ref(copy := x.clone()))
        return copy

    monkeypatch.setattr("gradlab.training.weights.whole", copied)
    model = build_model(make_config().model, seed=0)
    for rank in (0, 1):
        made.clear()
        save_weights(tmp_path, model, Ranks(rank, 2, "fsdp"))
        assert len(made) == len(model.state_dict())


def test_a_disk_that_is_full_leaves_the_file_of_before(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_weights(tmp_path, made := build_model(make_config().model, seed=0))
    before = read_weights(tmp_path)

    def fail(*_: object) -> Transformer:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gradlab.training.weights.whole", fail)
    with pytest.raises(GradlabError, match=r"no space left to write .*model\.safetensors"):
        save_weights(tmp_path, made)
    assert read_weights(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS_FILE]
