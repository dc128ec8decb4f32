"""Causality, lengths and the two attention paths of the whole model."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.models.loss import token_loss
from gradlab.models.presets import ARCHITECTURES
from gradlab.models.transformer import Transformer

Make = Callable[..., Transformer]


@pytest.fixture(params=["materialised", "sdpa"])
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("place", range(7))
def test_a_token_changes_nothing_before_it(
    make: Make, tokens: Tensor, path: str, placement: str, place: int
) -> None:
    model = make(attention=path, placement=placement, head_scale="heads")
    changed = tokens.clone()
    changed[:, place] = (changed[:, place] + 1) % 11
    one, other = model(tokens), model(changed)
    torch.testing.assert_close(one[:, :place], other[:, :place], rtol=0, atol=1e-13)
    assert (one[:, place:] - other[:, place:]).abs().amax(-1).min() > 1e-6


def test_a_block_is_causal_to_the_last_bit_of_its_gradient(make: Make, path: str) -> None:
    block = make(attention=path, **ARCHITECTURES["normformer"]).blocks[0]
    x = torch.randn(1, 7, 8, dtype=torch.float64, requires_grad=True)
    y = block(x)
    assert y.shape == x.shape
    for t in range(7):
        (gradient,) = torch.autograd.grad(y[0, t].square().sum(), x, retain_graph=True)
        assert torch.equal(gradient[0, t + 1 :], torch.zeros(6 - t, 8, dtype=torch.float64))
        assert gradient[0, : t + 1].abs().amax(-1).min() > 0


@pytest.mark.parametrize("length", [1, 3, 7])
def test_shorter_sequences_are_prefixes(make: Make, tokens: Tensor, path: str, length: int) -> None:
    model = make(attention=path)
    torch.testing.assert_close(model(tokens[:, :length]), model(tokens)[:, :length])


def test_a_sequence_past_max_seq_len_is_refused(make: Make) -> None:
    with pytest.raises(GradlabError, match="8 tokens is longer than the model's max_seq_len = 7"):
        make()(torch.zeros(1, 8, dtype=torch.int64))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_fused_attention_equals_materialised(
    make: Make, tokens: Tensor, arch: str, dtype: torch.dtype, tolerance: float
) -> None:
    results = []
    for attention in ("materialised", "sdpa"):
        model = make(dtype, **ARCHITECTURES[arch], attention=attention)
        logits = model(tokens)
        token_loss(logits, tokens).backward()
        results.append([logits, *(parameter.grad for parameter in model.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_torch_compile_sees_no_graph_break(make: Make, tokens: Tensor) -> None:
    model = make(**ARCHITECTURES["normformer-resscale"], n_layers=1)
    explanation = torch._dynamo.explain(model)(tokens)
    assert explanation.graph_break_count == 0
