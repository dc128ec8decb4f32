"""What probes record, in a W&B run as it comes; offline here, so that it needs no account.

pip install 'gradlab-diagnostics[wandb]'
python examples/wandb_sink.py
"""

import tempfile

import torch
import wandb
from torch import nn

import gradlab
from gradlab.integrations.wandb import WandbSink

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

with (
    wandb.init(project="gradlab", mode="offline", dir=tempfile.mkdtemp()) as run,
    gradlab.attach(model, optimizer, every=5, sinks=[WandbSink(run)]) as probes,
):
    for _ in range(50):
        inputs = torch.randn(32, 16)
        loss = nn.functional.cross_entropy(model(inputs), inputs[:, :4].argmax(dim=1))
        probes.loss(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log({"mine": loss.item()})

print(probes.table("grad_norms").groupby("param")["grad_l1"].mean())
