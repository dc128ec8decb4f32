"""What was broken before the model saw it, in the batch or in a table that it reads."""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW

from benchmarks.diagnosis.case import case, named, normal, squares, train
from benchmarks.diagnosis.tool import Tool

INPUT = (r"\b(nan|inf)\b\S* .*\binput\[0\]", r"\bthe input\b", r"\binput (batch|of|to)\b")


@case(
    "a sample of the batch has a NaN",
    "https://github.com/prs-eth/Marigold/issues/111",
    phrases=INPUT,
)
def nan_in_batch(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    model = named(stem=nn.Linear(4, 8), act=nn.Tanh(), mid=nn.Linear(8, 8), head=nn.Linear(8, 1))
    batches = normal(3, 4)
    if not healthy:
        batches[2][1, 3] = float("nan")
    return train(tool, model, SGD(model.parameters(), lr=1e-2), batches, squares)


@case(
    "a feature was divided by its range, which is 0",
    "https://github.com/fxia22/pointnet.pytorch/issues/58",
    phrases=INPUT,
)
def normalized_by_zero(tool: Tool, healthy: bool) -> nn.Module:
    def normalized(points: Tensor) -> Tensor:
        points = points - points.mean(1, keepdim=True)
        return points / points.abs().amax((1, 2), keepdim=True)  # culprit

    torch.manual_seed(0)
    model = named(conv=nn.Linear(3, 8), act=nn.ReLU(), mid=nn.Linear(8, 8), head=nn.Linear(8, 1))
    clouds = normal(2, 5, 3)
    if not healthy:
        clouds[1][0] = 7.0  # one point, five times
    batches = [normalized(points) for points in clouds]
    return train(tool, model, AdamW(model.parameters(), lr=1e-2), batches, squares)


@case(
    "rows of a position table were never initialised",
    "https://github.com/allenai/longformer/issues/115",
    names=("positions", "positions.weight"),
)
def uninitialised_rows(tool: Tool, healthy: bool) -> nn.Module:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(10, 8), nn.Embedding(8, 8)
            self.mid, self.head = nn.Linear(8, 8), nn.Linear(8, 10)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
            return self.head(self.mid(x).tanh())

    torch.manual_seed(0)
    model = Model()
    if not healthy:
        with torch.no_grad():
            model.positions.weight[6:] = float("nan")  # what new_empty may hold
    batches = [torch.randint(10, (2, length)) for length in (4, 5, 8, 4)]
    return train(tool, model, SGD(model.parameters(), lr=1e-2), batches, squares)


@case(
    "a row of pretrained vectors is NaN, and a step looks it up",
    "https://github.com/bheinzerling/bpemb/issues/6",
    names=("embed", "embed.weight"),
)
def nan_row(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    model = named(embed=nn.Embedding(10, 8), mid=nn.Linear(8, 8), head=nn.Linear(8, 1))
    if not healthy:
        with torch.no_grad():
            model.embed.weight[7] = float("nan")
    batches = [torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6]]), torch.tensor([[2, 7, 1]])]
    return train(tool, model, SGD(model.parameters(), lr=1e-2), batches, squares)


@case(
    "one process of two has an infinity in its batch",
    "https://github.com/ecmwf/WeatherGenerator/issues/2724",
    phrases=(r"\b(rank|process) 1\b",),
    ranks=2,
)
def one_rank(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    model = named(stem=nn.Linear(4, 8), act=nn.Tanh(), mid=nn.Linear(8, 8), head=nn.Linear(8, 1))
    batches = normal(3, 4)
    if torch.distributed.get_rank() == 1 and not healthy:
        batches[2][1, 3] = float("inf")
    parallel = DistributedDataParallel(model)
    return train(tool, parallel, SGD(model.parameters(), lr=1e-2), batches, squares)
