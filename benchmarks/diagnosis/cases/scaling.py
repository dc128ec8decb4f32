"""Loss scalers: steps that are skipped for good, scales that leave the range, and none at all."""

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import SGD

from benchmarks.diagnosis.case import case, named, normal, squares, train
from benchmarks.diagnosis.tool import Tool


@case(
    "the scaler skips every step and halves its scale to 0: no scale helps a root at 0",
    "https://github.com/Junjue-Wang/FactSeg/issues/6",
    names=("magnitude",),
)
def skipped_for_good(tool: Tool, healthy: bool) -> nn.Module:
    class Magnitude(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square().sum(-1, keepdim=True).sqrt()  # culprit

    torch.manual_seed(0)
    model = named(embed=nn.Linear(4, 8), mid=nn.Linear(8, 8), magnitude=Magnitude())
    model.append(nn.Linear(1, 1))
    if not healthy:
        nn.init.zeros_(model.mid.weight)
        nn.init.zeros_(model.mid.bias)
    scaler = GradScaler("cpu", init_scale=16.0)
    optimizer = SGD(model.parameters(), lr=1e-3)
    batches = normal(3, 4, steps=12)
    return train(tool, model, optimizer, batches, squares, scaler=scaler, autocast=True)


@case(
    "zero_grad is never called: one infinite gradient stays, and all later steps are skipped",
    "https://github.com/PaddlePaddle/Paddle/issues/67895",
    phrases=(r"zero_grad", r"(not|never) (cleared|zeroed)", r"carried over", r"earlier steps?'"),
)
def infinity_stays(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    model = named(embed=nn.Linear(4, 8), act=nn.Tanh(), head=nn.Linear(8, 1))
    optimizer = SGD(model.parameters(), lr=1e-3)
    scaler = GradScaler("cpu", init_scale=16.0 if healthy else 2.0**20)
    how = {"scaler": scaler, "autocast": True, "zeroed": healthy}
    return train(tool, model, optimizer, normal(3, 4, steps=12), squares, **how)


@case(
    "gradients are clipped while they are still scaled",
    "https://github.com/Lightning-AI/pytorch-lightning/issues/9694",
    phrases=(r"\b(clipped|changed)\b.*\bscaled\b", r"\bunscale_?\b"),
)
def clipped_scaled(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    model = named(embed=nn.Linear(4, 8), act=nn.Tanh(), head=nn.Linear(8, 1))
    optimizer = SGD(model.parameters(), lr=1e-2)
    scaler = GradScaler("cpu", init_scale=65536.0)
    with tool.watching(model, optimizer, scaler):
        for batch in normal(3, 4):
            optimizer.zero_grad()
            loss = squares(model, batch)
            tool.loss(loss)
            scaler.scale(loss).backward()
            if healthy:
                scaler.unscale_(optimizer)
            tool.gradients()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # culprit
            scaler.step(optimizer)
            scaler.update()
    return model


@case(
    "autocast to FP16 without a scaler: small gradients are 0",
    "https://github.com/engichang1467/Open-Rig3R/issues/35",
    names=("embed.weight", "mid.weight"),
    phrases=(r"\bunderflow", r"flush"),
)
def no_scaler(tool: Tool, healthy: bool) -> nn.Module:
    def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
        return squares(model, batch) * (1 if healthy else 1e-8)

    torch.manual_seed(0)
    model = named(embed=nn.Linear(4, 8), mid=nn.Linear(8, 8), head=nn.Linear(8, 1))
    optimizer = SGD(model.parameters(), lr=1e-2)
    return train(tool, model, optimizer, normal(3, 4), loss_of, autocast=True)
