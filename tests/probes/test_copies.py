"""A model copied or saved while probes are attached takes none of them along."""

import copy
import copyreg
import io
import pickle
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gradlab
from gradlab.errors import GradlabError, GradlabWarning
from gradlab.probes import GradientNorms, Headroom, OptimizerHealth


def deep_copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def saved_and_loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def trained(copied: Callable[[nn.Module], nn.Module] | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    pair = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[0], model[2])]
    probes = [GradientNorms(), Headroom(), OptimizerHealth()]
    with gradlab.attach(model, pair, probes=probes) as attached:
        for _ in range(3):
            model(torch.ones(2, 3)).square().sum().backward()
            if copied is not None:
                other = copied(model)
                other(torch.full((2, 3), 100.0)).sum().backward()
                assert_equal_weights(model, other)
                assert not hooks_of(other)
            for optimizer in pair:
                optimizer.step()
                optimizer.zero_grad()
    return attached.table("headroom"), attached.table("grad_norms")


def hooks_of(model: nn.Module) -> list[Any]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs")
    return [h for m in model.modules() for kind in kinds for h in getattr(m, kind).values()]


def assert_equal_weights(model: nn.Module, other: nn.Module) -> None:
    theirs: list[Tensor] = list(other.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), theirs, strict=True))


@pytest.mark.parametrize("copied", [deep_copied, saved_and_loaded])
def test_a_copy_is_not_recorded(copied: Callable[[nn.Module], nn.Module]) -> None:
    for found, expected in zip(trained(copied), trained(None), strict=True):
        pd.testing.assert_frame_equal(found, expected)


class Own(nn.Linear):
    """Makes its state itself."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "note": 1}


class Reduces(nn.Linear):
    """Makes its copies itself, of all that it has."""

    def __reduce__(self) -> Any:
        return copyreg.__newobj__, (type(self),), dict(self.__dict__)  # type: ignore[attr-defined]


class Copies(nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> "Copies":
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other


@pytest.mark.parametrize("kind", [nn.Linear, Own, Reduces, Copies])
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_copy_of_any_module_is_free_of_us(
    kind: type[nn.Linear], copied: Callable[[nn.Module], nn.Module]
) -> None:
    model = nn.Sequential(kind(2, 2), nn.ReLU())
    users: list[int] = []
    model[1].register_forward_hook(partial(Append.to, users))
    plain = {name: value for module in model.modules() for name, value in vars(module).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer) as attached:
        other = copied(model)
        again = copied(other)
        assert b"gradlab.probes" not in pickle.dumps(model)
        for one in (other, again) if copied is not copy.copy else ():
            one(torch.ones(1, 2)).sum().backward()
            assert len(hooks_of(one)) == (
                1 if kind not in (Reduces, Copies) else len(hooks_of(one))
            )
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert len(attached.table("headroom").query("direction == 'forward'")) == 2
    assert {n for module in model.modules() for n in vars(module)} == plain.keys()
    assert len(hooks_of(model)) == 1


class Append:
    """A hook of the user's, which stays with every copy."""

    @staticmethod
    def to(users: list[int], *_: Any) -> None:
        users.append(1)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("how", ["trace", "export", "export strict"])
def test_a_model_is_traced_and_exported_as_without_us(how: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.ones(2, 4)

    def traced() -> tuple[Any, str]:
        if how == "trace":
            found = torch.jit.trace(model, x)
            return found, str(found.graph)
        program = torch.export.export(model, (x,), strict=how == "export strict")
        return program.module(), str(program.graph)

    _, expected = traced()
    with gradlab.attach(model, optimizer) as attached:
        for _ in range(2):
            model(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            found, graph = traced()
            names = r"___torch_mangle_\d+\.|#.*"
            assert re.sub(names, "", graph) == re.sub(names, "", expected)
            assert torch.equal(found(x), model(x))
    assert len(attached.table("steps")) == 3  # the last forward passes are a step left unfinished
    rows = attached.table("headroom").query("step == 0 and direction == 'backward'")
    assert len(rows) == 3


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_the_scaler_is_a_plain_one(
    copied: Callable[[torch.amp.GradScaler], torch.amp.GradScaler],
) -> None:
    model, scaler = nn.Linear(2, 1), torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attributes = set(vars(scaler))
    with gradlab.attach(model, optimizer, scaler=scaler) as attached:
        other = copied(scaler)
        assert other.__dict__.keys() == attributes

        def step_with(each: torch.amp.GradScaler) -> None:
            each.scale(model(torch.ones(1, 2)).sum()).backward()
            each.step(optimizer)
            each.update()

        with pytest.warns(GradlabWarning, match="does not step this optimizer"):
            step_with(other)
        step_with(scaler)
    assert set(vars(scaler)) == attributes
    assert attached.table("steps")["loss_scale"].tolist() == [4.0, 4.0]


def test_complex_parameters_have_norms_and_no_headroom() -> None:
    class Rotation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.phase = nn.Parameter(torch.tensor([3 + 4j, 1j]))
            self.scale = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return (self.phase * self.scale(x)).abs()

    torch.manual_seed(0)
    model = Rotation()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer, probes=[GradientNorms(), Headroom()]) as probes:
        model(torch.ones(1, 2)).sum().backward()
        assert model.phase.grad is not None
        size = model.phase.grad.abs().sum().item()
        optimizer.step()
    norms = probes.table("grad_norms").set_index("param")
    assert norms.loc["phase", "grad_l1"] == pytest.approx(size, rel=1e-6)
    assert "phase" not in set(probes.table("headroom")["site"])


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
def test_a_model_is_scripted_before_and_after_and_refused_between() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, 2)
    with gradlab.attach(model, optimizer):
        with pytest.raises(GradlabError, match="before attach, or after close"):
            torch.jit.script(model)
        assert not hasattr(next(iter(model._forward_hooks.values())), "__name__")
    torch.testing.assert_close(torch.jit.script(model)(x), model(x))
