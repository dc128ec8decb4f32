"""A probe of one's own: how many units of each ReLU are zero for the whole batch.

python examples/own_probe.py
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import gradlab
from gradlab.probes import Probe, Reading, Subject


class DeadUnits(Probe):
    """Share of units that no sample of the last batch switched on, for each ReLU."""

    table = "dead_units"
    columns = {"site": str, "dead": float}

    def open(self, subject: Subject) -> Iterable[RemovableHandle]:
        for name, module in subject.modules.items():
            if isinstance(module, nn.ReLU):
                yield module.register_forward_hook(partial(self.look, name))

    def begin(self, step: int) -> None:
        self.dead: dict[str, Tensor] = {}

    def look(self, name: str, module: nn.Module, args: object, output: Tensor) -> None:
        if self.active:  # on its cadence; the number stays on the device
            self.dead[name] = (output.detach().flatten(0, -2) == 0).all(dim=0).float().mean()

    def after_step(self) -> Reading:
        return Reading({"site": list(self.dead)}, {"dead": torch.stack(list(self.dead.values()))})


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=4.0)

with gradlab.attach(model, optimizer, probes=[DeadUnits()], every=20) as probes:
    for _ in range(100):
        inputs = torch.randn(32, 16)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), inputs[:, :4].argmax(dim=1)).backward()
        optimizer.step()

print(probes.table("dead_units").pivot(index="step", columns="site", values="dead"))
