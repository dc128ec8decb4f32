"""Norms removed in mid-training, or made constant, and what a probe says of what comes after.

python examples/norms_off.py
"""

from typing import Any

from torch import Tensor, nn, optim

import gradlab
from gradlab.config import DataConfig
from gradlab.data import load_corpus, train_batch
from gradlab.models.norms import LayerNorm
from gradlab.runs.reader import Run


class Constant(nn.Module):
    """A norm with the mean and the spread of the first batch that it is given, for good."""

    def __init__(self, norm: LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.seen = norm.weight, norm.bias, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        mean, std = self.seen = self.seen or [x.detach().mean(), x.detach().std()]
        return (x - mean) / std * self.weight + self.bias


def trained(put: Any = None, *, seed: int = 0, steps: int = 40, off: int = 30, **model: Any) -> Run:
    """A small Pre-LN's record; before step `off` each norm makes way for `put(norm)`."""
    net = gradlab.build_model(gradlab.model_config("pre-ln", "nano-d32", **model), seed=seed)
    optimizer = optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.98))
    text = load_corpus(DataConfig(), seq_len=64).train
    probe = gradlab.probes.HiddenStates(["*.attention", "*.feed_forward"])  # what they are given
    with gradlab.attach(net, optimizer, probes=[probe], every=10) as probes:
        for step in range(steps):
            for name, part in [*net.named_modules()] if put and step == off else ():
                if isinstance(part, LayerNorm):
                    net.set_submodule(name, put(part))
            x, y = train_batch(text, seed=seed, step=step, batch_size=8, seq_len=64)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x).flatten(0, 1), y.flatten())
            probes.loss(loss)
            loss.backward()
            optimizer.step()
    return probes.run()


for put in (None, Constant, nn.Identity) if __name__ == "__main__" else ():
    print(put, trained(put).table("steps")["loss"].iloc[[29, 30, 39]].tolist())
