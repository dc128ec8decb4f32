"""A run's model as torch.compile makes it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gradlab.errors import ConfigError, GradlabError
from gradlab.probes.probe import Probe


def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A model's forward pass by torch.compile's kernels, which round where its operations would.

    Left to itself the compiler drops a cast to fp16 and back, and with it the overflow that is
    looked for. Graphs are made anew: one that was made for another run has its probes in it.
    """
    torch._dynamo.reset()
    return torch.compile(model, dynamic=False, options={"emulate_precision_casts": True})


def check_probes(probes: Sequence[Probe]) -> None:
    """Refuse to compile a model with probes that cannot see inside.

    Raises:
        ConfigError: There is one.
    """
    for probe in probes:
        if probe.looks_inside:
            raise ConfigError(
                f"{type(probe).__name__} cannot see inside a compiled model: leave out compile, or "
                "this probe."
            )


@contextmanager
def compiler_in_words() -> Iterator[None]:
    """Say what to do where torch.compile fails within.

    Raises:
        GradlabError: It did: there is no C++ compiler, or it cannot make the model's code.
    """
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = str(error).strip().partition("\n")[0]
        raise GradlabError(
            f"torch.compile failed ({reason}): train without compile, or see that a C++ compiler "
            "(g++) is installed."
        ) from error
