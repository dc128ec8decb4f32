import tomllib
from pathlib import Path
from typing import Any

import pytest

from gradlab.config import (
    DataConfig,
    OptimizerConfig,
    PrecisionConfig,
    RecordConfig,
    RunConfig,
    ScheduleConfig,
    StabilityConfig,
)
from gradlab.errors import GradlabError
from gradlab.models.config import ModelConfig
from gradlab.models.presets import at_width, model_config
from gradlab.settings import OneRun
from gradlab.studies import Ablation, Stability
from gradlab.studies.run import check_jobs, default_jobs


def test_table_7_is_half_a_million_tokens_an_update() -> None:
    file = Path(__file__).parents[2] / "docs" / "studies" / "table-7.toml"
    study = Ablation(**tomllib.loads(file.read_text()))
    for config in study.configs():
        assert config.tokens_per_step == 524_288
        assert config.model.d_model == 768
        assert (config.lr(499), config.lr(250)) == (3e-3, 3e-3 * 251 / 500)
        assert config.steps == 100_000
        assert (config.optimizer.beta2, config.optimizer.clip_norm) == (0.98, None)


def test_the_default_study_is_the_papers_test_at_nano() -> None:
    configs = Stability().configs()
    keys = [(config.seed, config.arch) for config in configs]
    assert keys == [
        (seed, arch)
        for seed in range(3)
        for arch in ("pre-ln", "normformer", "normformer-resscale")
    ]
    for config in configs:
        assert config == RunConfig(
            arch=config.arch,
            size="nano",
            model=model_config(config.arch, "nano"),
            schedule=ScheduleConfig(kind="ramp", lr_step=5e-5),
            steps=4000,
            seed=config.seed,
            batch_size=8,
            precision=PrecisionConfig(name="fp16"),
            record=RecordConfig(probes=("headroom",)),
        )
    assert configs[0].model.attention == "materialised"
    assert configs[0].optimizer == OptimizerConfig(
        beta1=0.9, beta2=0.98, eps=1e-8, weight_decay=0.01, clip_norm=None
    )


def test_a_study_is_a_product_with_the_architectures_of_a_seed_together() -> None:
    options = Stability(
        arch=["post-ln", "pre-ln"], size=["nano", "mini"], lr_step=[1e-4, 2e-4], seeds=2
    )
    configs = options.configs()
    keys = [(c.size, c.schedule.lr_step, c.seed, c.arch) for c in configs]
    assert keys == [
        (size, ramp, seed, arch)
        for size in ("nano", "mini")
        for ramp in (1e-4, 2e-4)
        for seed in (0, 1)
        for arch in ("post-ln", "pre-ln")
    ]
    assert {(c.size, c.steps) for c in configs} == {("nano", 4000), ("mini", 3000)}


def test_widths_name_sizes_that_differ_in_width_alone() -> None:
    options = Stability(arch=["normformer"], width=[64, 128, 768], seeds=1)
    configs = {config.size: config for config in options.configs()}
    assert list(configs) == ["nano", "nano-d128", "nano-d768"]
    assert configs["nano"].model == model_config("normformer", "nano")
    for width in (128, 768):
        config = configs[f"nano-d{width}"]
        assert config.model == model_config(
            "normformer", **{"size": "nano", **at_width("nano", width)}
        )
        assert config.steps == 4000
    assert configs["nano-d768"].model.n_heads == 12


def test_a_size_may_carry_its_width() -> None:
    by_label = Stability(size=["micro-d256"], seeds=1).configs()
    by_option = Stability(size=["micro"], width=[256], seeds=1).configs()
    assert by_label == by_option


def test_the_cap_can_be_set_and_is_lower_at_the_papers_sizes() -> None:
    assert Stability(size=["125M"]).configs()[0].steps == 2000
    assert Stability(size=["125M"], steps=7).configs()[0].steps == 7


def test_names_given_twice_count_once() -> None:
    options = Stability(arch=["pre-ln", "pre-ln"], width=[64, 64], lr_step=[1e-4, 1e-4], seeds=1)
    assert len(options.configs()) == 1


SWITCHES: dict[str, Any] = {
    "n_layers": 3,
    "n_heads": 2,
    "d_ff": 100,
    "vocab_size": 300,
    "objective": "masked",
    "max_seq_len": 32,
    "placement": "post",
    "norm": "rmsnorm",
    "head_scale": "output",
    "attn_out_norm": False,
    "ffn_mid_norm": False,
    "qkv_norm": True,
    "res_scale": "both",
    "activation": "relu2",
    "positions": "learned",
    "dropout": 0.1,
    "attention": "sdpa",
    "ffn_out_norm": True,
    "embed_norm": True,
    "qk_norm": "heads",
    "ln_scaling": True,
    "skip_scale": "deepnorm",
    "branch_scale": "layerscale",
    "stochastic_depth": 0.2,
    "weight_standardisation": True,
    "score_cap": 50.0,
    "logit_cap": 30.0,
    "init": "gpt2",
}
TOGETHER: dict[str, dict[str, Any]] = {"skip_scale": {"placement": "post"}}
"""Switch → what else it needs."""


