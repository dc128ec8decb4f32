"""A loop of one's own in FP16, with a loss scaler: what happens inside, in two lines.

python examples/plain_loop.py
"""

import torch
from torch import nn

import gradlab

torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
model = nn.Sequential(
    nn.Embedding(64, 32),
    nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
    nn.Linear(32, 64),
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)

with gradlab.attach(model, optimizer, scaler=scaler, every=5) as probes:
    for _ in range(20):
        tokens = torch.randint(64, (8, 17))
        with torch.autocast("cpu", dtype=torch.float16):
            logits = model(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        probes.loss(loss)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

print(probes.table("steps")[["step", "loss", "loss_scale", "skipped"]].tail(3))
weights = probes.table("grad_norms").query("param.str.endswith('weight')")  # no biases
print(weights.groupby(["layer", "op"])["grad_l1"].mean())
print(probes.table("headroom").nsmallest(5, "headroom_bits")[["step", "site", "headroom_bits"]])
