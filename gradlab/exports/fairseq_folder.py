"""A run's model as a checkpoint of fairseq's `transformer_lm`, by the names that its code has.

The names and the entries of the file follow fairseq's `checkpoint_utils.py`, `transformer_lm.py`
and `transformer_decoder.py`.
"""

import argparse
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.exports.trained import Trained
from gradlab.models.config import ModelConfig
from gradlab.models.fairseq import fairseq_name
from gradlab.models.fairseq_file import ACTIVATIONS
from gradlab.models.positions import FIRST_POSITION
from gradlab.models.transformer import Transformer

CHECKPOINT = "checkpoint.pt"

PADDING = 1
"""fairseq's id of padding, which its models do not see."""

EXPRESSED: Mapping[str, tuple[Any, ...]] = {
    "head_scale": ("none", "heads", "output"),
    "attn_out_norm": (False, True),
    "ffn_mid_norm": (False, True),
    "embed_norm": (False, True),
    "res_scale": ("none", "ffn"),
    "activation": ("gelu", "relu2"),
    "positions": ("sinusoidal", "learned"),
}
"""Switch → what of it fairseq's models have; of any other, its default.

Pre-LN alone: `transformer_lm` sets `decoder_normalize_before`, whatever it was told.
"""

_SHAPE = ("d_model", "n_layers", "n_heads", "d_ff", "vocab_size", "max_seq_len")

FREE = (*_SHAPE, "init", "dropout", "attention")
"""Fields that are numbers there too, or say nothing of what a trained model computes."""


def fairseq_files(trained: Trained) -> tuple[dict[str, bytes], list[str]]:
    """The checkpoint, and what to know of it.

    Raises:
        GradlabError: fairseq cannot express the model; the sentence names its switches.
    """
    config = trained.config.model
    if found := inexpressible(config):
        raise GradlabError(
            f"fairseq cannot express {', '.join(found)}: export to transformers, which has every "
            "switch."
        )
    content = BytesIO()
    torch.save(
        {
            "args": options(config, fp16=trained.model.embed.weight.dtype is torch.float16),
            "model": state_dict(trained.model),
            "optimizer_history": [
                {
                    "criterion_name": "CrossEntropyCriterion",
                    "optimizer_name": "FairseqAdam",
                    "lr_scheduler_state": {"best": None},
                    "num_updates": int((~trained.run.table("steps", ["skipped"])["skipped"]).sum()),
                }
            ],
            "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        },
        content,
    )
    notes = [
        f"Token ids are the run's own; fairseq takes {PADDING} for padding, where gradlab has a "
        "token."
    ]
    if config.head_scale == "heads":
        notes.append(
            "The scales of the heads are multiplied into out_proj: fairseq's own stand after it."
        )
    return {CHECKPOINT: content.getvalue()}, notes


def inexpressible(config: ModelConfig) -> list[str]:
    """The switches of a model that fairseq has not, each as `name = value`."""
    return [
        f"{name} = {value!r}"
        for name, field in type(config).model_fields.items()
        if name not in FREE
        and (value := getattr(config, name)) not in EXPRESSED.get(name, (field.default,))
    ]


def options(config: ModelConfig, *, fp16: bool) -> argparse.Namespace:
    """What fairseq was told of such a model, by the names of its command line."""
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return argparse.Namespace(
        arch="transformer_lm",
        task="language_modeling",
        criterion="cross_entropy",
        decoder_embed_dim=config.d_model,
        decoder_input_dim=config.d_model,
        decoder_output_dim=config.d_model,
        decoder_ffn_embed_dim=config.d_ff,
        decoder_layers=config.n_layers,
        decoder_attention_heads=config.n_heads,
        decoder_normalize_before=True,
        no_decoder_final_norm=False,
        decoder_learned_pos=config.positions == "learned",
        no_token_positional_embeddings=False,
        no_scale_embedding=False,
        layernorm_embedding=config.embed_norm,
        share_decoder_input_output_embed=True,
        activation_fn=names[config.activation],
        dropout=config.dropout,
        attention_dropout=config.dropout,
        activation_dropout=0.0,
        scale_attn=config.attn_out_norm,
        scale_fc=config.ffn_mid_norm,
        scale_heads=config.head_scale == "output",
        scale_resids=config.res_scale == "ffn",
        tokens_per_sample=config.max_seq_len,
        max_target_positions=config.max_seq_len,
        fp16=fp16,
    )


def state_dict(model: Transformer) -> dict[str, Tensor]:
    """A model's weights by fairseq's names.

    γ of the heads before W^O becomes part of W^O: (γ_i h_i)·W_iᵀ = h_i·(γ_i W_i)ᵀ, to rounding.
    """
    named = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if model.config.head_scale == "heads":
        for layer in range(model.config.n_layers):
            at = f"blocks.{layer}.attention"
            gamma, out = named.pop(f"{at}.head_scale.gamma"), named[f"{at}.out.weight"]
            named[f"{at}.out.weight"] = out * gamma.repeat_interleave(len(out) // len(gamma))
    if model.config.positions == "learned":
        learned = named["positions.weight"]
        before = learned.new_zeros(FIRST_POSITION, learned.shape[1])
        named["positions.weight"] = torch.cat([before, learned])
    state = {f"decoder.{fairseq_name(name)}": x for name, x in named.items()}
    state["decoder.output_projection.weight"] = state["decoder.embed_tokens.weight"]
    # Without it fairseq takes the file for an old one, and drops the final norm.
    state["decoder.version"] = torch.tensor([3.0], device="cpu")
    return state
