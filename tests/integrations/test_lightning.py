"""Lightning's callback records what Lightning's own arithmetic gives, and changes nothing."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import gradlab
from gradlab.probes import GradientNorms

# Lightning takes seconds to import: only where these tests run.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lightning") is None, reason="needs lightning"),
    pytest.mark.filterwarnings("ignore:The '[a-z_]+' does not have many workers"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is dep:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]

CLIP = 0.05
LR = 0.5


def classifier() -> Any:
    from lightning.pytorch import LightningModule

    class Classifier(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            inputs, targets = batch
            return F.cross_entropy(self.net(inputs), targets)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.training_step(batch, batch_idx)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR)

    return Classifier()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3))


def callback(*args: Any, **options: Any) -> Any:
    from gradlab.integrations.lightning import GradlabCallback

    return GradlabCallback(*args, **options)


def batches(count: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(4, 6, generator=generator), torch.randint(3, (4,), generator=generator))
        for _ in range(count)
    ]


def loader(data: list[Any]) -> DataLoader[Any]:
    return DataLoader(data, batch_size=None)


def trainer(root: Path, *callbacks: Any, **options: Any) -> Any:
    from lightning.pytorch import Trainer

    defaults: dict[str, Any] = {"max_epochs": 1, "enable_checkpointing": False}
    return Trainer(
        accelerator="cpu", devices=1, default_root_dir=root, logger=False, callbacks=[*callbacks],
        enable_progress_bar=False, enable_model_summary=False, **(defaults | options),
    )  # fmt: skip


def by_hand(data: list[Any], accumulate: int = 1, clip: float = 0.0) -> list[Any]:
    """(mean loss, gradient by parameter before clipping) of each step, in float64."""
    net = network().double()
    found = []
    for start in range(0, len(data), accumulate):
        net.zero_grad()
        losses = [
            F.cross_entropy(net(inputs.double()), targets)
            for inputs, targets in data[start : start + accumulate]
        ]
        loss = torch.stack(losses).mean()
        loss.backward()
        found.append((loss.item(), {f"net.{n}": p.grad.clone() for n, p in net.named_parameters()}))
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= LR * parameter.grad
    return found


def check(probes: Any, expected: list[Any], rel: float = 1e-4) -> None:
    steps, norms = probes.table("steps"), probes.table("grad_norms")
    assert steps["step"].tolist() == list(range(len(expected)))
    assert steps["loss"].tolist() == pytest.approx([loss for loss, _ in expected], rel=rel)
    for step, (_, gradients) in enumerate(expected):
        rows = norms[norms["step"] == step].set_index("param")
        assert set(rows.index) == set(gradients)
        for name, gradient in gradients.items():
            l1 = gradient.abs().sum().item()
            assert rows.loc[name, "grad_l1"] == pytest.approx(l1, rel=rel, abs=1e-6), name


def hooks_of(network: nn.Module) -> int:
    modules = sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()
    )
    return modules + sum(len(p._post_accumulate_grad_hooks or ()) for p in network.parameters())


def test_gradients_are_the_whole_batchs_before_clipping(tmp_path: Path) -> None:
    probe, module, data = callback(), classifier(), batches()
    fit = trainer(tmp_path, probe, accumulate_grad_batches=2, gradient_clip_val=CLIP)
    fit.fit(
        module, loader(data), loader(data[:1])
    )  # with Lightning's check of the validation before
    check(probe.probes, by_hand(data, accumulate=2, clip=CLIP))
    norms = probe.probes.table("grad_norms")
    assert (norms.groupby("step")["grad_l2"].apply(lambda l2: (l2**2).sum() ** 0.5) > CLIP).all()
    run = probe.probes.run()
    assert set(run.tables) == {
        "steps", "faults", "grad_norms", "scales", "headroom", "overflows", "forecasts"
    }  # fmt: skip
    assert run.status == "finished"
    assert hooks_of(module) == 0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_is_the_same_to_the_bit(tmp_path: Path, precision: str) -> None:
    modules = [classifier(), classifier()]
    for module, callbacks in zip(modules, ([callback()], []), strict=True):
        fit = trainer(tmp_path, *callbacks, precision=precision, gradient_clip_val=CLIP)
        fit.fit(module, loader(batches()))
    for one, other in zip(*(module.parameters() for module in modules), strict=True):
        assert torch.equal(one, other)


def mixed(init_scale: float) -> Any:
    from lightning.pytorch.plugins.precision import MixedPrecision

    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=init_scale))


def test_the_scaler_is_the_plugins(tmp_path: Path) -> None:
    probe, data = callback(), batches()
    fit = trainer(
        tmp_path, probe, plugins=mixed(1024.0), accumulate_grad_batches=2, gradient_clip_val=CLIP
    )
    fit.fit(classifier(), loader(data))
    check(probe.probes, by_hand(data, accumulate=2, clip=CLIP), rel=0.02)
    assert probe.probes.table("steps")["loss_scale"].tolist() == [1024.0] * 4


def test_a_skipped_step_is_one(tmp_path: Path) -> None:
    probe = callback(probes=[GradientNorms()])
    trainer(tmp_path, probe, plugins=mixed(2.0**127)).fit(classifier(), loader(batches()))
    steps = probe.probes.table("steps")
    assert steps["skipped"].all()
    assert steps["loss_scale"].tolist() == [2.0 ** (127 - n) for n in range(8)]
    assert steps["loss"].tolist()[0] == pytest.approx(by_hand(batches(1))[0][0], rel=0.01)


def test_a_resumed_training_is_recorded_beside_the_first(tmp_path: Path) -> None:
    first = trainer(tmp_path, callback(tmp_path / "run"))
    first.fit(classifier(), loader(batches(3)))
    first.save_checkpoint(tmp_path / "at.ckpt")
    probe = callback(tmp_path / "run", every=5)
    second = trainer(tmp_path, probe, max_epochs=2)
    second.fit(classifier(), loader(batches(3)), ckpt_path=tmp_path / "at.ckpt")
    run = gradlab.load(tmp_path / "run-from-3")
    assert run.table("steps")["step"].tolist() == [3, 4, 5]
    assert run.table("grad_norms")["step"].unique().tolist() == [5]
    assert gradlab.load(tmp_path / "run").table("steps")["step"].tolist() == [0, 1, 2]


def test_a_training_that_raises(tmp_path: Path) -> None:
    probe, module = callback(tmp_path / "run"), classifier()
    data = [*batches(2), (torch.zeros(4, 5), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(RuntimeError) as raised:
        trainer(tmp_path, probe).fit(module, loader(data))
    run = gradlab.load(tmp_path / "run")
    assert run.status == "error"
    assert str(raised.value) in run.info["error"]
    assert run.table("steps")["step"].tolist() == [0, 1]
    assert hooks_of(module) == 0


def adversaries() -> Any:
    """Two optimizers, stepped in turn by the module itself."""
    from lightning.pytorch import LightningModule

    class Adversaries(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.automatic_optimization = False
            self.nets = nn.ModuleList([nn.Linear(6, 1), nn.Linear(6, 1)])

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for net, optimizer in zip(self.nets, self.optimizers(), strict=True):
                optimizer.zero_grad()
                self.manual_backward(net(batch[0]).square().mean())
                optimizer.step()

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [torch.optim.SGD(net.parameters(), lr=0.1) for net in self.nets]

    return Adversaries()


def test_optimizers_that_take_turns_make_a_step_each(tmp_path: Path) -> None:
    probe = callback()
    trainer(tmp_path, probe).fit(adversaries(), loader(batches(3)))
    assert probe.probes.table("steps")["step"].tolist() == [0, 1, 2, 3, 4, 5]
    norms = probe.probes.table("grad_norms")
    assert norms.groupby("step")["param"].count().tolist() == [2] * 6
    assert norms["grad_l1"].gt(0).all()
