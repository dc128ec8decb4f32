import pytest

from gradlab.models.build import build_model
from gradlab.models.presets import model_config
from gradlab.probes.roles import role

ATTENTION = {"q", "k", "v", "out", "q_norm", "k_norm", "v_norm", "head_scale"}
FEED_FORWARD = {"fc1", "fc2", "ffn_mid_norm"}
BLOCK = {"attn_norm", "attn_out_norm", "ffn_norm", "lambda_resid"}
OPS = ATTENTION | FEED_FORWARD | BLOCK | {"final_norm", "embed", "positions"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blocks.3.attention.scores", (3, "scores")),
        ("blocks.0.attention.q.bias", (0, "q")),
        ("blocks.11.ffn_residual.lambda_resid", (11, "lambda_resid")),
        ("blocks.2.attention.head_scale.gamma", (2, "head_scale")),
        ("final_norm.weight", (None, "final_norm")),
        ("0", (0, "0")),
        ("3.weight", (3, "weight")),
        ("weight", (None, "weight")),
    ],
)
def test_role(name: str, expected: tuple[int | None, str]) -> None:
    assert role(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Hugging Face: GPT-2, Llama, BERT, DistilBERT.
        ("transformer.h.7.attn.c_attn.weight", (7, "c_attn")),
        ("transformer.h.7.attn.c_proj.weight", (7, "out")),
        ("transformer.h.7.mlp.c_fc", (7, "fc1")),
        ("transformer.h.7.mlp.c_proj.bias", (7, "fc2")),
        ("transformer.h.7.ln_1.weight", (7, "ln_1")),
        ("transformer.wte.weight", (None, "wte")),
        ("model.layers.2.self_attn.q_proj.weight", (2, "q")),
        ("model.layers.2.self_attn.o_proj.weight", (2, "out")),
        ("model.layers.2.mlp.gate_proj.weight", (2, "gate_proj")),
        ("model.layers.2.mlp.down_proj.weight", (2, "fc2")),
        ("model.layers.2.input_layernorm.weight", (2, "input_layernorm")),
        ("bert.encoder.layer.1.attention.self.value.weight", (1, "v")),
        ("bert.encoder.layer.1.attention.output.dense.weight", (1, "out")),
        ("bert.encoder.layer.1.attention.output.LayerNorm.weight", (1, "attn_norm")),
        ("bert.encoder.layer.1.intermediate.dense.weight", (1, "fc1")),
        ("bert.encoder.layer.1.output.dense.weight", (1, "fc2")),
        ("bert.encoder.layer.1.output.LayerNorm.bias", (1, "ffn_norm")),
        ("cls.predictions.transform.dense.weight", (None, "dense")),
        ("transformer.layer.0.attention.q_lin.weight", (0, "q")),
        ("model.embed_tokens.weight", (None, "embed")),
        ("model.layers.2.mlp.up_proj.weight", (2, "fc1")),
        # fairseq, and OPT, which has its names.
        ("decoder.embed_tokens.weight", (None, "embed")),
        ("decoder.embed_positions.weight", (None, "positions")),
        ("decoder.layers.3.self_attn.k_proj.bias", (3, "k")),
        ("decoder.layers.3.self_attn.out_proj.weight", (3, "out")),
        ("decoder.layers.3.self_attn_layer_norm.weight", (3, "attn_norm")),
        ("decoder.layers.3.attn_ln.weight", (3, "attn_out_norm")),
        ("decoder.layers.3.final_layer_norm.weight", (3, "ffn_norm")),
        ("decoder.layers.3.fc1.weight", (3, "fc1")),
        ("decoder.layers.3.ffn_layernorm.bias", (3, "ffn_mid_norm")),
        ("decoder.layers.3.fc2.weight", (3, "fc2")),
        ("decoder.layers.3.c_attn", (3, "head_scale")),
        ("decoder.layers.3.w_resid", (3, "lambda_resid")),
        ("decoder.layer_norm.weight", (None, "final_norm")),
        ("model.decoder.final_layer_norm.weight", (None, "final_norm")),
        ("decoder.block.1.layer.0.layer_norm.weight", (1, "layer_norm")),
        # torch.nn: the transformer, attention, recurrent layers.
        ("encoder.layers.3.self_attn.in_proj_weight", (3, "in_proj")),
        ("encoder.layers.3.self_attn.out_proj.weight", (3, "out")),
        ("encoder.layers.3.linear2.weight", (3, "fc2")),
        ("encoder.layers.3", (3, "layers")),
        ("lstm.weight_ih_l1", (1, "weight_ih")),
        ("lstm.bias_hh_l0_reverse", (0, "bias_hh_reverse")),
        ("lstm[1]", (None, "lstm[1]")),
        # What stands in an nn.Sequential in a block, a stage of blocks, an expert.
        ("blocks.2.ffn.0.weight", (2, "ffn.0")),
        ("blocks.2.ffn.2", (2, "ffn.2")),
        ("layer1.0.downsample.0.weight", (0, "downsample.0")),
        ("blocks.2.experts.5.fc1.weight", (2, "fc1")),
    ],
)
def test_role_in_other_models(name: str, expected: tuple[int | None, str]) -> None:
    assert role(name) == expected


def test_every_parameter_of_ours_has_a_role_from_the_list() -> None:
    config = model_config("normformer-resscale", "nano", qkv_norm=True, positions="learned")
    seen = {role(name) for name, _ in build_model(config, device="meta").named_parameters()}
    assert {op for _, op in seen} == OPS
    assert {layer for layer, _ in seen} == {None, *range(6)}
