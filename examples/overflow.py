"""A run that breaks, and what gradlab says of it.

python examples/overflow.py
"""

import torch
from torch import Tensor, nn

import gradlab


class Model(nn.Module):
    """Attention whose scores nobody divides by the root of the width."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Embedding(64, 32), nn.Linear(32, 96)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 64)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(self.embed(tokens)).chunk(3, dim=-1)  # each (batch, length, 32)
        scores = q @ k.mT
        logits: Tensor = self.head(self.norm(scores.softmax(-1) @ v))
        return logits


torch.manual_seed(0)
model = Model()
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
