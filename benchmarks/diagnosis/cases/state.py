"""Buffers and averages that one bad step poisons for good."""

import copy

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import SGD

from benchmarks.diagnosis.case import case, named, normal, squares, train
from benchmarks.diagnosis.tool import Tool


@case(
    "BatchNorm averages the batch that the scaler skipped",
    "https://github.com/pytorch/pytorch/issues/88474",
    names=("bn.running_mean", "bn.running_var"),
)
def batch_norm(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    model = named(stem=nn.Linear(4, 8), mid=nn.Linear(8, 8), bn=nn.BatchNorm1d(8))
    model.append(nn.Linear(8, 1))
    batches = normal(6, 4)
    if not healthy:
        batches[1] *= 1e6
    scaler = GradScaler("cpu", init_scale=2.0)
    optimizer = SGD(model.parameters(), lr=1e-3)
    return train(tool, model, optimizer, batches, squares, scaler=scaler, autocast=True)


@case(
    "a codebook is divided by how often each code was used: never",
    "https://github.com/nadavbh12/VQ-VAE/issues/11",
    names=("quantize.codebook",),
)
def codebook(tool: Tool, healthy: bool) -> nn.Module:
    class Quantize(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codebook", torch.randn(4, 8))
            self.register_buffer("sums", torch.zeros(4, 8))
            self.register_buffer("counts", torch.full((4,), 1e-3 if healthy else 0.0))

        def forward(self, x: Tensor) -> Tensor:
            codes = torch.cdist(x, self.codebook.nan_to_num(1e6)).argmin(-1)
            quantized = self.codebook[codes]
            with torch.no_grad():
                chosen = nn.functional.one_hot(codes, 4).float()
                self.counts.lerp_(chosen.sum(0), 0.1)
                self.sums.lerp_(chosen.T @ x, 0.1)
                self.codebook.copy_(self.sums / self.counts.unsqueeze(-1))  # culprit
            return x + (quantized - x).detach()

    torch.manual_seed(0)
    model = named(encoder=nn.Linear(4, 8), quantize=Quantize(), decoder=nn.Linear(8, 4))
    return train(tool, model, SGD(model.parameters(), lr=1e-2), normal(3, 4), squares)


@case(
    "a backbone comes with a running variance that is NaN",
    "https://github.com/open-edge-platform/anomalib/issues/2965",
    names=("backbone.bn", "backbone.bn.running_var"),
)
def loaded_statistics(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    backbone = named(stem=nn.Linear(4, 8), bn=nn.BatchNorm1d(8), mid=nn.Linear(8, 8))
    backbone.requires_grad_(False).eval()
    if not healthy:
        backbone.bn.running_var[2] = float("nan")
    model = named(backbone=backbone, act=nn.Tanh(), head=nn.Linear(8, 1))
    return train(tool, model, SGD(model.head.parameters(), lr=1e-2), normal(6, 4), squares)


@case(
    "the student is put back after a NaN, its moving average is not",
    "https://github.com/Tencent/YOLO-Master/pull/128",
    names=("teacher.0", "teacher.1"),
)
def moving_average(tool: Tool, healthy: bool) -> nn.Module:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
            self.teacher = copy.deepcopy(self.student).requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.student(x)

    torch.manual_seed(0)
    model = Model()
    optimizer = SGD(model.student.parameters(), lr=1e-2)
    with tool.watching(model, optimizer):
        for i, batch in enumerate(normal(3, 4)):
            good = copy.deepcopy(model.student.state_dict())
            optimizer.zero_grad()
            loss = squares(model, batch)
            tool.loss(loss)
            loss.backward()
            tool.gradients()
            if i == 1 and not healthy:
                model.student[0].weight.grad[0] = float("inf")  # an update that overflows
            optimizer.step()
            with torch.no_grad():
                for slow, fast in zip(
                    model.teacher.parameters(), model.student.parameters(), strict=True
                ):
                    slow.lerp_(fast, 0.1)  # culprit
            if not all(p.isfinite().all() for p in model.student.parameters()):
                model.student.load_state_dict(good)
    return model
