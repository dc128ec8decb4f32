"""What makes a run repeatable on its device, and that nothing of it stays behind."""

import os
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from devices import DEVICES

from gradlab.config import PrecisionConfig
from gradlab.errors import ConfigError
from gradlab.training.device import check_format, repeatable

VARIABLE = "CUBLAS_WORKSPACE_CONFIG"


def settings() -> tuple[Any, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_repeats_and_nothing_stays_behind(device: str) -> None:
    before = settings()
    draws = []
    for seed in (1, 1, 2):
        states = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
        with repeatable(torch.device(device), seed):
            draws.append([torch.rand(3, device=on).tolist() for on in ("cpu", device)])
            if device == "cuda":
                assert settings() == (True, False, False)
                assert all(
                    torch.equal(now, states[2 + at])
                    for at, now in enumerate(torch.cuda.get_rng_state_all()[1:])
                )
        after = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
        assert all(map(torch.equal, states, after))
        assert settings() == before
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("device", DEVICES)
def test_an_error_leaves_nothing_behind(device: str) -> None:
    before = settings()
    with pytest.raises(KeyError), repeatable(torch.device(device), 0):
        raise KeyError
    assert settings() == before


@pytest.mark.parametrize("given", [None, ":16:8"])
def test_importing_gradlab_lets_cublas_repeat_unless_the_user_has_said_how(
    given: str | None,
) -> None:
    others = {name: value for name, value in os.environ.items() if name != VARIABLE}
    code = f"import gradlab, os, sys; print(os.environ['{VARIABLE}'], 'torch' in sys.modules)"
    env = others | ({} if given is None else {VARIABLE: given})
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [given or ":4096:8", "False"]


LATE = """
import torch
one = torch.ones(2, 2, device="cuda")
one @ one
from gradlab.errors import GradlabError
from gradlab.training.device import repeatable
try:
    with repeatable(torch.device("cuda"), 0):
        one @ one
except GradlabError as error:
    print(error)
print(torch.are_deterministic_algorithms_enabled())
"""


@pytest.mark.gpu
def test_what_was_multiplied_before_the_import_is_named_where_it_does_harm() -> None:
    """Torch 2.11 with CUDA 13.0 goes on; one that has looked for the variable by then does not."""
    others = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", LATE], env=others, capture_output=True, text=True, check=True
    )
    *refused, left = done.stdout.splitlines()
    assert all(VARIABLE in sentence for sentence in refused)
    assert left == "False"


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)])
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_bf16_is_refused_on_a_gpu_made_before_it(
    capability: tuple[int, int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an older one")
    refused = name == "bf16" and capability < (8, 0)
    with pytest.raises(ConfigError, match=r"an older one has 7\.5") if refused else nullcontext():
        check_format(PrecisionConfig(name=name), torch.device("cuda"))
    check_format(PrecisionConfig(name=name), torch.device("cpu"))
