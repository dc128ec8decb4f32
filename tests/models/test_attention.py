"""The parts of attention: masking, softmax, head scales, dropout."""

import pytest
import torch
from torch import Tensor

from gradlab.models.attention import CausalSoftmax, HeadScale, make_attention
from gradlab.models.build import build_model
from gradlab.models.config import ModelConfig

SHAPE = {"d_model": 8, "n_layers": 1, "n_heads": 2, "d_ff": 8, "max_seq_len": 6}


def test_softmax_sees_places_up_to_its_own() -> None:
    scores = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    probabilities = CausalSoftmax(6)(scores, torch.float64)
    for t in range(5):
        weights = scores[..., t, : t + 1].exp()
        expected = weights / weights.sum(-1, keepdim=True)
        torch.testing.assert_close(probabilities[..., t, : t + 1], expected)
        assert torch.equal(probabilities[..., t, t + 1 :], torch.zeros(2, 3, 4 - t).double())


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_what_is_masked_cannot_hurt(bad: float) -> None:
    clean = torch.randn(1, 1, 4, 4, requires_grad=True)
    later = torch.ones(4, 4, dtype=torch.bool).triu(1)
    dirty = clean.detach().masked_fill(later, bad).requires_grad_()
    softmax, direction = CausalSoftmax(4), torch.randn(4, 4)
    results = []
    for scores in (clean, dirty):
        probabilities = softmax(scores, torch.float32)
        (gradient,) = torch.autograd.grad((probabilities * direction).sum(), scores)
        results.append((probabilities, gradient))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_an_overflow_at_a_masked_place_leaves_the_model_finite() -> None:
    model = build_model(ModelConfig(**SHAPE), seed=0)
    tokens = torch.randint(256, (2, 6), generator=torch.Generator().manual_seed(0))
    expected = model(tokens)
    later = torch.ones(6, 6, dtype=torch.bool).triu(1)

    def overflow(_module: object, _inputs: object, scores: Tensor) -> Tensor:
        return scores + torch.zeros_like(scores).masked_fill(later, torch.inf)

    model.blocks[0].attention.scores.register_forward_hook(overflow)
    logits = model(tokens)
    assert torch.equal(logits, expected)
    logits.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_an_overflow_at_a_visible_place_is_not_hidden() -> None:
    scores = torch.zeros(1, 1, 3, 3)
    scores[..., 2, 0] = torch.inf
    probabilities = CausalSoftmax(3)(scores, torch.float32)
    assert probabilities[0, 0, 2].isnan().any()
    assert probabilities[0, 0, :2].isfinite().all()


def test_half_softmax_is_computed_in_fp32() -> None:
    # 4000 equal places: a sum in FP16 stops growing at 2048, where 1 is below half an ulp.
    probabilities = CausalSoftmax(4000)(torch.zeros(1, 1, 4000, 4000).half(), torch.float16)
    assert probabilities.dtype == torch.float16
    expected = (1 / torch.arange(1, 4001, dtype=torch.float64)).half()
    assert torch.equal(probabilities[0, 0, :, 0], expected)


@pytest.mark.parametrize("n_heads", [1, 2, 4])
def test_head_scale_is_a_factor_for_each_block_of_channels(n_heads: int) -> None:
    scale = HeadScale(n_heads).double()
    with torch.no_grad():
        scale.gamma.normal_()
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    width = 8 // n_heads
    expected = torch.cat(
        [scale.gamma[i] * x[..., i * width : (i + 1) * width] for i in range(n_heads)], dim=-1
    )
    torch.testing.assert_close(scale(x), expected)


def test_one_for_all_scales_before_and_after_the_output_map_agree_but_for_its_bias() -> None:
    # A common factor commutes with W^O: only there do the paper's form and fairseq's agree.
    outputs = []
    for place in ("heads", "output"):
        model = build_model(ModelConfig(**SHAPE, head_scale=place), seed=0, dtype=torch.float64)
        attention = model.blocks[0].attention
        attention.head_scale.gamma.data.fill_(1.7)
        outputs.append(attention(torch.linspace(-1, 1, 48, dtype=torch.float64).view(1, 6, 8)))
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("path", ["materialised", "sdpa"])
def test_dropout_zeroes_probabilities_in_training_only(path: str) -> None:
    attention = make_attention(ModelConfig(**SHAPE, attention=path, dropout=0.5))
    # Every v is the same, so without dropout each head's output is v whatever the scores are.
    with torch.no_grad():
        attention.v.weight.zero_()
        attention.v.bias.fill_(1.0)
    kept: list[Tensor] = []
    attention.context.register_forward_hook(lambda _m, _i, out: kept.append(out))
    x = torch.randn(64, 6, 8)
    attention.eval()(x)
    torch.testing.assert_close(kept[0], torch.ones(64, 2, 6, 4))
    torch.manual_seed(0)
    attention.train()(x)
    first = kept[1][:, :, 0]  # the first place sees itself alone: its one weight is 0 or 2
    assert torch.isin(first, torch.tensor([0.0, 2.0])).all()
    assert 0.3 < (first == 0).float().mean() < 0.7
    assert abs(kept[1].mean() - 1) < 0.1


def test_the_mask_survives_the_way_from_the_meta_device() -> None:
    with torch.device("meta"):
        softmax = CausalSoftmax(5)
    assert softmax.mask.is_meta
    made = softmax.to_empty(device="cpu")
    assert torch.equal(made.mask, torch.ones(5, 5, dtype=torch.bool).triu(1))
    assert not made.state_dict()


@pytest.mark.parametrize("path", ["materialised", "sdpa"])
def test_a_masked_models_attention_is_a_plain_softmax_over_all_places(path: str) -> None:
    config = ModelConfig(**SHAPE, attention=path, objective="masked")
    attention = make_attention(config).double()
    q, k, v = torch.randn(3, 2, 2, 6, 4, dtype=torch.float64)
    heads = attention.attend(q, k, v)
    for b in range(2):
        for h in range(2):
            for t in range(6):
                weights = torch.stack([(q[b, h, t] @ k[b, h, s] / 2).exp() for s in range(6)])
                expected = sum(weights[s] / weights.sum() * v[b, h, s] for s in range(6))
                torch.testing.assert_close(heads[b, h, t], expected)


def test_of_the_objectives_only_a_masked_models_tokens_see_later_ones() -> None:
    tokens = torch.randint(256, (1, 6), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 4] = (changed[0, 4] + 1) % 256
    for objective, sees in [("causal", False), ("masked", True)]:
        model = build_model(ModelConfig(**SHAPE, objective=objective), seed=0)
        differs = (model(tokens) != model(changed)).any(-1)[0].tolist()
        assert differs == [sees] * 4 + [True] * 2


def test_the_objectives_have_the_same_parameters_and_initial_values() -> None:
    causal, masked = (
        build_model(ModelConfig(**SHAPE, objective=objective), seed=0).state_dict()
        for objective in ("causal", "masked")
    )
    assert causal.keys() == masked.keys()
    assert all(torch.equal(causal[name], masked[name]) for name in causal)
