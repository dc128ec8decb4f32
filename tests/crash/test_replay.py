"""A kept step done again is the recorded one to the bit, whatever the loop's passes look like."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_loops import (
    BAD,
    Loop,
    Net,
    assert_same_tables,
    autocast,
    fused,
    kept_steps,
    mean,
    momentum,
    plain,
)
from tiny_transformers import gpt2
from torch import Tensor, nn

import gradlab
from gradlab.crash.folder import KeptSteps, read_step
from gradlab.errors import GradlabError
from gradlab.training.checkpoint import Checkpoint

Scale = Callable[[Tensor], Tensor]


def one(model: nn.Module, x: Tensor, scale: Scale) -> Iterator[Tensor]:
    with autocast(x):
        loss = mean(model(x, scale=2.0, extra={"shift": [torch.ones_like(x[0, 0])]}))
    scale(loss).backward()
    yield loss


def accumulated(model: nn.Module, x: Tensor, scale: Scale) -> Iterator[Tensor]:
    for part in x.chunk(2):
        model.eval()
        with torch.no_grad():
            model(part)
        model.train()
        with autocast(part):
            loss = mean(model(part))
        scale(loss / 2).backward()
        yield loss


def three_calls_in_one_pass(model: nn.Module, x: Tensor, scale: Scale) -> Iterator[Tensor]:
    with autocast(x):
        outputs = [model(part) for part in (x, x.flip(0), 2 * x)]
    loss = sum((mean(output) for output in outputs), torch.zeros(()))
    scale(loss).backward()
    yield loss


def one_call_in_two_passes(model: nn.Module, x: Tensor, scale: Scale) -> Iterator[Tensor]:
    with autocast(x):
        output = model(x)
    other = mean(output) + output["hidden"].float().mean()
    scale(mean(output)).backward(retain_graph=True)
    yield mean(output).detach()
    scale(other).backward()
    yield other


def one_call_after_another(model: nn.Module, x: Tensor, scale: Scale) -> Iterator[Tensor]:
    with autocast(x):
        first = model(x)
        second = model(first["out"].float())
    loss = mean(first) + mean(second)
    scale(loss).backward()
    yield loss


def some_of_it_in_evaluation_mode(model: nn.Module, x: Tensor, scale: Scale) -> Iterator[Tensor]:
    model.get_submodule("norm").eval()
    yield from one(model, x, scale)


def in_fp32(model: nn.Module, x: Tensor, scale: Scale) -> Iterator[Tensor]:
    loss = mean(model(x))
    scale(loss).backward()
    yield loss


@pytest.mark.parametrize(
    "passes",
    [
        one,
        accumulated,
        three_calls_in_one_pass,
        one_call_in_two_passes,
        one_call_after_another,
        some_of_it_in_evaluation_mode,
    ],
)
def test_a_skipped_step_is_the_same_to_the_bit(passes: Any, tmp_path: Path) -> None:
    probes, _ = Loop(passes).train(tmp_path / "crash")
    again = gradlab.replay(tmp_path / "crash", Net())
    assert (again.step, again.breaks, again.elsewhere) == (BAD, True, ())
    assert_same_tables(probes.run(), again.run)
    assert probes.table("steps")["skipped"].tolist() == [step == BAD for step in range(5)]


@pytest.mark.parametrize("optimizer", [fused, plain, momentum])
@pytest.mark.parametrize("fp16", [True, False])
def test_whatever_the_optimizer(optimizer: Any, fp16: bool, tmp_path: Path) -> None:
    """Without a scaler the parameters are lost with the step: it was kept before."""
    loop = Loop(one if fp16 else in_fp32, optimizer, fp16=fp16)
    probes, model = loop.train(tmp_path / "crash")
    lost = any(x.isnan().any() for x in model.parameters())
    assert lost is not fp16
    fresh = Net()
    again = gradlab.replay(tmp_path / "crash", fresh)
    assert_same_tables(probes.run(), again.run)
    assert again.run.table("optimizer")["step"].tolist()[:1] == [BAD]
    assert not any(x.isnan().any() for x in fresh.parameters())


@pytest.mark.parametrize("events", ["skipped", "sampled"])
def test_what_was_not_looked_at_is_kept(events: Any, tmp_path: Path) -> None:
    exact, _ = Loop(accumulated).train(None)
    Loop(accumulated).train(tmp_path / "crash", events=events, every=1000)
    assert_same_tables(exact.run(), gradlab.replay(tmp_path / "crash", Net()).run)


@pytest.mark.gpu
@pytest.mark.parametrize("passes", [one, accumulated])
@pytest.mark.parametrize("optimizer", [fused, plain])
def test_on_a_gpu(passes: Any, optimizer: Any, tmp_path: Path) -> None:
    """Its headroom is counted at every look this time, which the recording leaves out."""
    probes, _ = Loop(passes, optimizer, device="cuda").train(tmp_path / "crash")
    again = gradlab.replay(tmp_path / "crash", Net().cuda())
    assert_same_tables(probes.run(), again.run, tables=("steps", "grad_norms"))
    assert "linear(float16" in str(again)
    assert gradlab.replay(tmp_path / "crash", Net()).breaks


def test_the_model_is_left_as_it_was_before_the_step(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    def noted(model: nn.Module, x: Tensor, scale: Scale) -> Iterator[Tensor]:
        seen.append(copy.deepcopy(model.state_dict()))
        yield from one(model, x, scale)

    Loop(noted).train(tmp_path / "crash")
    model = Net().eval()
    model.first.weight.grad = torch.ones_like(model.first.weight)
    before = torch.get_rng_state()
    gradlab.replay(tmp_path / "crash", model)
    for name, x in model.state_dict().items():
        assert torch.equal(x, seen[BAD][name]), name
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in model.modules())
    assert model.first.weight.grad.eq(1).all()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_frozen_parameters_are_frozen_again(tmp_path: Path) -> None:
    def make() -> nn.Module:
        model = Net()
        model.first.requires_grad_(False)
        return model

    probes, _ = Loop(one, make=make).train(tmp_path / "crash")
    model = Net()
    again = gradlab.replay(tmp_path / "crash", model)
    assert_same_tables(probes.run(), again.run)
    assert all(x.requires_grad for x in model.parameters())


def test_an_inspection_names_the_operation(tmp_path: Path) -> None:
    Loop(one).train(tmp_path / "crash")
    again = gradlab.replay(tmp_path / "crash", Net())
    for told in (str(again), str(gradlab.inspect(again.run)).replace("\n", "")):
        assert "linear(float16" in told
        assert "tests/shared/bad_loops.py:" in "".join(told.split())


@pytest.mark.parametrize(
    ("precision", "breaks"), [("fp32", False), ("bf16", False), ("fp16", True)]
)
def test_other_formats(precision: Any, breaks: bool, tmp_path: Path) -> None:
    Loop(accumulated).train(tmp_path / "crash")
    model = Net()
    given: list[Any] = []

    def loss(output: Any, batch: Any) -> Tensor:
        given.append(batch)
        return mean(output)

    again = gradlab.replay(tmp_path / "crash", model, loss=loss, precision=precision)
    assert again.breaks is breaks
    assert [x.shape for x in given] == [(4, 4), (4, 4)]
    assert ("does not break" in str(again)) is not breaks
    assert len(again.run.table("steps")["loss"].dropna()) == int(not breaks)


def test_a_loss_in_the_formats_of_then_gives_what_was_recorded(tmp_path: Path) -> None:
    probes, _ = Loop(one).train(tmp_path / "crash")
    again = gradlab.replay(tmp_path / "crash", Net(), loss=lambda output, batch: mean(output))
    assert_same_tables(probes.run(), again.run)


class Other(torch.optim.AdamW):
    """One that is not torch's."""


