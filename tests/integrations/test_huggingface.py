"""The Trainer's callback records what the Trainer's own arithmetic gives, and changes nothing."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradlab
from gradlab.errors import GradlabError, GradlabWarning
from gradlab.probes import AttentionScores, GradientNorms
from gradlab.probes.headroom.compiled import CAN_LOOK_INSIDE

transformers = pytest.importorskip("transformers")

# Its Trainer takes seconds to import.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("accelerate") is None, reason="the Trainer needs accelerate"),
]
CLIP = 0.05
LR = 0.5


def model() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=31, n_positions=12,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    config.loss_type = "ForCausalLM"
    return transformers.GPT2LMHeadModel(config)


def samples(count: int = 32) -> list[dict[str, Tensor]]:
    """Sequences of which some labels do not count, more in some than in others."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for n in range(count):
        tokens = torch.randint(31, (12,), generator=generator)
        labels = tokens.clone()
        labels[: 1 + n % 9] = -100  # the first is nobody's next token
        found.append({"input_ids": tokens, "labels": labels})
    return found


class Batches:
    """The Trainer's collator, which remembers what it gave."""

    def __init__(self) -> None:
        self.given: list[dict[str, Tensor]] = []

    def __call__(self, rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        self.given.append(batch)
        return batch


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Any]:
    def make(callbacks: list[Any], data: Any = None, network: Any = None, **options: Any) -> Any:
        options = {"max_steps": 4, "save_strategy": "no", "max_grad_norm": CLIP, **options}
        args = transformers.TrainingArguments(
            output_dir=str(tmp_path / "trainer"), use_cpu=True, report_to="none", disable_tqdm=True,
            per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=LR,
            logging_strategy="no", **options,
        )  # fmt: skip
        network = network or model()
        optimizer = torch.optim.SGD(network.parameters(), lr=LR)
        constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        return transformers.Trainer(
            network, args, train_dataset=data or samples(), data_collator=Batches(),
            optimizers=(optimizer, constant), callbacks=callbacks,
        )  # fmt: skip

    return make


def callback(*args: Any, **options: Any) -> Any:
    from gradlab.integrations.huggingface import GradlabCallback

    return GradlabCallback(*args, **options)


def by_hand(batches: list[dict[str, Tensor]], steps: int, clip: float = CLIP) -> list[Any]:
    """(loss, gradient by parameter before clipping) of each step, in float64."""
    net = model().double()
    found = []
    for step in range(steps):
        net.zero_grad()
        micro = batches[2 * step : 2 * step + 2]
        counted = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in micro)
        total = 0.0
        for batch in micro:
            logits = net(input_ids=batch["input_ids"]).logits[:, :-1]
            labels = batch["labels"][:, 1:]
            loss = F.cross_entropy(logits.transpose(1, 2), labels, reduction="sum") / counted
            loss.backward()
            total += loss.item()
        found.append((total, {n: p.grad.clone() for n, p in net.named_parameters()}))
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= LR * parameter.grad
    return found


def check(probes: Any, expected: list[Any]) -> None:
    steps, norms = probes.table("steps"), probes.table("grad_norms")
    assert steps["step"].tolist() == list(range(len(expected)))
    assert steps["loss"].tolist() == pytest.approx([loss for loss, _ in expected], rel=1e-5)
    for step, (_, gradients) in enumerate(expected):
        rows = norms[norms["step"] == step].set_index("param")
        assert set(rows.index) == set(gradients)
        for name, gradient in gradients.items():
            l1, l2 = gradient.abs().sum().item(), gradient.norm().item()
            assert rows.loc[name, "grad_l1"] == pytest.approx(l1, rel=2e-4, abs=1e-6), name
            assert rows.loc[name, "grad_l2"] == pytest.approx(l2, rel=2e-4, abs=1e-6), name


def hooks_of(network: nn.Module) -> int:
    modules = sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()
    )
    return modules + sum(len(p._post_accumulate_grad_hooks or ()) for p in network.parameters())


def test_gradients_are_the_whole_batchs_before_clipping(trainer: Callable[..., Any]) -> None:
    probe = callback()
    training = trainer([probe])
    training.train()
    expected = by_hand(training.data_collator.given, 4)
    check(probe.probes, expected)
    norms = probe.probes.table("grad_norms")
    assert (norms.groupby("step")["grad_l2"].apply(lambda l2: (l2**2).sum() ** 0.5) > CLIP).all()
    assert set(probe.probes.run().tables) == {
        "steps", "faults", "grad_norms", "scales", "headroom", "overflows", "forecasts"
    }  # fmt: skip
    assert probe.probes.run().status == "finished"
    assert hooks_of(training.model) == 0


