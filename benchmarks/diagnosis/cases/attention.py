"""Scores that leave the range, masks that mask everything."""

import torch
from torch import Tensor, nn
from torch.optim import SGD

from benchmarks.diagnosis.case import case, named, normal, squares, train
from benchmarks.diagnosis.tool import Tool

MINUS_INF = float("-inf")


@case(
    "q·k leaves FP16 before the softmax",
    "https://github.com/pytorch/pytorch/pull/60940",
    names=("attention",),
)
def scores_overflow(tool: Tool, healthy: bool) -> nn.Module:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.q(x) @ self.k(x).transpose(-2, -1)  # culprit
            return scores.softmax(-1) @ self.v(x)

    torch.manual_seed(0)
    model = named(embed=nn.Linear(8, 8), attention=Attention(), head=nn.Linear(8, 1))
    if not healthy:
        nn.init.normal_(model.attention.q.weight, std=200)
        nn.init.normal_(model.attention.k.weight, std=200)
    optimizer = SGD(model.parameters(), lr=1e-3)
    return train(tool, model, optimizer, normal(2, 6, 8), squares, autocast=True)


@case(
    "FP16's minimum as mask, plus a score under −16, is −∞ in a row that is masked whole",
    "https://github.com/huggingface/transformers/pull/17306",
    names=("attention",),
)
def minimum_plus_score(tool: Tool, healthy: bool) -> nn.Module:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.q(x) @ self.k(x).transpose(-2, -1)
            mask = torch.full_like(scores, torch.finfo(scores.dtype).min).triu(1)
            mask[:, 0] = torch.finfo(scores.dtype).min  # padding: the first token sees nothing
            scores = scores + mask  # culprit
            return scores.softmax(-1) @ self.v(x)  # culprit

    torch.manual_seed(0)
    model = named(embed=nn.Linear(8, 8), attention=Attention(), head=nn.Linear(8, 1)).half()
    with torch.no_grad():
        model.attention.q.bias.fill_(5.0)
        model.attention.k.bias.fill_(5.0 if healthy else -5.0)
    optimizer = SGD(model.parameters(), lr=1e-3)
    return train(tool, model, optimizer, [x.half() for x in normal(2, 6, 8)], squares)


@case(
    "a softmax over a row that is masked whole with −∞",
    "https://github.com/pytorch/pytorch/issues/26098",
    names=("layers.1", "layers.1.softmax"),
)
def masked_row(tool: Tool, healthy: bool) -> nn.Module:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qk, self.v, self.softmax = nn.Linear(8, 8), nn.Linear(8, 8), nn.Softmax(-1)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.qk(x) @ self.qk(x).transpose(-2, -1)
            padding = torch.zeros(2, 1, 6, dtype=torch.bool)
            padding[1, :, (5 if healthy else 0) :] = True
            weights = self.softmax(scores.masked_fill(padding, MINUS_INF))  # culprit
            return x + weights @ self.v(x)

    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 8), Attention(), nn.Linear(8, 8))
    model = named(layers=layers, head=nn.Linear(8, 1))
    optimizer = SGD(model.parameters(), lr=1e-3)
    return train(tool, model, optimizer, normal(2, 6, 8), squares)


@case(
    "nn.MultiheadAttention: a padded query's NaN reaches all gradients, the loss is finite",
    "https://github.com/pytorch/pytorch/issues/41508",
    names=("attention", "attention.heads"),
)
def padded_query(tool: Tool, healthy: bool) -> nn.Module:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            padding = torch.zeros(2, 4, dtype=torch.bool)
            padding[1, 2:] = not healthy
            local = torch.ones(4, 4, dtype=torch.bool).triu(1)
            local |= torch.ones(4, 4, dtype=torch.bool).tril(-2)
            return self.heads(x, x, x, key_padding_mask=padding, attn_mask=local)[0]  # culprit

    def first_tokens(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch)[:, :2].square().mean()

    torch.manual_seed(0)
    model = named(embed=nn.Linear(8, 8), attention=Attention(), head=nn.Linear(8, 1))
    optimizer = SGD(model.parameters(), lr=1e-3)
    return train(tool, model, optimizer, normal(2, 4, 8), first_tokens)
