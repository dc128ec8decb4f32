"""What probes record, in TensorBoard as it comes.

pip install 'gradlab-diagnostics[tensorboard]'
python examples/tensorboard_sink.py
tensorboard --logdir FOLDER        # the folder that it printed
"""

import tempfile

import torch
from torch import nn

import gradlab
from gradlab.integrations.tensorboard import TensorBoardSink

torch.manual_seed(0)
folder = tempfile.mkdtemp()
model = nn.Sequential(nn.Linear(16, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

with gradlab.attach(model, optimizer, every=5, sinks=[TensorBoardSink(folder)]) as probes:
    for _ in range(50):
        inputs = torch.randn(32, 16)
        loss = nn.functional.cross_entropy(model(inputs), inputs[:, :4].argmax(dim=1))
        probes.loss(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

print(f"tensorboard --logdir {folder}")
