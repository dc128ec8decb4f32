"""Lightning's Trainer with probes: one more callback.

pip install 'gradlab-diagnostics[lightning]'
python examples/lightning_trainer.py
"""

import tempfile

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import gradlab
from gradlab.integrations.lightning import GradlabCallback


class Classifier(LightningModule):
    """A small network that is to find the largest of its first four inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 4))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        (inputs,) = batch
        return nn.functional.cross_entropy(self.net(inputs), inputs[:, :4].argmax(dim=1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


folder = tempfile.mkdtemp()
trainer = Trainer(
    max_epochs=2,
    gradient_clip_val=1.0,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    default_root_dir=folder,
    callbacks=[GradlabCallback(f"{folder}/run", every=4)],
)
trainer.fit(Classifier(), DataLoader(TensorDataset(torch.randn(256, 16)), batch_size=16))

run = gradlab.load(f"{folder}/run")
print(run.table("steps")[["step", "lr", "loss"]].tail(3))
print(run.table("grad_norms").groupby("param")["grad_l1"].mean())
