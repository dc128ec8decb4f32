from typing import Any

import pytest

from gradlab.errors import ConfigError
from gradlab.models.build import build_model
from gradlab.models.config import ModelConfig
from gradlab.models.cost import flops_per_token, parameter_count, training_state_bytes
from gradlab.models.presets import ARCHITECTURES, SIZES, model_config
from gradlab.models.transformer import Transformer

SWITCHES: list[dict[str, Any]] = [
    {"norm": "rmsnorm"},
    {"head_scale": "output"},
    {"qkv_norm": True},
    {"qkv_norm": True, "norm": "rmsnorm"},
    {"activation": "geglu"},
    {"activation": "geglu", "ffn_mid_norm": True},
    {"activation": "relu2"},
    {"positions": "learned"},
    {"attention": "sdpa"},
    {"norm": "scalenorm", "ffn_out_norm": True, "embed_norm": True},
    {"norm": "dyt", "ffn_mid_norm": True},
    {"norm": "batchnorm", "qk_norm": "heads"},
    {"qk_norm": "width"},
    {"qk_norm": "heads-and-v", "norm": "rmsnorm"},
    {"branch_scale": "layerscale"},
    {"weight_standardisation": True, "score_cap": 50.0, "logit_cap": 30.0},
    *({"res_scale": scale} for scale in ("none", "ffn", "both", "ffn-scalar", "both-scalar")),
]


def built(config: ModelConfig) -> int:
    return sum(p.numel() for p in build_model(config, device="meta").parameters())


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        *((arch, size) for arch in [*ARCHITECTURES][:5] for size in SIZES),
        *((arch, "nano") for arch in [*ARCHITECTURES][5:]),
    ],
)
def test_parameters_are_those_of_the_built_model(arch: str, size: str) -> None:
    config = model_config(arch, size)
    assert parameter_count(config) == built(config)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("arch", ["post-ln", "normformer-resscale"])
def test_parameters_with_every_switch(arch: str, switches: dict[str, Any]) -> None:
    config = model_config(arch, "nano", **switches)
    assert parameter_count(config) == built(config)


def test_flops_of_a_small_model_written_out() -> None:
    config = ModelConfig(
        d_model=8, n_layers=2, n_heads=2, d_ff=32, vocab_size=10, max_seq_len=5, activation="geglu"
    )
    tokens = config.max_seq_len
    products = [(8, 8)] * 4 + [(8, 64), (32, 8)]
    layer = sum(2 * tokens * rows * columns for rows, columns in products)
    layer += 2 * (2 * tokens * tokens * 8)  # scores, and the values mixed by them
    forward = 2 * layer + 2 * tokens * 8 * 10
    assert flops_per_token(config) == 3 * forward // tokens


def test_the_largest_size_costs_about_six_flops_a_parameter() -> None:
    config = model_config("pre-ln", "2.7B")
    assert flops_per_token(config) / parameter_count(config) == pytest.approx(6, rel=0.15)


def test_state_is_what_a_learner_holds() -> None:
    config = model_config("pre-ln", "nano")
    assert training_state_bytes(config, "fp32") == parameter_count(config) * (4 + 4 + 2 * 4)
    pure = (2 + 4) + (2 + 4) + 2 * 4  # weights and gradients in fp16 and in fp32, two moments
    assert training_state_bytes(config, "fp16-pure") == parameter_count(config) * pure


@pytest.mark.parametrize(
    "name", ["placement", "norm", "head_scale", "res_scale", "activation", "positions"]
)
def test_an_unknown_kind_has_no_default(name: str) -> None:
    fields = model_config("pre-ln", "nano", n_layers=1).model_dump()
    config = ModelConfig.model_construct(**{**fields, name: "both-sandwich"})
    for use in (parameter_count, Transformer):
        with pytest.raises(ConfigError, match=f"unknown {name} 'both-sandwich'.*Known: "):
            use(config)


def test_an_unknown_attention_or_precision_has_no_default() -> None:
    config = model_config("pre-ln", "nano", n_layers=1)
    unknown = ModelConfig.model_construct(**{**config.model_dump(), "attention": "flash"})
    with pytest.raises(ConfigError, match="unknown attention 'flash'"):
        Transformer(unknown)
    with pytest.raises(ConfigError, match="unknown precision 'fp17'"):
        training_state_bytes(config, "fp17")
