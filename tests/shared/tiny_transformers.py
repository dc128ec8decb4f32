"""Hugging Face's models as small as they come: two layers of width 16, 8 of 32 tokens."""

from typing import Any

import pytest

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
"""Of GPT-2."""


def gpt2(**fields: Any) -> Any:
    """With fields of its config."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 32, "n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**sizes, **ends, **fields}))


def bert(**fields: Any) -> Any:
    """Likewise."""
    transformers = pytest.importorskip("transformers")
    return transformers.BertForMaskedLM(transformers.BertConfig(**{**_SIZES, **fields}))


def llama(**fields: Any) -> Any:
    """Likewise."""
    transformers = pytest.importorskip("transformers")
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**_SIZES, **fields}))


_SIZES = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
_SIZES |= {"num_attention_heads": 2, "max_position_embeddings": 8}
