"""What a model has learned to multiply by: γ of its norms, head scales, λ_resid, LayerScale, α."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradlab.errors import GradlabError
from gradlab.parallel.spread import whole
from gradlab.probes.cadence import Cadence, log_spaced
from gradlab.probes.probe import Probe, Reading, Subject
from gradlab.probes.roles import role
from gradlab.probes.selection import Patterns, select

_SCALE_NAMES = frozenset(
    {
        *("gamma", "gamma_1", "gamma_2", "lambda_1", "lambda_2", "lambda1", "lambda2"),
        *("lambda_resid", "w_resid", "head_scale", "c_attn", "layer_scale", "layerscale"),
        *("layer_scale_1", "layer_scale_2", "ls1", "ls2", "resweight", "alpha_ffn", "alpha_attn"),
    }
)
"""Names under which models keep a learned factor that stands in no norm, fairseq's among them."""


class LearnedScales(Probe):
    """Every entry of every learned scale, at the value with which the step was computed.

    Found by kind of module (LayerNorm, RMSNorm under any name that says so, group and batch
    norms, DyT with its α), and by the usual names of what scales outside a norm: head scales,
    λ_resid, LayerScale.

    Args:
        params: Patterns over the parameters' names, instead of finding them.
        every: Cadence; steps evenly spaced on a logarithmic axis if None.
    """

    table = "scales"
    exact = True

    def __init__(self, params: Patterns | None = None, *, every: Cadence | None = None) -> None:
        self.every = log_spaced() if every is None else every
        self._patterns = params

    def open(self, subject: Subject) -> Iterable[RemovableHandle]:
        """Find the scales.

        Raises:
            GradlabError: There are none.
        """
        if self._patterns is None:
            found = learned_scales(subject)
            if not found:
                raise GradlabError(
                    "no learned scale was found in this model: name the parameters, "
                    "LearnedScales('*.my_scale')."
                )
        else:
            found = select(subject.parameters, self._patterns, "parameters")
        self._scales = {name: scale for name, scale in found.items() if not scale.is_complex()}
        self._labels: dict[str, list[object]] = {"param": [], "layer": [], "op": [], "index": []}
        for name, parameter in self._scales.items():
            layer, op = role(name)
            row = {"param": name, "layer": layer, "op": op}
            for column, label in row.items():
                self._labels[column] += [label] * parameter.numel()
            self._labels["index"] += range(parameter.numel())
        return ()

    def begin(self, step: int) -> None:
        """Forget the last step's."""
        self._values: Tensor | None = None

    def after_backward(self, changed: Mapping[str, nn.Parameter], loss_scale: Tensor) -> None:
        """Copy the values, once a step, before an optimizer changes them."""
        if self._values is not None:
            return
        values = [whole(scale.detach()).reshape(-1) for scale in self._scales.values()]
        self._values = torch.cat([value.to(values[0].device) for value in values]).double()

    def after_step(self) -> Reading | None:
        """A row for each entry; none if the step had no backward pass."""
        return None if self._values is None else Reading(self._labels, {"value": self._values})


def learned_scales(subject: Subject) -> dict[str, Tensor]:
    """A model's trainable scales by name, in the model's order.

    What is only named as a scale is one if it is a vector: GPT-2 calls a matrix `c_attn`, too.
    """
    norms = {
        id(scale)
        for module in subject.modules.values()
        if _is_norm(module)
        for name in ("weight", "alpha")
        if isinstance(scale := getattr(module, name, None), nn.Parameter)
    }
    return {
        name: parameter
        for name, parameter in subject.parameters.items()
        if id(parameter) in norms
        or (_is_named_as_scale(name) and parameter.numel() == max(parameter.shape, default=1))
    }


def _is_norm(module: nn.Module) -> bool:
    kind = type(module).__name__.lower()
    return kind.endswith(("norm", "dynamictanh", "dyt")) or (
        "norm" in kind
        and isinstance(weight := getattr(module, "weight", None), Tensor)
        and weight.dim() == 1
    )


def _is_named_as_scale(name: str) -> bool:
    last = [part for part in name.split(".") if part != "weight"][-1:]
    return bool(last) and (last[0] in _SCALE_NAMES or name.split(".")[-1] == "gamma")
