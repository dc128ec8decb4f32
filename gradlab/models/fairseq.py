"""Checkpoints of fairseq's decoder-only language models, NormFormer's among them.

The published fairseq code multiplies γ into the output of W^O (blocks of d_head mixed channels),
so a checkpoint with `c_attn` becomes `head_scale = "output"`, not the paper's form.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from gradlab.errors import ConfigError, GradlabError, unknown
from gradlab.models.config import Activation, ModelConfig
from gradlab.models.positions import FIRST_POSITION
from gradlab.models.transformer import Transformer

_OUTSIDE_BLOCKS = {
    "embed.weight": "embed_tokens.weight",
    "positions.weight": "embed_positions.weight",
    "embed_norm.weight": "layernorm_embedding.weight",
    "embed_norm.bias": "layernorm_embedding.bias",
    "final_norm.weight": "layer_norm.weight",
    "final_norm.bias": "layer_norm.bias",
}

_IN_BLOCK = {
    "attn_norm": "self_attn_layer_norm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.out_proj",
    "attn_out_norm": "attn_ln",
    "ffn_norm": "final_layer_norm",  # before the FFN, despite its name
    "feed_forward.fc1": "fc1",
    "feed_forward.ffn_mid_norm": "ffn_layernorm",
    "feed_forward.fc2": "fc2",
    "attention.head_scale.gamma": "c_attn",
    "ffn_residual.lambda_resid": "w_resid",
}

_LAYER_KEY = re.compile(r"layers\.(\d+)\.(\w+)")

_NO_WEIGHTS = ("version", "embed_positions._float_tensor", "embed_positions.weights")
"""Buffers that fairseq saves beside the weights: a format number and what positions are made of."""


def from_state_dict(
    state_dict: Mapping[str, Tensor],
    *,
    n_heads: int,
    max_seq_len: int,
    activation: Activation = "gelu",
) -> Transformer:
    """Make a model of a fairseq decoder's weights.

    Width, depth, vocabulary, placement and switches follow from the keys and shapes; the rest is
    not in a state dict and must be given. Values are copied; dtype and device stay.

    A decoder without a final norm counts as Post-LN, which is fairseq's own rule; a Pre-LN model
    trained with `--no-decoder-final-norm` has the same keys and can't be told apart. The padding
    row of the embedding (id 1) becomes an ordinary row: with no padding in the input the two
    agree. Checkpoints from before November 2021 permute channels at the head scale and load
    without a complaint, but not to the same function.

    Args:
        state_dict: The `"model"` entry of a checkpoint, its keys with or without a prefix such as
            `decoder.`; the combined `in_proj_weight` of old versions is split.
        n_heads: Attention heads; divides the width.
        max_seq_len: Longest sequence; no more than the learned positions, where there are any.
        activation: `gelu` or `relu2` (fairseq's `relu_squared`).

    Raises:
        GradlabError: A key is missing or has no place in these models, the output projection is
            not tied to the embedding, or shapes or dtypes do not fit together.
    """
    weights = dict(_weights_of_decoder(state_dict))
    config = _config(weights, n_heads, max_seq_len, activation)
    _drop_tied_output(weights)
    if "embed_positions.weight" in weights:
        # The first position stands in row padding index + 1.
        rows = weights["embed_positions.weight"][FIRST_POSITION:]
        if len(rows) < max_seq_len:
            raise GradlabError(
                f"the checkpoint has {len(rows)} learned positions: max_seq_len = {max_seq_len} "
                "must not be more."
            )
        weights["embed_positions.weight"] = rows[:max_seq_len]

    embedding = weights["embed_tokens.weight"]
    with torch.device("meta"):
        model = Transformer(config).to(embedding.dtype)
    names = {name: fairseq_name(name) for name, _ in model.named_parameters()}
    _check_keys(weights, names.values())
    model = model.to_empty(device=embedding.device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = weights[names[name]]
            if value.shape != parameter.shape or value.dtype != parameter.dtype:
                raise GradlabError(
                    f"{names[name]} is {_describe(value)} where n_heads = {n_heads} and the other "
                    f"weights ask for {_describe(parameter)}."
                )
            parameter.copy_(value)
    return model


def fairseq_name(name: str) -> str:
    """The fairseq key of one of our parameters."""
    if name in _OUTSIDE_BLOCKS:
        return _OUTSIDE_BLOCKS[name]
    _, layer, part = name.split(".", 2)
    if part not in _IN_BLOCK:
        part, kind = part.rsplit(".", 1)
        return f"layers.{layer}.{_IN_BLOCK[part]}.{kind}"
    return f"layers.{layer}.{_IN_BLOCK[part]}"


def _weights_of_decoder(state_dict: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The weights with the prefix taken off their keys and combined projections split."""
    anchor = "embed_tokens.weight"
    prefixes = [key.removesuffix(anchor) for key in state_dict if key.endswith(anchor)]
    if not prefixes:
        whole = isinstance(state_dict.get("model"), Mapping)
        hint = "this is a whole checkpoint: pass its 'model' entry" if whole else "is it fairseq's?"
        raise GradlabError(f"no {anchor} in the state dict ({hint}).")
    prefix = next((prefix for prefix in prefixes if prefix.endswith("decoder.")), prefixes[0])
    if foreign := sorted(key for key in state_dict if not key.startswith(prefix)):
        raise GradlabError(_no_place(foreign))
    for key, value in state_dict.items():
        name = key.removeprefix(prefix)
        if ".self_attn.in_proj_" in name:
            for role, part in zip("qkv", value.tensor_split(3), strict=True):
                yield name.replace("in_proj_", f"{role}_proj."), part
        elif name not in _NO_WEIGHTS:
            yield name, value


def _config(
    weights: Mapping[str, Tensor], n_heads: int, max_seq_len: int, activation: Activation
) -> ModelConfig:
    """What the keys and shapes say about the model."""
    if activation not in ("gelu", "relu2"):
        raise ConfigError(unknown("activation of a fairseq decoder", activation, ["gelu", "relu2"]))
    embedding = weights["embed_tokens.weight"]
    if embedding.ndim != 2 or not embedding.is_floating_point():
        raise GradlabError(
            f"embed_tokens.weight is {_describe(embedding)}: it must be (vocabulary, width) of a "
            "floating dtype."
        )
    found = [match for key in weights if (match := _LAYER_KEY.match(key))]
    layers, parts = {int(match[1]) for match in found}, {match[2] for match in found}
    n_layers = len(layers) or 1
    _check_keys(weights, [f"layers.{i}.fc1.weight" for i in range(n_layers)], others=True)
    vocab_size, d_model = embedding.shape
    return ModelConfig(
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        d_ff=len(weights["layers.0.fc1.weight"]),
        vocab_size=vocab_size,
        max_seq_len=max_seq_len,
        placement="pre" if "layer_norm.weight" in weights else "post",
        head_scale="output" if "c_attn" in parts else "none",
        attn_out_norm="attn_ln" in parts,
        ffn_mid_norm="ffn_layernorm" in parts,
        embed_norm="layernorm_embedding.weight" in weights,
        res_scale="ffn" if "w_resid" in parts else "none",
        activation=activation,
        positions="learned" if "embed_positions.weight" in weights else "sinusoidal",
    )


def _drop_tied_output(weights: dict[str, Tensor]) -> None:
    """Take the output projection out of the weights, after a check that it is the embedding."""
    output = weights.pop("output_projection.weight", None)
    untied = output is not None and not torch.equal(output, weights["embed_tokens.weight"])
    if untied or "embed_out" in weights:
        raise GradlabError(
            "the checkpoint's output projection differs from its embedding: only models trained "
            "with --share-decoder-input-output-embed can be loaded."
        )


def _check_keys(
    weights: Mapping[str, Tensor], needed: Iterable[str], *, others: bool = False
) -> None:
    """Refuse weights that lack a needed key or, without `others`, hold one that is not needed."""
    needed = set(needed)
    if missing := sorted(needed - set(weights)):
        raise GradlabError(f"the state dict lacks {_some(missing)}.")
    if not others and (left := sorted(set(weights) - needed)):
        raise GradlabError(_no_place(left))


def _no_place(keys: list[str]) -> str:
    return (
        f"the state dict holds {_some(keys)}, which a decoder-only model of gradlab has no place "
        "for."
    )


def _some(keys: list[str]) -> str:
    rest = len(keys) - 3
    return ", ".join(keys[:3]) + (f" and {rest} more" if rest > 0 else "")


def _describe(value: Tensor) -> str:
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