@pytest.mark.parametrize("name", SWITCHES)
def test_each_switch_overrides_the_architecture(name: str) -> None:
    value = SWITCHES[name]
    switches = {name: value, **TOGETHER.get(name, {})}
    config = Stability(arch=["normformer"], **switches).configs()[0]
    assert config.model == model_config("normformer", "nano", **switches)
    assert getattr(config.model, name) == value


def test_every_field_of_a_model_is_an_option() -> None:
    assert {*SWITCHES, "d_model"} == set(ModelConfig.model_fields)


PARTS: dict[str, Any] = {
    "optimizer": OptimizerConfig(
        beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.1, clip_norm=0.5, z_loss=1e-4
    ),
    "precision": PrecisionConfig(
        name="fp16-pure",
        master_weights=False,
        initial_loss_scale=128.0,
        growth_factor=4.0,
        backoff_factor=0.25,
        growth_interval=100,
    ),
    "stability": StabilityConfig(patience=3, loss_scale_floor=1e-3, ema_decay=0.5, margin=2.0),
    "data": DataConfig(corpus="text.txt", tokenizer="words.json", held_out=0.1),
    "record": RecordConfig(
        window=7,
        probes=("scales",),
        every=3,
        events="sampled",
        checkpoint_every=9,
        keep_weights=True,
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_every_field_of_the_other_parts_is_an_option(name: str) -> None:
    part = PARTS[name]
    given = part.model_dump()
    default = type(part)()
    assert all(given[field] != getattr(default, field) for field in given), "a field is not tried"
    if name == "precision":
        given["precision"] = given.pop("name")
    for config in (Stability(**given).configs()[0], OneRun(**given).config()):
        assert getattr(config, name) == part


def test_a_single_run() -> None:
    options = OneRun(
        arch="post-ln",
        width=128,
        seed=4,
        steps=50,
        lr=3e-3,
        schedule="cosine",
        warmup=5,
        val_every=10,
        val_batches=2,
        accumulation=3,
        device="cpu",
        keep_going=True,
    )
    config = options.config()
    assert config == RunConfig(
        arch="post-ln",
        size="nano-d128",
        model=model_config("post-ln", **{"size": "nano", **at_width("nano", 128)}),
        schedule=ScheduleConfig(kind="cosine", lr=3e-3, warmup_steps=5),
        steps=50,
        seed=4,
        accumulation=3,
        val_every=10,
        val_batches=2,
        device="cpu",
        precision=PrecisionConfig(name="fp32"),
        stop_when_destabilised=False,
    )


def test_a_single_run_has_a_rate_unless_it_is_a_ramp() -> None:
    assert OneRun(device="cpu").config().schedule.lr == 1e-3
    ramp = OneRun(device="cpu", schedule="ramp", lr_step=1e-4).config().schedule
    assert ramp == ScheduleConfig(kind="ramp", lr_step=1e-4)


def test_precision_auto_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from gradlab.training import device

    assert OneRun(device="cpu").config().precision.name == "fp32"
    monkeypatch.setattr(device, "resolve_device", lambda _: torch.device("cuda"))
    assert OneRun().config().precision.name == "bf16"
    assert Stability().configs()[0].precision.name == "fp16"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"arch": ["normfomer"]}, "unknown architecture 'normfomer': did you mean 'normformer'"),
        ({"objective": "mlm"}, "unknown objective 'mlm'"),
        ({"size": ["nanno"]}, "unknown size 'nanno': did you mean 'nano'"),
        ({"size": ["nanno-d128"]}, "unknown size 'nanno': did you mean 'nano'"),
        ({"size": ["nano-d128"], "width": [64]}, "names its width: give no other"),
        ({"width": [130]}, "d_model = 130, is not divisible by n_heads = 4"),
        ({"lr_step": [0.0]}, "lr_step = 0.0 should be greater than 0"),
        ({"lr_step": [-1e-4]}, "lr_step = -0.0001 should be greater than 0"),
        ({"lr_step": [float("nan")]}, "lr_step = nan should be"),
        ({"lr_step": [float("inf")]}, "lr_step = inf should be"),
        ({"n_heads": 5}, "not divisible by n_heads = 5"),
        ({"precision": "fp17"}, "unknown precision 'fp17': did you mean 'fp16'"),
        ({"activation": "gelo"}, "did you mean 'gelu'"),
        ({"seeds": 0}, "seeds = 0: a study needs at least one seed"),
        ({"steps": 0}, "steps = 0 should be"),
        ({"master_weights": False}, "needs precision fp16-pure"),
        ({"dropout": 1.5}, "dropout = 1.5 should be"),
    ],
)
def test_what_cannot_be_planned_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GradlabError, match=sentence):
        Stability(**given).configs()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"schedule": "cosin"}, "unknown schedule 'cosin': did you mean 'cosine'"),
        ({"schedule": "ramp"}, "a ramp needs lr_step"),
        ({"lr": 0.0}, "lr = 0.0 should be greater than 0"),
        ({"lr_step": 1e-4}, "lr_step belongs to the ramp"),
    ],
)
def test_a_run_that_cannot_be_planned_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GradlabError, match=sentence):
        OneRun(device="cpu", **given).config()


def test_jobs() -> None:
    assert check_jobs(None, "cpu") == default_jobs() >= 1
    assert check_jobs(None, "cuda") == 1
    assert check_jobs(5, "cuda") == 5
    with pytest.raises(GradlabError, match="jobs = 0"):
        check_jobs(0, "cpu")
