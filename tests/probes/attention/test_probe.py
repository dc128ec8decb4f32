import copy
import math

import pandas as pd
import pytest
import torch
from attention_passes import Around, activations, model_of, record, tokens
from tiny_transformers import NO_DROPOUT, gpt2, llama
from torch import Tensor, nn
from torch.nn import functional as F

import gradlab
from gradlab.errors import GradlabError
from gradlab.models.transformer import Transformer
from gradlab.probes.attention.probe import AttentionScores


def largest(scores: Tensor, visible: Tensor | None = None) -> tuple[list[float], list[float]]:
    """By head, of (B, H, T, S): max and max |x|."""
    seen = torch.ones(1, dtype=torch.bool) if visible is None else visible
    seen = seen.expand(scores.shape)
    high = torch.where(seen, scores, -math.inf).amax((0, 2, 3))
    return high.tolist(), torch.where(seen, scores.abs(), 0).amax((0, 2, 3)).tolist()


def check(table: pd.DataFrame, site: str, expected: tuple[list[float], list[float]]) -> None:
    """That the exact rows of a site are these."""
    rows = table[(table.site == site) & (table.bound == "exact")]
    assert rows["head"].tolist() == list(range(len(expected[0])))
    assert rows["max"].tolist() == pytest.approx(expected[0], rel=1e-5)
    assert rows["max_abs"].tolist() == pytest.approx(expected[1], rel=1e-5)


def check_bounds(table: pd.DataFrame, site: str, expected: tuple[list[float], list[float]]) -> None:
    rows = table[table.site == site]
    for head, (high, max_abs) in enumerate(zip(*expected, strict=True)):
        by_bound = rows[rows["head"] == head].set_index("bound")
        assert set(by_bound.index) >= {"upper", "lower"}
        assert by_bound.loc["lower", "max"] <= high <= by_bound.loc["upper", "max"]
        assert by_bound.loc["lower", "max_abs"] <= max_abs <= by_bound.loc["upper", "max_abs"]
    assert set(rows["head"]) == set(range(len(expected[0])))


LOWER = torch.ones(8, 8, dtype=torch.bool).tril()


def own_scores(model: Transformer, layer: int, batch: Tensor) -> tuple[list[float], list[float]]:
    """From the inputs of a layer's attention in float64."""
    wide = copy.deepcopy(model).double()
    attention = wide.blocks[layer].attention
    inputs: list[Tensor] = []
    attention.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    wide(batch)
    q, k = (attention._split(each(inputs[0])) for each in (attention.q, attention.k))
    return largest(torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(q.shape[-1]), LOWER)


@pytest.mark.parametrize("batch", [0, 1])
def test_our_scores_where_they_are_materialised(batch: int) -> None:
    model = model_of("materialised")
    expected = [own_scores(model, layer, tokens(batch)) for layer in (0, 1)]
    table = record(model, lambda: model(tokens(batch)))
    assert list(table.columns) == ["step", "site", "layer", "head", "max", "max_abs", "bound"]
    assert table.layer.tolist() == [0, 0, 1, 1]
    for layer in (0, 1):
        check(table, f"blocks.{layer}.attention.scores", expected[layer])


@pytest.mark.parametrize("exact", [False, True])
def test_our_scores_where_they_are_fused(exact: bool) -> None:
    model = model_of("sdpa")
    expected = [own_scores(model, layer, tokens()) for layer in (0, 1)]
    table = record(model, lambda: model(tokens()), probe=AttentionScores(exact=exact))
    assert set(table.bound) == ({"exact"} if exact else {"upper", "lower"})
    for layer in (0, 1):
        site = f"blocks.{layer}.attention.context"
        (check if exact else check_bounds)(table, site, expected[layer])


def test_micro_batches_make_one_row() -> None:
    for attention, place in (("materialised", "scores"), ("sdpa", "context")):
        model = model_of(attention)
        both = torch.cat([tokens(1), tokens(2)])
        expected = own_scores(model, 1, both)
        passes = [lambda: model(tokens(1)), lambda: model(tokens(2))]  # noqa: B023
        table = record(model, *passes, probe=AttentionScores(exact=True))
        check(table, f"blocks.1.attention.{place}", expected)
        assert len(table) == 4


