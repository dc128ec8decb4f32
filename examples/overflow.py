"""A run that breaks, and what gradlab says of it.

python examples/overflow.py
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

import gradlab


class Attention(nn.Module):
    """One head, whose scores nobody divides by the root of the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scores = q @ k.mT  # (batch, length, length)
        mixed: Tensor = self.out(scores.softmax(-1) @ v)
        return mixed


torch.manual_seed(0)
parts = {
    "embed": nn.Embedding(64, 32),
    "attention": Attention(32),
    "norm": nn.LayerNorm(32),
    "head": nn.Linear(32, 64),
}
model = nn.Sequential(OrderedDict(parts))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

with (
    gradlab.emulated_fp16(),  # a GPU's FP16 on any CPU
    gradlab.attach(model, optimizer, scaler=scaler, every=10) as probes,
):
    for step in range(24):
        optimizer.param_groups[0]["lr"] = 50.0 if step == 16 else 1e-3  # a slip in the schedule
        tokens = torch.randint(64, (8, 17))
        with torch.autocast("cpu", dtype=torch.float16):
            logits = model(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        probes.loss(loss)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

print(gradlab.inspect(probes.run()))
