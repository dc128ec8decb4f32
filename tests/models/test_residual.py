"""The residual sum, λ_resid and dropout on the sublayer's output."""

import torch

from gradlab.models.build import build_model
from gradlab.models.config import ModelConfig
from gradlab.models.residual import Residual


def test_plain_sum_has_no_parameter() -> None:
    residual = Residual(0, 0.0)
    assert not list(residual.parameters())
    x, y = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert torch.equal(residual(x, y), x + y)


def test_lambda_scales_the_skip_and_not_the_sublayer() -> None:
    residual = Residual(4, 0.0)
    residual.lambda_resid.data = torch.tensor([0.0, 1.0, 2.0, -1.0])
    x, y = torch.full((1, 1, 4), 10.0), torch.full((1, 1, 4), 3.0)
    assert residual(x, y).tolist() == [[[3.0, 13.0, 23.0, -7.0]]]


def test_a_narrow_sublayer_is_promoted_to_the_skips_dtype() -> None:
    x, y = torch.full((4,), 60_000.0), torch.full((4,), 60_000.0).half()
    for scale in (0, 4):
        total = Residual(scale, 0.0)(x, y)
        assert total.dtype == torch.float32
        assert total.eq(x + y.float()).all()  # 120,000: FP16 would be inf


def test_dropout_stands_on_the_sublayers_output_in_training_only() -> None:
    residual = Residual(0, 0.25)
    torch.manual_seed(0)
    x, y = torch.full((10_000,), 5.0), torch.full((10_000,), 3.0)
    total = residual(x, y)
    dropped, kept = total == 5.0, total == 9.0  # 5 + 3 / (1 − 1/4)
    assert (dropped | kept).all()
    assert 0.23 < dropped.float().mean() < 0.27
    assert residual.eval()(x, y).eq(8.0).all()


def test_the_model_drops_embeddings_after_positions_and_nothing_in_evaluation() -> None:
    shape = {"d_model": 32, "n_layers": 1, "n_heads": 2, "d_ff": 8, "max_seq_len": 16}
    plain = build_model(ModelConfig(**shape), seed=0)
    dropping = build_model(ModelConfig(**shape, dropout=0.5), seed=0)
    tokens = torch.randint(256, (4, 16), generator=torch.Generator().manual_seed(0))
    streams: list[torch.Tensor] = []
    dropping.blocks[0].register_forward_pre_hook(lambda _m, inputs: streams.append(inputs[0]))
    torch.manual_seed(0)
    dropping(tokens)
    assert 0.45 < (streams[0] == 0).float().mean() < 0.55
    assert torch.equal(dropping.eval()(tokens), plain(tokens))