class HandWritten(nn.Module):
    """Self-attention in a few lines, as they are found everywhere."""

    def __init__(self, how: str = "masked_fill", heads: int = 2) -> None:
        super().__init__()
        self.project = nn.Linear(8, 16)
        self.probabilities = nn.Softmax(dim=-1)
        self.how = how
        self.heads = heads

    def scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k = self.project(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2).chunk(2, -1)
        return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), k

    def forward(self, x: Tensor) -> Tensor:
        scores, k = self.scores(x)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        if self.how == "masked_fill":
            return F.softmax(scores.masked_fill(later, -math.inf), dim=-1) @ k
        if self.how == "masked_fill_ -1e9":
            return torch.softmax(scores.masked_fill_(later, -1e9), -1) @ k
        if self.how == "where -1e4":
            return torch.where(later, -1e4, scores).softmax(dim=3) @ k
        if self.how == "added minimum":
            return F.softmax(scores + later * torch.finfo(scores.dtype).min, -1) @ k
        if self.how == "module made there":
            return nn.Softmax(dim=-1)(scores.masked_fill(later, -math.inf)) @ k
        if self.how == "module":
            return self.probabilities(scores.masked_fill(later, -math.inf)) @ k
        folded = scores.flatten(0, 1).masked_fill(later, -math.inf)
        if self.how == "folded module":
            return self.probabilities(folded) @ k.flatten(0, 1)
        assert self.how == "folded"
        return torch.special.softmax(folded, -1) @ k.flatten(0, 1)


WAYS = [
    "masked_fill",
    "masked_fill_ -1e9",
    "where -1e4",
    "added minimum",
    "module made there",
    "folded",
]


@pytest.mark.parametrize("how", [*WAYS, "module", "folded module"])
def test_hand_written_attention_is_seen_at_its_softmax(how: str) -> None:
    inner, x = HandWritten(how), activations(3, 8, 8)
    expected = largest(copy.deepcopy(inner).double().scores(x.double())[0], LOWER)
    model = Around(inner)
    table = record(model, lambda: model(x))
    site = "inner.probabilities" if how in ("module", "folded module") else "inner"
    assert set(table.site) == {site}
    check(table, site, expected)


def test_a_model_that_is_the_attention_goes_by_its_class() -> None:
    model, x = HandWritten(), activations(3, 8, 8)
    expected = largest(model.scores(x)[0], LOWER)
    check(record(model, lambda: model(x)), "HandWritten", expected)


def test_heads_that_cannot_be_told_apart_are_one_row() -> None:
    model, x = HandWritten("folded"), activations(3, 8, 8)
    high, max_abs = largest(model.scores(x)[0], LOWER)
    model.heads = "two"  # type: ignore[assignment]
    model.scores = lambda x: HandWritten.scores(told, x)  # type: ignore[method-assign]
    told = HandWritten("folded")
    told.project = model.project
    (row,) = record(model, lambda: model(x)).to_dict("records")
    assert pd.isna(row["head"])
    assert (row["max"], row["max_abs"]) == pytest.approx((max(high), max(max_abs)))