def test_an_optimizer_of_ones_own_is_to_be_given(tmp_path: Path) -> None:
    loop = Loop(in_fp32, lambda model: Other(model.parameters(), lr=1e-2), fp16=False)
    probes, _ = loop.train(tmp_path / "crash")
    model = Net()
    without = gradlab.replay(tmp_path / "crash", model)
    assert "optimizer" not in without.run.tables
    again = gradlab.replay(tmp_path / "crash", model, optimizer=Other(model.parameters(), lr=1.0))
    assert_same_tables(probes.run(), again.run)
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(GradlabError, match="is a SGD, and Other was kept"):
        gradlab.replay(tmp_path / "crash", model, optimizer=sgd)
    with pytest.raises(GradlabError, match="lr_scale is of the replay of a run"):
        gradlab.replay(tmp_path / "crash", model, lr_scale=0.5)
    with pytest.raises(
        GradlabError, match=r"holds steps that attach.*gradlab\.replay\(folder, mod"
    ):
        gradlab.load(tmp_path / "crash")
    with pytest.raises(GradlabError, match=r"1 optimizers were kept and 2 are given"):
        gradlab.replay(
            tmp_path / "crash", model, optimizer=[Other(model.parameters()) for _ in range(2)]
        )


def test_a_step_in_which_the_model_raises_raises_again(tmp_path: Path) -> None:
    class Failing(Net):
        def forward(self, x: Tensor, **others: Any) -> dict[str, Tensor]:
            if x.abs().max() > 1e3:
                raise ValueError("too large a batch")
            return super().forward(x, **others)

    with pytest.raises(ValueError, match="too large a batch"):
        Loop(one, make=Failing).train(tmp_path / "crash")
    again = gradlab.replay(tmp_path / "crash", Failing())
    assert again.why == ("the loop raised ValueError: too large a batch",)
    assert again.breaks
    assert "the model raised ValueError: too large a batch" in str(again)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Linear(4, 8), "a Net: first.weight is missing here; first.bias"),
        (lambda: Net().half(), r"is float16 \(8, 4\) here and was float32 \(8, 4\)"),
        (lambda: nn.Sequential(Net()), "is missing here"),
    ],
)
def test_another_model_is_refused(make: Any, said: str, tmp_path: Path) -> None:
    Loop(one).train(tmp_path / "crash")
    with pytest.raises(GradlabError, match=said):
        gradlab.replay(tmp_path / "crash", make())


