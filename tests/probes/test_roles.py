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
        ("transformer.h.7.mlp.c_fc.weight", (7, "c_fc")),
        ("0", (0, "0")),
        ("weight", (None, "weight")),
    ],
)
def test_role(name: str, expected: tuple[int | None, str]) -> None:
    assert role(name) == expected


def test_every_parameter_of_ours_has_a_role_from_the_list() -> None:
    config = model_config("normformer-resscale", "nano", qkv_norm=True, positions="learned")
    seen = {role(name) for name, _ in build_model(config, device="meta").named_parameters()}
    assert {op for _, op in seen} == OPS
    assert {layer for layer, _ in seen} == {None, *range(6)}