class Router(nn.Module):
    """A softmax over (B, T, experts), by one of three products, and a classifier over (B, C)."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.how = how
        self.num_heads = 2

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "linear":
            chosen = F.softmax(self.gate(x), dim=-1)
        elif self.how == "einsum":
            chosen = F.softmax(torch.einsum("btd,ed->bte", x * 1, self.gate.weight), dim=-1)
        else:
            chosen = F.softmax(self.gate(x.flatten(0, 1)), dim=-1)
        return chosen + F.softmax(self.gate(x), dim=1).sum()


@pytest.mark.parametrize("how", ["linear", "einsum", "flat"])
def test_other_softmaxes_are_not_attention(how: str) -> None:
    model, x = Router(how), activations(3, 8, 8)
    assert record(model, lambda: model(x)).empty


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_torchs_own_attention(need_weights: bool, cross: bool, masked: bool) -> None:
    inner = nn.MultiheadAttention(8, 2, batch_first=True, dropout=0.1)
    x, y = activations(3, 6, 8), activations(3, 6 if not cross else 4, 8, seed=1)
    y = y if cross else x
    padding = torch.zeros(3, y.shape[1], dtype=torch.bool)
    padding[1, -1] = masked
    q, k, _ = inner.in_proj_weight.double().chunk(3)
    split = [(a.double() @ w.T).unflatten(-1, (2, 4)).transpose(1, 2) for a, w in ((x, q), (y, k))]
    visible = ~padding[:, None, None, :]
    expected = largest(split[0] @ split[1].transpose(-2, -1) / 2, visible)
    model = Around(nn.Identity())
    model.inner = inner

    def run() -> Tensor:
        given = {"key_padding_mask": padding} if masked else {}
        return inner(x, y, y, need_weights=need_weights, **given)[0]

    table = record(model, run)
    (check if need_weights else check_bounds)(table, "inner", expected)


def test_passes_without_gradients_are_not_looked_at() -> None:
    model = model_of("sdpa")

    def validate_then_train() -> Tensor:
        with torch.no_grad():
            model(tokens(7) * 0)
        return model(tokens())

    table = record(model, validate_then_train, probe=AttentionScores(exact=True))
    check(table, "blocks.0.attention.context", own_scores(model_of("sdpa"), 0, tokens()))


def test_near_the_limit_the_next_window_is_exact() -> None:
    model = model_of("sdpa")
    attention = model.blocks[1].attention
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradlab.attach(model, optimizer, probes=[AttentionScores()], window=2) as probes:
        for step in range(7):
            if step in (1, 4):
                with torch.no_grad():
                    factor = 300.0 if step == 1 else 1 / 300
                    attention.q.weight.mul_(factor)
                    attention.k.weight.mul_(factor)
                    attention.q.bias.mul_(factor)
                    attention.k.bias.mul_(factor)
            if step == 2:
                expected = own_scores(model, 1, tokens(step))
            model(tokens(step)).square().mean().backward()
            optimizer.step()
    table = probes.table("scores")
    upper = table[(table.bound == "upper") & (table.layer == 1)].groupby("step").max_abs.max()
    assert (upper > 65504 / 4).tolist() == [False, True, True, True, False, False, False]
    exact = table[table.bound == "exact"]
    # Steps 0 and 1 are copied after step 1, and 2 and 3 after step 3.
    assert sorted(exact.step.unique()) == [2, 3, 4, 5]
    assert set(exact.site) == {"blocks.1.attention.context"}
    check(table[table.step == 2], "blocks.1.attention.context", expected)
    both = table[(table.step == 2) & (table.layer == 1)]
    check_bounds(both, "blocks.1.attention.context", expected)


def test_a_model_without_attention_has_no_rows() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    table = record(model, lambda: model(torch.ones(2, 4)))
    assert table.empty
    assert list(table.columns) == ["step", "site", "layer", "head", "max", "max_abs", "bound"]


def test_patterns_choose_the_modules() -> None:
    for attention, at in (("materialised", "*.1.*.scores"), ("sdpa", "*.1.*.context")):
        model = model_of(attention)
        table = record(model, lambda: model(tokens()), probe=AttentionScores(at))  # noqa: B023
        assert set(table.layer) == {1}
    with pytest.raises(GradlabError, match="no modules fit"):
        record(model, lambda: model(tokens()), probe=AttentionScores("nothing"))


def test_overflowing_scores_are_infinite_rows() -> None:
    model = model_of("materialised")
    with torch.no_grad():
        for each in (model.blocks[0].attention.q, model.blocks[0].attention.k):
            each.weight.mul_(3e4)
    with gradlab.emulated_fp16(), torch.autocast("cpu", torch.float16):
        table = record(model, lambda: model(tokens()))
    assert math.inf in table[table.layer == 0].max_abs.tolist()


def test_hugging_faces_gpt2() -> None:
    for path in ("eager", "sdpa"):
        torch.manual_seed(0)
        model = gpt2(
            n_head=4,
            scale_attn_by_inverse_layer_idx=path == "eager",  # sdpa passes it over in 5.0
            attn_implementation=path,
            **NO_DROPOUT,
        )
        batch, padding = tokens(vocab=32), torch.ones(3, 8, dtype=torch.long)
        padding[1, 5:] = 0
        inputs: list[Tensor] = []
        attention = model.transformer.h[1].attn
        handle = attention.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))  # noqa: B023
        model(batch, attention_mask=padding)
        handle.remove()
        q, k, _ = copy.deepcopy(attention.c_attn).double()(inputs[0].double()).chunk(3, -1)
        q, k = (x.unflatten(-1, (4, 4)).transpose(1, 2) for x in (q, k))
        visible = LOWER & padding[:, None, None, :].bool()
        expected = largest(q @ k.mT / math.sqrt(4) / (2 if path == "eager" else 1), visible)
        table = record(model, lambda: model(batch, attention_mask=padding).logits)  # noqa: B023
        site = "transformer.h.1.attn"
        (check if path == "eager" else check_bounds)(table, site, expected)
        assert set(table.layer) == {0, 1}


def test_hugging_faces_llama_with_shared_keys() -> None:
    tables = {}
    for path in ("eager", "sdpa", "sdpa, exact"):
        torch.manual_seed(0)
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        model = llama(**heads, attn_implementation=path[:5].strip(","))
        probe = AttentionScores(exact="exact" in path)
        run = lambda: model(tokens(vocab=32)).logits  # noqa: B023, E731
        tables[path] = record(model, run, probe=probe)
    eager = tables["eager"]
    assert len(eager) == 8
    for layer in (0, 1):
        site = f"model.layers.{layer}.self_attn"
        rows = eager[eager.site == site]
        expected = rows["max"].tolist(), rows.max_abs.tolist()
        check_bounds(tables["sdpa"], site, expected)
        check(tables["sdpa, exact"], site, expected)
