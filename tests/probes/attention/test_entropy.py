"""Attention entropy, against plain loops in float64."""

import copy
import math
from collections.abc import Callable

import attention_passes
import pandas as pd
import pytest
import torch
from attention_passes import activations, model_of, tokens
from tiny_transformers import NO_DROPOUT, gpt2
from torch import Tensor, nn
from torch.nn import functional as F

from gradlab.errors import GradlabWarning
from gradlab.probes import AttentionEntropy
from gradlab.probes.probe import Step


def record(model: nn.Module, *passes: Callable[[], Tensor]) -> pd.DataFrame:
    return attention_passes.record(model, *passes, probe=AttentionEntropy())


def entropy(scores: Tensor, visible: Tensor) -> list[float]:
    """By head, of (B, H, T, S), a query at a time."""
    scores, found = scores.detach(), []
    for head in range(scores.shape[1]):
        shares = []
        for batch in range(len(scores)):
            for query in range(scores.shape[2]):
                seen = scores[batch, head, query][visible.expand(scores.shape)[batch, head, query]]
                if len(seen) > 1:
                    p = (seen - seen.max()).exp()
                    p = p / p.sum()
                    h = -sum(float(x) * math.log(x) for x in p if x > 0)
                    shares.append(h / math.log(len(seen)))
        found.append(sum(shares) / len(shares))
    return found


LOWER = torch.ones(8, 8, dtype=torch.bool).tril()


@pytest.mark.parametrize("attention", ["materialised", "sdpa"])
def test_our_models(attention: str) -> None:
    model = model_of(attention)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.q.weight.mul_(20)  # away from uniform
    wide = copy.deepcopy(model).double()
    expected: list[float] = []
    for block in wide.blocks:
        block.attention.register_forward_pre_hook(
            lambda m, args: expected.extend(
                entropy(
                    (q := m._split(m.q(args[0])))
                    @ m._split(m.k(args[0])).mT
                    / math.sqrt(q.shape[-1]),
                    LOWER,
                )
            )
        )
    wide(tokens())
    table = record(model, lambda: model(tokens()))
    assert list(table.columns) == ["step", "site", "layer", "head", "entropy"]
    assert table["layer"].tolist() == [0, 0, 1, 1]
    assert table["head"].tolist() == [0, 1, 0, 1]
    assert table["entropy"].tolist() == pytest.approx(expected, rel=1e-5)
    assert table["entropy"].max() < 0.95


class Fused(nn.Module):
    """Attention of given q and k, (B, H, T, d), with a mask."""

    def __init__(self, mask: Tensor | None, causal: bool) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(3.0))
        self.mask, self.causal = mask, causal

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            self.factor * q, k, k, self.mask, is_causal=self.causal
        )


def masks() -> dict[str, Tensor | None]:
    seen = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(3)) > 0.5
    seen[0, 0, 2] = False  # a query that sees nothing
    seen[0, 0, 3] = torch.arange(6) == 4  # and one that sees one key
    distance = -0.3 * (torch.arange(6)[:, None] - torch.arange(6)).abs().float()
    return {"none": None, "bool": seen, "float": distance.expand(3, 2, 6, 6).clone()}


@pytest.mark.parametrize(
    ("kind", "causal"), [("none", False), ("none", True), ("bool", False), ("float", False)]
)
def test_masks_and_biases_of_fused_attention(kind: str, causal: bool) -> None:
    mask = masks()[kind]
    model = Fused(mask, causal)
    q, k = activations(3, 2, 6, 4), activations(3, 2, 6, 4, seed=1)
    scores = 3 * q.double() @ k.double().mT / 2
    visible = torch.ones(6, 6, dtype=torch.bool)
    if causal:
        visible = visible.tril()
    if kind == "bool" and mask is not None:
        visible = mask
    if kind == "float" and mask is not None:
        scores = scores + mask
    table = record(model, lambda: model(q, k).nan_to_num())
    assert table["entropy"].tolist() == pytest.approx(entropy(scores, visible), rel=1e-5)


@pytest.mark.parametrize("hidden", [-math.inf, -1e4, torch.finfo(torch.float32).min])
def test_a_float_mask_hides_as_a_bool_one(hidden: float) -> None:
    q, k = activations(3, 2, 6, 4), activations(3, 2, 6, 4, seed=1)
    mask = torch.zeros(6, 6).masked_fill(torch.ones(6, 6, dtype=torch.bool).triu(1), hidden)
    masked, causal = Fused(mask, False), Fused(None, True)
    tables = [record(one, lambda one=one: one(q, k)) for one in (masked, causal)]
    assert tables[0]["entropy"].tolist() == pytest.approx(tables[1]["entropy"].tolist(), rel=1e-6)


@pytest.mark.parametrize(("factor", "expected"), [(0.0, 1.0), (1e4, 0.0)])
def test_uniform_is_1_and_one_token_is_0(factor: float, expected: float) -> None:
    model = Fused(None, False)
    with torch.no_grad():
        model.factor.fill_(factor)
    q = activations(3, 2, 6, 4)
    table = record(model, lambda: model(q, q))
    assert table["entropy"].tolist() == pytest.approx([expected] * 2, abs=1e-6)


def test_torchs_encoder() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = activations(3, 5, 16)
    table = record(model, lambda: model(x))
    assert table["layer"].tolist() == [0, 0, 1, 1]
    attention = copy.deepcopy(model).double().layers[0].self_attn
    rows = F.linear(x.double(), attention.in_proj_weight, attention.in_proj_bias)
    q, k, _ = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in rows.chunk(3, -1))
    everything = torch.ones(5, 5, dtype=torch.bool)
    expected = entropy(q @ k.mT / math.sqrt(8), everything)
    assert table["entropy"].tolist()[:2] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_hugging_faces_gpt2(implementation: str) -> None:
    torch.manual_seed(0)
    fields = {"initializer_range": 0.5, "use_cache": False, **NO_DROPOUT}
    model = gpt2(**fields, attn_implementation=implementation)
    batch = tokens(vocab=32)
    attention = copy.deepcopy(model).double().transformer.h
    states = copy.deepcopy(model).double()(batch, output_hidden_states=True).hidden_states
    expected = []
    for block, x in zip(attention, states, strict=False):
        q, k, _ = block.attn.c_attn(block.ln_1(x)).split(16, dim=-1)
        q, k = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in (q, k))
        expected += entropy(q @ k.mT / math.sqrt(8), LOWER)
    table = record(model, lambda: model(batch).logits)
    assert table["entropy"].tolist() == pytest.approx(expected, rel=1e-4)
    assert table["entropy"].max() < 0.95


def test_processes_count_by_their_queries() -> None:
    probe = AttentionEntropy()
    of = {"site": ["s"], "head": [0]}
    joined = probe.joined(
        [{**of, "total": [3.0], "queries": [4.0]}, {**of, "total": [1.0], "queries": [12.0]}]
    )
    rows = probe.rows(Step(0, 1.0, False), joined)["entropy"]
    assert rows["entropy"] == (0.25,)


def test_a_model_without_attention_says_so() -> None:
    model = nn.Linear(4, 4)
    with pytest.warns(GradlabWarning, match="AttentionEntropy"):
        assert record(model, lambda: model(activations(3, 4))).empty