def test_training_is_the_same_to_the_bit(trainer: Callable[..., Any]) -> None:
    with_probes, without = trainer([callback()]), trainer([])
    with_probes.train()
    without.train()
    for one, other in zip(with_probes.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_loss_scale_is_known_and_a_skipped_step_is_one(trainer: Callable[..., Any]) -> None:
    probe = callback(probes=[GradientNorms()])
    training = trainer([probe], max_grad_norm=0.0)
    # Accelerate makes one for FP16, which it has on a GPU only.
    training.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    training.train()
    steps = probe.probes.table("steps")
    skipped = steps["skipped"].tolist()
    assert skipped[0]
    assert steps["loss_scale"].tolist() == [2.0 ** (127 - n) for n in range(len(skipped))]
    assert probe.probes.table("grad_norms").set_index("step").loc[0, "nonfinite"].sum() > 0


def test_gradients_are_unscaled(trainer: Callable[..., Any]) -> None:
    probe = callback(probes=[GradientNorms()])
    training = trainer([probe], max_grad_norm=0.0)
    training.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    training.train()
    check(probe.probes, by_hand(training.data_collator.given, 4, clip=0.0))


def test_a_resumed_training_is_recorded_beside_the_first(
    trainer: Callable[..., Any], tmp_path: Path
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer([callback(tmp_path / "run")], max_steps=2, **saving).train()
    for folder in ("run-from-2", "run-from-2-2"):
        probe = callback(tmp_path / "run", every=3)
        trainer([probe]).train(resume_from_checkpoint=True)
        run = gradlab.load(tmp_path / folder)
        assert run.table("steps")["step"].tolist() == [2, 3]
        assert run.table("grad_norms")["step"].unique().tolist() == [3]
    assert gradlab.load(tmp_path / "run").table("steps")["step"].tolist() == [0, 1]


class Ends(list[Any]):
    """Samples that cannot be read to their end."""

    def __getitem__(self, index: Any) -> Any:
        raise OSError("the disk is gone")


def test_a_training_that_raises(trainer: Callable[..., Any], tmp_path: Path) -> None:
    probe = callback(tmp_path / "run")
    training = trainer([probe], data=Ends(samples()))
    with pytest.raises(OSError, match="gone"), probe:
        training.train()
    run = gradlab.load(tmp_path / "run")
    assert (run.status, run.info["error"]) == ("error", "OSError: the disk is gone")
    assert hooks_of(training.model) == 0


def test_training_again_after_one_that_raised(trainer: Callable[..., Any], tmp_path: Path) -> None:
    probe = callback(tmp_path / "run")
    training = trainer([probe], data=Ends(samples()))
    with pytest.raises(OSError, match="gone"):
        training.train()
    training.train_dataset = samples()
    training.train()
    assert gradlab.load(tmp_path / "run-2").table("steps")["step"].tolist() == [0, 1, 2, 3]
    assert hooks_of(training.model) == 0


class Plain(nn.Module):
    """A model of the user's own, which knows nothing of other micro-batches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(31, 8)
        self.out = nn.Linear(8, 31)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.out(self.embed(input_ids))
        loss = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:])
        return {"loss": loss, "logits": logits}


def plain_by_hand(batches: list[dict[str, Tensor]]) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of the first step's micro-batches and the gradient of their mean, in float64."""
    net = Plain().double()
    losses = [net(**batch)["loss"] for batch in batches[:2]]
    torch.stack(losses).mean().backward()
    return [loss.item() for loss in losses], {n: p.grad for n, p in net.named_parameters()}


def test_losses_of_micro_batches_are_averaged_as_the_trainer_does(
    trainer: Callable[..., Any],
) -> None:
    probe = callback()
    training = trainer([probe], network=Plain(), max_steps=1)
    training.train()
    losses, gradients = plain_by_hand(training.data_collator.given)
    assert probe.probes.table("steps")["loss"].tolist() == pytest.approx([sum(losses) / 2])
    recorded = probe.probes.table("grad_norms").set_index("param")["grad_l1"]
    for name, gradient in gradients.items():
        assert recorded[name] == pytest.approx(gradient.abs().sum().item(), rel=1e-5), name


class Bare(Plain):
    """Returns no loss, and nothing that could be asked for one."""

    def forward(self, input_ids: Tensor, labels: Tensor) -> Any:
        return super().forward(input_ids, labels)["loss"]


def test_a_model_may_return_anything(trainer: Callable[..., Any]) -> None:
    probe = callback()
    training = trainer([probe], network=Bare(), max_steps=1)
    training.compute_loss = lambda model, inputs, **_: model(**inputs)
    training.train()
    assert probe.probes.table("steps")["loss"].isna().all()
    assert len(probe.probes.table("grad_norms")) == 3


def test_a_compiled_model_is_looked_into_where_that_can_be(trainer: Callable[..., Any]) -> None:
    compiled = {"torch_compile": True, "torch_compile_backend": "eager", "max_steps": 1}
    probe = callback()
    training = trainer([probe], network=Plain(), **compiled)
    if CAN_LOOK_INSIDE:
        training.train()
        assert set(probe.probes.table("headroom")["direction"]) == {"forward", "backward"}
        assert probe.probes.table("steps")["loss"].notna().all()
    else:
        with pytest.warns(GradlabWarning, match="headroom is not recorded"):
            training.train()
        assert "headroom" not in probe.probes.run().tables
    gradients = plain_by_hand(training.data_collator.given)[1]
    recorded = probe.probes.table("grad_norms").set_index("param")["grad_l1"]
    for name, gradient in gradients.items():
        assert recorded[name] == pytest.approx(gradient.abs().sum().item(), rel=1e-5), name
    with pytest.raises(GradlabError, match="compiled"):
        trainer([callback(probes=[AttentionScores()])], network=Plain(), **compiled).train()


def test_there_is_nothing_before_a_training() -> None:
    with pytest.raises(GradlabError, match="nothing is recorded yet"):
        callback().probes  # noqa: B018