def test_what_a_gpu_did_is_done_again_on_a_cpu_with_its_fp16_emulated(tmp_path: Path) -> None:
    probes, _ = Loop(one).train(tmp_path / "crash")
    kept = read_step(tmp_path / "crash", None)
    there = json.dumps(kept.facts).replace('"cpu": [', '"cuda": [')
    there = there.replace('"device": "cpu"', '"device": "cuda:0"')
    assert '"emulated": true' in there
    facts = json.loads(there.replace('"emulated": true', '"emulated": false'))
    told = {"why": [], "model": "", "calls": 1}
    folder = KeptSteps(tmp_path / "from a GPU", 1)
    folder.add(BAD, Checkpoint(facts, kept.tensors), told)
    folder.close()
    again = gradlab.replay(tmp_path / "from a GPU", Net())
    assert_same_tables(probes.run(), again.run)


def test_what_goes_with_a_model_and_what_does_not(tmp_path: Path) -> None:
    Loop(one).train(tmp_path / "crash", out=tmp_path / "run")
    Loop(one).train(None, out=tmp_path / "not kept")
    for path in ("crash", "crash/bundle.json", "run", "run/run.json"):
        assert gradlab.replay(tmp_path / path, Net()).step == BAD
        with pytest.raises(GradlabError, match="give the model as well"):
            gradlab.replay(tmp_path / path)
    assert gradlab.replay(gradlab.load(tmp_path / "run"), Net()).step == BAD
    with pytest.raises(GradlabError, match="a model goes with what attach"):
        gradlab.replay(tmp_path / "not kept", Net())
    with pytest.raises(GradlabError, match="in a loop of its own"):
        gradlab.replay(tmp_path / "not kept")
    with pytest.raises(GradlabError, match="has no kept step"):
        gradlab.replay(tmp_path / "nothing", Net())
    with pytest.raises(GradlabError, match="nothing"):
        gradlab.replay(tmp_path / "nothing")


class Turned(Net):
    """The same parameters, and something else with them."""

    def forward(self, x: Tensor, **_: Any) -> dict[str, Tensor]:
        return {"out": super().forward(x)["out"].sum()}


def test_a_model_with_other_outputs_is_refused(tmp_path: Path) -> None:
    Loop(one).train(tmp_path / "crash")
    model = Turned()
    with pytest.raises(GradlabError, match="the model's outputs are others than then"):
        gradlab.replay(tmp_path / "crash", model)
    assert not any(m._forward_hooks for m in model.modules())


def test_other_formats_need_a_loss(tmp_path: Path) -> None:
    Loop(one).train(tmp_path / "crash")
    with pytest.raises(GradlabError, match="needs loss="):
        gradlab.replay(tmp_path / "crash", Net(), precision="fp32")
    with pytest.raises(GradlabError, match="unknown precision 'fp8'"):
        gradlab.replay(tmp_path / "crash", Net(), precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(GradlabError, match=rf"step 4 is not kept in .*: it has {BAD}"):
        gradlab.replay(tmp_path / "crash", Net(), step=4)
    assert kept_steps(tmp_path / "crash") == [BAD]


@pytest.mark.slow
def test_hugging_faces_gpt2_with_dropout_and_micro_batches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = gpt2(n_layer=1, attn_implementation="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    keep = tmp_path / "crash"
    with (
        gradlab.emulated_fp16(),
        gradlab.attach(model, optimizer, scaler=scaler, keep=keep) as probes,
    ):
        for step in range(BAD + 1):
            if step == BAD:
                model.transformer.h[0].attn.c_attn.weight.data.mul_(2e4)
            for _ in range(2):
                tokens = torch.randint(32, (2, 8))
                with autocast(tokens):
                    output = model(input_ids=tokens, labels=tokens)
                probes.loss(output.loss)
                scaler.scale(output.loss / 2).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    fresh = gpt2(n_layer=1, attn_implementation="eager")
    again = gradlab.replay(keep, fresh)
    assert_same_tables(probes.run(), again.run)
    assert "transformer.h.0.attn" in str(again)
    assert "modeling_gpt2.py" in str(again)
    for precision, breaks in (("fp32", False), ("fp16", True)):
        other = gradlab.replay(
            keep, fresh, precision=precision, loss=lambda output, batch: output.loss
        )
        assert other.breaks is breaks
