import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradlab.models.build import build_model
from gradlab.models.loss import token_loss
from gradlab.models.presets import model_config
from gradlab.models.transformer import Transformer
from gradlab.precision.emulation import emulated_fp16
from gradlab.probes.engine.follower import LoopFollower
from gradlab.probes.headroom.overflows import overflows
from gradlab.probes.headroom.probe import Headroom
from gradlab.probes.sites import SiteStep
from gradlab.probes.subject import subject_of


def model_of(arch: str = "pre-ln", seed: int = 0, **overrides: Any) -> Transformer:
    shape = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32, "max_seq_len": 8}
    return build_model(model_config(arch, "nano", **{**shape, **overrides}), seed=seed)


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(256, (3, 9), generator=torch.Generator().manual_seed(seed))
    return tokens[:, :-1], tokens[:, 1:]


def pass_through(model: nn.Module, scale: float = 1.0, data: int = 0) -> None:
    inputs, targets = batch(data)
    with emulated_fp16():
        with torch.autocast("cpu", torch.float16):
            logits = model(inputs)
        (scale * token_loss(logits, targets)).backward()


def observe(
    model: nn.Module,
    scale: float = 1.0,
    every: int = 1,
    step: int = 0,
    batches: tuple[int, ...] = (0,),
) -> SiteStep:
    probe = Headroom(sample=every, count=every)
    follower = LoopFollower(subject_of(model, ()), [probe])
    for _ in range(step):
        follower.end_step()
    for data in batches:
        pass_through(model, scale, data)
    follower.end_step()
    follower.close()
    list(follower.collect())
    assert probe.latest is not None
    return probe.latest.sites


def obvious(model: nn.Module, scale: float) -> dict[tuple[str, str], Tensor]:
    """Every site's tensor, kept whole by the plainest hooks."""
    kept: dict[tuple[str, str], Tensor] = {}
    outputs: list[Tensor] = []
    handles = []
    for name, module in model.named_modules():
        if name:

            def hook(module: nn.Module, args: Any, output: Tensor, name: str = name) -> None:
                if any(output is earlier for earlier in outputs):  # a part's, passed on
                    return
                outputs.append(output)
                kept[name, "forward"] = output.detach().clone()
                if output.requires_grad:
                    output.register_hook(lambda g: kept.__setitem__((name, "backward"), g.clone()))

            handles.append(module.register_forward_hook(hook))
    pass_through(model, scale)
    for name, parameter in model.named_parameters():
        kept[name, "backward"] = parameter.grad.clone()
    for handle in handles:
        handle.remove()
    model.zero_grad()
    return kept


@pytest.mark.parametrize("arch", ["post-ln", "pre-ln", "normformer-resscale"])
@pytest.mark.parametrize("every", [1, 1000])
def test_every_site_is_the_obvious_computation(arch: str, every: int) -> None:
    model = model_of(arch)
    kept = obvious(model, 64.0)
    seen = observe(model, 64.0, every=every, step=0 if every == 1 else 1)
    assert {(p.site, p.direction) for p in seen.places} == set(kept)
    for index, place in enumerate(seen.places):
        values = kept[place.site, place.direction].double()
        if place.site.endswith("scores"):
            values = values[..., torch.ones(8, 8).tril().bool()]
        assert seen.entries[index] == values.numel()
        assert seen.max_abs(index) == values.abs().max().item()
        assert seen.finite(index)
        assert (index in seen.details) == seen.sampled
        if seen.sampled:
            counted = seen.details[index]
            assert counted.nonzero == (values != 0).sum()
            assert counted.subnormal == ((values != 0) & (values.abs() < 2**-14)).sum()


def test_the_dtype_is_that_of_the_product() -> None:
    seen = observe(model_of())
    dtypes = {(p.site, p.direction): p.dtype for p in seen.places}
    assert dtypes["blocks.0.attention.scores", "forward"] is torch.float16
    assert dtypes["blocks.0.ffn_residual", "forward"] is torch.float32
    assert dtypes["blocks.0.feed_forward.fc2.weight", "backward"] is torch.float16
    assert dtypes["blocks.0.ffn_norm.weight", "backward"] is torch.float32
    assert dtypes["embed.weight", "backward"] is torch.float32  # tied: a sum of two gradients


def test_a_gradient_summed_over_micro_batches_is_no_fp16_tensor() -> None:
    seen = observe(model_of(), batches=(0, 1))
    dtypes = {(p.site, p.direction): p.dtype for p in seen.places}
    assert dtypes["blocks.0.feed_forward.fc2.weight", "backward"] is torch.float32
    assert dtypes["blocks.0.feed_forward.fc2", "backward"] is torch.float16


def test_masked_scores_do_not_count() -> None:
    model = model_of()

    def overflow_above_the_diagonal(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output.masked_fill(torch.ones(8, 8).triu(1).bool(), math.inf)

    handle = model.blocks[0].attention.scores.register_forward_hook(
        overflow_above_the_diagonal, prepend=True
    )
    seen = observe(model)
    handle.remove()
    assert overflows(seen) == []


def test_nothing_is_seen_off_cadence_or_without_gradients() -> None:
    model = model_of()
    probe = Headroom(every=lambda step: step == 1)
    follower = LoopFollower(subject_of(model, ()), [probe])
    pass_through(model)
    follower.end_step()
    with torch.no_grad():
        model(batch()[0])
    follower.end_step()
    follower.close()
    assert [step.tables for step in follower.collect()] == [(), ()]


def test_micro_batches_merge() -> None:
    model = model_of()
    single = []
    for data in (0, 1):
        single.append(observe(model, batches=(data,)))
        model.zero_grad()
    both = observe(model, batches=(0, 1))
    index = next(i for i, p in enumerate(both.places) if p.site == "blocks.1.attention.scores")
    assert both.max_abs(index) == max(seen.max_abs(index) for seen in single)
    assert both.entries[index] == sum(seen.entries[index] for seen in single)
    assert both.details[index].nonzero == sum(seen.details[index].nonzero for seen in single)


FAULTS = [
    ("blocks.0.attention.q.weight", "blocks.0.attention.q"),
    ("blocks.1.attention.v.weight", "blocks.1.attention.v"),
    ("blocks.1.attention.out.weight", "blocks.1.attention.out"),
    ("blocks.0.feed_forward.fc1.weight", "blocks.0.feed_forward.fc1"),
    ("blocks.1.feed_forward.fc2.weight", "blocks.1.feed_forward.fc2"),
]


@pytest.mark.parametrize(("parameter", "site"), FAULTS)
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))]
)
def test_the_producer_is_the_site_whose_weight_was_scaled(
    parameter: str, site: str, seed: int
) -> None:
    model = model_of(seed=seed)
    with torch.no_grad():
        weight = model.get_parameter(parameter)
        weight *= 3e4 / weight.abs().max()  # the weight fits FP16; its products do not
    events = overflows(observe(model))
    assert events[0].producer == site
    assert not any(event.producer for event in events[1:])


def test_a_loss_scale_that_is_too_large_overflows_in_the_backward_pass() -> None:
    events = overflows(observe(model_of(), scale=2.0**40))
    assert events[0].place.direction == "backward"
    assert events[0].place.site == "unembed"
    assert events[0].kind == "inf"


def test_sites_are_the_modules_that_compute() -> None:
    names = [place.site for place in observe(model_of("normformer")).places]
    assert "blocks.0.attention" not in names  # passes on what its output projection gave
    assert "blocks.1.attention.softmax" in names
    assert "blocks.0.attn_out_norm" in names
    assert "blocks.0.attn_residual" in names
