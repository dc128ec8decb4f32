"""What a fairseq checkpoint's keys say, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.models.config import ModelConfig
from gradlab.models.fairseq import from_state_dict
from gradlab.models.transformer import Transformer

StateDict = dict[str, Tensor]
Checkpoint = Callable[..., StateDict]
NORMFORMER = {"scale_heads": True, "scale_attn": True, "scale_fc": True}
TOKENS = torch.arange(2, 8)[None]


def load(state: StateDict, **changes: Any) -> Transformer:
    return from_state_dict(state, **{"n_heads": 2, "max_seq_len": 6, **changes})


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        ({}, {}),
        ({"normalize_before": False}, {"placement": "post"}),
        ({"scale_heads": True}, {"head_scale": "output"}),
        ({"scale_attn": True}, {"attn_out_norm": True}),
        ({"scale_fc": True}, {"ffn_mid_norm": True}),
        ({"scale_resids": True}, {"res_scale": "ffn"}),
        ({"learned_pos": True}, {"positions": "learned"}),
        ({"layernorm_embedding": True}, {"embed_norm": True}),
    ],
    ids=str,
)
def test_shape_placement_and_switches_follow_from_the_keys(
    checkpoint: Checkpoint, flags: dict[str, bool], fields: dict[str, object]
) -> None:
    shape = {"d_model": 8, "n_layers": 3, "n_heads": 2, "d_ff": 20, "vocab_size": 13}
    expected = ModelConfig(**{**shape, "max_seq_len": 6, "placement": "pre", **fields})
    assert load(checkpoint(**flags)).config == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_and_values_stay_and_memory_is_not_shared(
    checkpoint: Checkpoint, dtype: torch.dtype
) -> None:
    state = {key: value.to(dtype) for key, value in checkpoint(**NORMFORMER).items()}
    before = {key: value.clone() for key, value in state.items()}
    model = load(state)
    for parameter in model.parameters():
        assert parameter.dtype == dtype
        assert parameter.requires_grad
    assert torch.equal(model.embed.weight, state["decoder.embed_tokens.weight"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(state[key], before[key]) for key in state)


@pytest.mark.parametrize("prefix", ["", "module.decoder.", "model.decoder.", "decoder.decoder."])
def test_any_prefix(checkpoint: Checkpoint, prefix: str) -> None:
    state = checkpoint(**NORMFORMER)
    renamed = {prefix + key.removeprefix("decoder."): value for key, value in state.items()}
    assert torch.equal(load(renamed)(TOKENS), load(state)(TOKENS))


def test_combined_projections_of_old_checkpoints(checkpoint: Checkpoint) -> None:
    state = checkpoint()
    expected = load(state)(TOKENS)
    for i in range(3):
        at = f"decoder.layers.{i}.self_attn"
        for kind in ("weight", "bias"):
            parts = [state.pop(f"{at}.{role}_proj.{kind}") for role in "qkv"]
            state[f"{at}.in_proj_{kind}"] = torch.cat(parts)
    assert torch.equal(load(state)(TOKENS), expected)


def test_without_a_saved_output_projection(checkpoint: Checkpoint) -> None:
    state = checkpoint()
    del state["decoder.output_projection.weight"], state["decoder.version"]
    assert load(state)(TOKENS).shape == (1, 6, 13)


def test_sinusoids_go_as_far_as_asked_and_learned_positions_as_far_as_they_were_learned(
    checkpoint: Checkpoint,
) -> None:
    assert torch.equal(load(checkpoint(), max_seq_len=100)(TOKENS), load(checkpoint())(TOKENS))
    learned = checkpoint(learned_pos=True)
    assert len(load(learned, max_seq_len=3).positions.weight) == 3
    with pytest.raises(GradlabError, match="6 learned positions: max_seq_len = 7"):
        load(learned, max_seq_len=7)


def drop(*keys: str) -> Callable[[StateDict], object]:
    """A change that takes away every key holding one of the texts."""

    def change(state: StateDict) -> None:
        for key in [key for key in state if any(text in key for text in keys)]:
            del state[key]

    return change


def put(key: str, *shape: int, dtype: torch.dtype = torch.float64) -> Callable[[StateDict], object]:
    return lambda state: state.update({key: torch.ones(shape, dtype=dtype)})


def nest(state: StateDict) -> None:
    state["model"] = dict(state)  # type: ignore[assignment]
    drop("decoder.")(state)


ALL = {**NORMFORMER, "scale_resids": True}
DECODER = "decoder.layers"
REFUSED = [
    (drop("layers.1.fc2.bias"), {}, "lacks layers.1.fc2.bias."),
    (drop("layers.2.c_attn"), {}, "lacks layers.2.c_attn."),
    (drop("layers.2.ffn_layernorm"), {}, "lacks layers.2.ffn_layernorm.bias, layers.2.ffn_"),
    (drop("layers.1."), {}, "lacks layers.1.fc1.weight."),
    (drop("layers."), {}, "lacks layers.0.fc1.weight."),
    (put("decoder.project_in_dim.weight", 8), {}, "holds project_in_dim.weight, which"),
    (put("decoder.layernorm_embedding.weight", 8), {}, "lacks layernorm_embedding.bias."),
    (put(f"{DECODER}.0.encoder_attn.k_proj.weight", 8), {}, "holds layers.0.encoder_attn.k_proj"),
    (put(f"{DECODER}.x.fc1.weight", 8), {}, "holds layers.x.fc1.weight"),
    (put("encoder.embed_tokens.weight", 9, 8), {}, "holds encoder.embed_tokens.weight"),
    (put("layers.0.fc1.weight", 20, 8), {}, "holds layers.0.fc1.weight"),
    (drop("embed_tokens"), {}, "no embed_tokens.weight in the state dict (is it fairseq's?)"),
    (nest, {}, "pass its 'model' entry"),
    (put("decoder.output_projection.weight", 13, 8), {}, "output projection differs from its"),
    (put("decoder.embed_out", 13, 8), {}, "output projection differs from its embedding"),
    (drop(), {"n_heads": 3}, "not divisible by n_heads = 3"),
    (drop(), {"n_heads": 4}, "layers.0.c_attn is (2,) float64 where n_heads = 4 and the other"),
    (drop(), {"max_seq_len": 0}, "max_seq_len = 0"),
    (drop(), {"activation": "relu_squared"}, "unknown activation of a fairseq decoder"),
    (put(f"{DECODER}.1.fc1.bias", 3), {}, "layers.1.fc1.bias is (3,) float64"),
    (put("decoder.layer_norm.bias", 8, dtype=torch.half), {}, "layer_norm.bias is (8,) float16"),
    (put("decoder.embed_tokens.weight", 13, 8, dtype=torch.int8), {}, "of a floating dtype"),
]


@pytest.mark.parametrize(("change", "options", "sentence"), REFUSED, ids=[c[2] for c in REFUSED])
def test_what_cannot_be_loaded_is_refused_in_one_sentence(
    checkpoint: Checkpoint,
    change: Callable[[StateDict], object],
    options: dict[str, Any],
    sentence: str,
) -> None:
    state = checkpoint(**ALL)
    change(state)
    with pytest.raises(GradlabError) as error:
        load(state, **options)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
