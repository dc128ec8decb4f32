import copy
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from attention_passes import Around, activations, hooks_of, model_of, record, tokens
from devices import NoHostReads
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import gradlab
from gradlab.errors import GradlabError
from gradlab.models.loss import token_loss
from gradlab.probes.attention.probe import AttentionScores


class HandWritten(nn.Module):
    """Self-attention over two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 16)

    def scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k = self.project(x).view(*x.shape[:2], 2, -1).transpose(1, 2).chunk(2, -1)
        return q @ k.mT / 2, k

    def forward(self, x: Tensor) -> Tensor:
        scores, k = self.scores(x)
        return F.softmax(scores, dim=-1) @ k


def highest(scores: Tensor) -> list[float]:
    return scores.amax((0, 2, 3)).tolist()


class CountFastPaths(TorchDispatchMode):
    """Of torch's own encoder layers and attention, where nothing is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        ops = torch.ops.aten
        fast = (
            ops._transformer_encoder_layer_fwd.default,
            ops._native_multi_head_attention.default,
        )
        self.seen += func in fast
        return func(*args, **(kwargs or {}))


class SelfAttention(nn.MultiheadAttention):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x, need_weights=False)[0]


def frozen_parts() -> list[nn.Module]:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return [layer, nn.TransformerEncoder(layer, 1), SelfAttention(8, 2, batch_first=True)]


@pytest.mark.parametrize("part", frozen_parts(), ids=lambda part: type(part).__name__)
def test_what_is_frozen_keeps_the_path_that_it_takes(part: nn.Module) -> None:
    model = nn.Sequential(part.eval().requires_grad_(False), nn.Linear(8, 8))
    x = activations(3, 5, 8)
    fast = CountFastPaths()
    with fast:
        model(x)
        assert fast.seen == 1
        assert record(model, lambda: model(x)).empty
    assert fast.seen == 2


def test_validation_keeps_its_path() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.Sequential(layer, nn.Linear(8, 8))
    x = activations(3, 5, 8)
    fast = CountFastPaths()
    with gradlab.attach(model, probes=[AttentionScores()]) as probes:
        model(x).sum().backward()
        probes.step()
        with fast, torch.no_grad():
            model.eval()(x)
    assert fast.seen == 1
    q, k, _ = layer.self_attn.in_proj_weight.double().chunk(3)
    q, k = ((x.double() @ w.T).unflatten(-1, (2, 4)).transpose(1, 2) for w in (q, k))
    table = probes.table("scores")
    upper, lower = (table[table.bound == bound]["max"].tolist() for bound in ("upper", "lower"))
    for low, high, most in zip(lower, highest(q @ k.mT / 2), upper, strict=True):
        assert low <= high <= most


def passes(model: nn.Module) -> list[Callable[[], Tensor]]:
    return [lambda: model(tokens(1)), lambda: model(tokens(2))]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("attention", ["materialised", "sdpa"])
def test_checkpointed_blocks_are_recorded_once(reentrant: bool, attention: str) -> None:
    model = model_of(attention)
    whole = record(model, *passes(model), probe=AttentionScores(exact=True))
    model = model_of(attention)
    block = model.blocks[1]
    forward = block.forward
    block.forward = lambda x: checkpoint(forward, x, use_reentrant=reentrant)  # type: ignore[method-assign]
    probe = AttentionScores(exact=True)
    calls: list[str] = []
    note = probe._note
    probe._note = lambda *args: (calls.append(args[1]), note(*args))  # type: ignore[method-assign]
    table = record(model, *passes(model), probe=probe)
    by = ["site", "head"]
    pd.testing.assert_frame_equal(
        table.sort_values(by, ignore_index=True), whole.sort_values(by, ignore_index=True)
    )
    assert len(calls) == 4


def test_selective_checkpointing_gets_its_own_results_back() -> None:
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    def gradient(attach: bool) -> Tensor:
        model = model_of("sdpa")
        block = model.blocks[1]
        forward = block.forward

        def contexts() -> Any:
            return create_selective_checkpoint_contexts(
                lambda context, op, *args, **kwargs: CheckpointPolicy.MUST_SAVE
            )

        block.forward = lambda x: checkpoint(forward, x, use_reentrant=False, context_fn=contexts)  # type: ignore[method-assign]
        if attach:
            record(model, lambda: model(tokens()), probe=AttentionScores(exact=True))
        else:
            model(tokens()).float().square().mean().backward()
        return block.attention.q.weight.grad

    assert torch.equal(gradient(True), gradient(False))


