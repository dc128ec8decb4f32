"""fairseq's checkpoint files: what is read of them, and that nothing of them runs."""

import os
import pickle
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.models.fairseq import from_state_dict
from gradlab.models.fairseq_file import load_checkpoint

TOKENS = torch.arange(2, 8)[None]
OPTIONS = {"decoder_attention_heads": 2, "max_target_positions": 6, "activation_fn": "gelu"}


@pytest.fixture
def save(tmp_path: Path, checkpoint: Callable[..., dict[str, Tensor]]) -> Callable[..., Path]:
    def save(legacy: bool = False, **entries: Any) -> Path:
        file = tmp_path / "checkpoint_best.pt"
        content = {"args": None, "model": checkpoint(), "extra_state": {"epoch": 3}, **entries}
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)
        return file

    return save


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "entries",
    [
        {"args": Namespace(**OPTIONS, arch="transformer_lm", nested=Namespace(lr=[0.1]))},
        {"cfg": {"model": Namespace(**OPTIONS), "task": {"data": "x"}}},
        {"cfg": {"model": {**OPTIONS, "_name": "transformer_lm"}}},
        {"args": Namespace(**{**OPTIONS, "max_target_positions": None, "tokens_per_sample": 6})},
    ],
    ids=["args", "cfg", "plain cfg", "tokens_per_sample"],
)
def test_the_file_says_what_its_weights_do_not(
    save: Callable[..., Path],
    checkpoint: Callable[..., dict[str, Tensor]],
    entries: dict[str, Any],
    legacy: bool,
) -> None:
    model = load_checkpoint(save(legacy, **entries))
    expected = from_state_dict(checkpoint(), n_heads=2, max_seq_len=6)
    assert model.config == expected.config
    assert torch.equal(model(TOKENS), expected(TOKENS))


def test_what_is_given_counts(save: Callable[..., Path]) -> None:
    file = save(args=Namespace(**{**OPTIONS, "activation_fn": "relu_squared"}))
    assert load_checkpoint(file).config.activation == "relu2"
    model = load_checkpoint(file, n_heads=4, max_seq_len=3, activation="gelu")
    config = model.config
    assert (config.n_heads, config.max_seq_len, config.activation) == (4, 3, "gelu")
    with pytest.raises(GradlabError, match="does not say n_heads, max_seq_len, activation"):
        load_checkpoint(save())
    given = load_checkpoint(save(), n_heads=2, max_seq_len=6, activation="gelu")
    assert given(TOKENS).isfinite().all()


class Evil:
    """Unpickled as pickle does it, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("where", ["args", "inside", "model", "extra_state"])
def test_code_in_a_file_does_not_run(
    save: Callable[..., Path], tmp_path: Path, where: str, legacy: bool
) -> None:
    mark = tmp_path / "ran"
    evil = Evil(mark)
    entries = {where: evil}
    if where == "inside":
        entries = {"args": Namespace(**OPTIONS, evil=evil)}
    file = save(legacy, **entries)
    with pytest.raises(GradlabError) as refused:
        load_checkpoint(file, n_heads=2, max_seq_len=6, activation="gelu")
    assert not mark.exists()
    named = f"holds {os.mkdir.__module__}.mkdir, which could run code: it is not read"
    assert ("without running what is in it" if legacy else named) in str(refused.value)
    assert "\n" not in str(refused.value)
    torch.load(file, weights_only=False)  # so it would have run
    assert mark.exists()


def test_a_bare_pickle_does_not_run(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(GradlabError, match="without running what is in it"):
        load_checkpoint(file)
    assert not (tmp_path / "ran").exists()


def test_classes_that_are_not_allowed_are_named(save: Callable[..., Path]) -> None:
    file = save(args=Namespace(**OPTIONS), extra_state={"best": np.float64(3.0)})
    with pytest.raises(GradlabError, match=r"holds numpy.*scalar, .*: it is not read"):
        load_checkpoint(file)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"activation_fn": "relu"}, "the activation 'relu', which"),
        ({"no_scale_embedding": True}, "trained with no_scale_embedding"),
        ({"no_token_positional_embeddings": True}, "trained with no_token_positional_embeddings"),
        ({"decoder_attention_heads": 3}, "not divisible by n_heads = 3"),
    ],
    ids=str,
)
def test_a_model_that_gradlab_does_not_have_is_refused(
    save: Callable[..., Path], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(GradlabError, match=sentence):
        load_checkpoint(save(args=Namespace(**{**OPTIONS, **options})))


def test_pre_ln_without_its_final_norm_is_told_from_post_ln(
    save: Callable[..., Path], checkpoint: Callable[..., dict[str, Tensor]]
) -> None:
    weights = checkpoint(normalize_before=False)
    post = Namespace(**OPTIONS, decoder_normalize_before=False)
    assert load_checkpoint(save(model=weights, args=post)).config.placement == "post"
    pre = Namespace(**OPTIONS, decoder_normalize_before=True)
    with pytest.raises(GradlabError, match="trained with no_decoder_final_norm"):
        load_checkpoint(save(model=weights, args=pre))
    assert load_checkpoint(save(args=pre)).config.placement == "pre"


def test_other_files_are_refused_in_one_sentence(tmp_path: Path, save: Callable[..., Path]) -> None:
    whole = save(args=Namespace(**OPTIONS)).read_bytes()
    file = tmp_path / "other.pt"
    for content in (b"", b"text", whole[:1000], whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(GradlabError, match=r"other.pt is damaged, or no checkpoint"):
            load_checkpoint(file)
    torch.save({"weights": torch.ones(2)}, file)
    with pytest.raises(GradlabError, match="no checkpoint of fairseq: it has no 'model'"):
        load_checkpoint(file)
    with pytest.raises(GradlabError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(GradlabError):
        load_checkpoint(tmp_path)
