"""A loop with Accelerate: attach takes what `prepare` gave, and the scaler is Accelerate's.

pip install 'gradlab-diagnostics[accelerate]'
python examples/accelerate_loop.py
"""

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradlab

torch.manual_seed(0)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision="bf16")
model = nn.Sequential(nn.Linear(16, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
loader = DataLoader(TensorDataset(torch.randn(256, 16)), batch_size=16)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

with gradlab.attach(model, optimizer, scaler=accelerator.scaler, every=2) as probes:
    for (inputs,) in loader:
        with accelerator.accumulate(model):
            loss = nn.functional.cross_entropy(model(inputs), inputs[:, :4].argmax(dim=1))
            probes.loss(loss)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

print(probes.table("steps")[["step", "loss"]])  # a step is one of the optimizer
print(probes.table("grad_norms").groupby("param")["grad_l1"].mean())