@pytest.mark.parametrize("attention", ["materialised", "sdpa"])
@pytest.mark.parametrize("exact", [False, True])
def test_nothing_is_disturbed(attention: str, exact: bool) -> None:
    def train(probes: list[AttentionScores] | None) -> list[Tensor]:
        model = model_of(attention)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        attached = gradlab.attach(model, optimizer, probes=probes) if probes else None
        losses = []
        for step in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                loss = token_loss(model(tokens(step)), tokens(step + 9))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        if attached:
            assert sorted(attached.table("scores").step.unique()) == [0, 1, 2]
            attached.close()
        return [*losses, *model.parameters()]

    for one, other in zip(train(None), train([AttentionScores(exact=exact)]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("attention", ["materialised", "sdpa"])
@pytest.mark.parametrize("exact", [False, True])
def test_no_step_reads_a_number_on_the_host(
    attention: str, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else the probe's own work would be hidden from the mode that watches it here.
    import contextlib

    import gradlab.probes.attention.bounds

    monkeypatch.setattr(
        gradlab.probes.attention.bounds, "_disable_current_modes", contextlib.nullcontext
    )
    model = model_of(attention)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    probes = gradlab.attach(model, optimizer, probes=[AttentionScores(exact=exact)])
    with NoHostReads():
        for step in range(2):
            model(tokens(step)).square().mean().backward()
            optimizer.step()
    with NoHostReads(), pytest.raises(AssertionError):
        torch.ones(()).item()
    assert len(probes.table("scores")) in (8, 16)
    probes.close()


class Failing(nn.Module):
    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.inner = HandWritten()
        self.error = error

    def forward(self, x: Tensor, fail: bool = False) -> Tensor:
        y = self.inner(x)
        if fail:
            raise self.error("no")
        return y


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_pass_that_raised_leaves_nothing_behind(error: type[BaseException]) -> None:
    model, x = Around(Failing(error)), activations(3, 8, 8)
    failing = model.inner
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradlab.attach(model, optimizer, probes=[AttentionScores()]) as probes:
        failing.forward = lambda x: Failing.forward(failing, x, fail=True)  # type: ignore[method-assign]
        with pytest.raises(error):
            model(x)
        if error is ValueError:
            assert torch._C._len_torch_function_stack() == 0
        del failing.forward
        model(x).sum().backward()
        assert torch._C._len_torch_function_stack() == 0
        optimizer.step()
        failing.forward = lambda x: Failing.forward(failing, x, fail=True)  # type: ignore[method-assign]
        with pytest.raises(error):
            model(x)
    assert torch._C._len_torch_function_stack() == 0
    assert hooks_of(model) == 0
    # What the last pass showed before it raised is kept, as a step that went no further.
    assert probes.table("scores").step.tolist() == [0, 0, 1, 1]
    assert probes.table("steps")["update"].tolist() == [1, 1]


class Other(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_modes_of_the_users_keep_their_place() -> None:
    model, x = Around(HandWritten()), activations(3, 8, 8)
    outer, hooked = Other(), Other()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradlab.attach(model, optimizer, probes=[AttentionScores()]) as probes, outer:
        # Put on above gradlab's, and taken off after it: the two cross.
        model.register_forward_pre_hook(lambda *_: torch._C._push_on_torch_function_stack(hooked))
        model.register_forward_hook(lambda *_: taken.append(torch._C._pop_torch_function_stack()))
        taken: list[Any] = []
        model(x).sum().backward()
        assert taken == [hooked]
        assert torch._C._len_torch_function_stack() == 1
        assert torch._C._get_function_stack_at(0) is outer
        optimizer.step()
    assert len(probes.table("scores")) == 2


def test_steps_that_are_not_looked_at_see_no_mode() -> None:
    model, x = Around(HandWritten()), activations(3, 8, 8)
    depths: list[int] = []
    model.inner.register_forward_hook(
        lambda *_: depths.append(torch._C._len_torch_function_stack())
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scores = AttentionScores(every=2)
    with gradlab.attach(model, optimizer, probes=[scores], events="sampled") as probes:
        for _ in range(3):
            model(x).sum().backward()
            optimizer.step()
    assert depths == [1, 0, 1]
    assert sorted(probes.table("scores").step.unique()) == [0, 2]


def test_a_submodule_called_by_itself_is_looked_into() -> None:
    model, x = Around(HandWritten()), activations(3, 8, 8)
    expected = highest(model.inner.scores(x)[0])
    table = record(model, lambda: model.inner(x))
    assert set(table.site) == {"inner"}
    assert table["max"].tolist() == pytest.approx(expected)


def test_a_model_can_be_copied_with_the_probe_on() -> None:
    model, x = Around(HandWritten()), activations(3, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradlab.attach(model, optimizer, probes=[AttentionScores()]) as probes:
        average = copy.deepcopy(model)
        average(x * 100)
        assert torch._C._len_torch_function_stack() == 0
        model(x).sum().backward()
        optimizer.step()
    expected = highest(model.inner.scores(x)[0])
    assert probes.table("scores")["max"].tolist() == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_part_that_is_compiled_still_compiles_whole() -> None:
    def attend(k: Tensor) -> Tensor:
        return F.softmax(k @ k.mT, -1) @ k

    class Compiled(HandWritten):
        def forward(self, x: Tensor) -> Tensor:
            return compiled(self.scores(x)[1])

    compiled = torch.compile(attend, backend="eager", fullgraph=True)
    model, x = Around(Compiled()), activations(3, 8, 8)
    outputs: list[Tensor] = []
    record(model, lambda: outputs.append(model(x)) or outputs[0])
    assert outputs[0].shape == (3, 2, 8, 4)


def test_a_compiled_model_is_refused() -> None:
    model = torch.compile(model_of("sdpa"), backend="eager")
    with pytest.raises(GradlabError, match="AttentionScores cannot see inside a compiled model"):
        gradlab.attach(model, probes=[AttentionScores()])


@pytest.mark.parametrize("attention", ["materialised", "sdpa"])
def test_autocast_is_seen_as_the_kernel_sees_it(attention: str) -> None:
    model = model_of(attention)
    with torch.no_grad():
        for parameter in model.blocks[0].attention.parameters():
            parameter.mul_(20)
    wide: list[Tensor] = []
    fused = torch.autocast("cpu", torch.bfloat16)

    def run() -> Tensor:
        with fused:
            return model(tokens())

    probe = AttentionScores(exact=True)
    seen = probe._on_fused

    def keep(caller: Any, call: Any) -> None:
        wide.extend([call.q, call.k])
        seen(caller, call)

    probe._on_fused = keep  # type: ignore[method-assign]
    assert not record(model, run, probe=probe).empty
    assert {x.dtype for x in wide} <= {torch.bfloat16}
    assert len(wide) == (4 if attention == "sdpa" else 0)
