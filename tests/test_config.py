import math
from collections.abc import Callable
from typing import Any

import pytest

import gradlab
from gradlab.config import PrecisionConfig, RunConfig, ScheduleConfig
from gradlab.errors import ConfigError, unknown
from gradlab.models.config import ModelConfig

SHAPE = {"d_model": 8, "n_layers": 2, "n_heads": 2, "d_ff": 16, "max_seq_len": 4}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"stochastic_depth": 1.0}, "stochastic_depth = 1.0 should be less than 1"),
    ({"stochastic_depth": -0.1}, "greater than or equal to 0"),
    ({"score_cap": 0.0}, "score_cap = 0.0 should be greater than 0"),
    ({"score_cap": 50.0, "attention": "sdpa"}, "score_cap needs attention = 'materialised'"),
    ({"qkv_norm": True, "qk_norm": "heads"}, "choose one"),
    ({"ln_scaling": True, "placement": "post"}, "ln_scaling divides the norm before a sublayer"),
    ({"skip_scale": "deepnorm"}, "needs placement = 'post'"),
    (
        {"skip_scale": "deepnorm", "placement": "post", "res_scale": "ffn"},
        "both weigh the skip: choose one",
    ),
    ({"branch_scale": "rezero"}, "takes the norms' place"),
    (
        {"branch_scale": "rezero", "placement": "none", "ffn_out_norm": True},
        "takes the norms' place",
    ),
    ({"init": "admin", "res_scale": "both"}, "weighs a skip that a norm follows"),
    ({"init": "admin", "placement": "post", "res_scale": "ffn"}, "res_scale = 'both'"),
    ({"placement": "sandwich"}, "unknown placement 'sandwich'"),
]


def run_of(steps: int = 10, **schedule: Any) -> RunConfig:
    model = ModelConfig(**SHAPE)
    return RunConfig(
        arch="pre-ln", size="tiny", model=model, schedule=ScheduleConfig(**schedule), steps=steps
    )


def rates(config: RunConfig) -> list[float]:
    return [config.lr(step) for step in range(config.steps)]


def test_the_ramp_rises_by_lr_step_from_zero() -> None:
    assert rates(run_of(kind="ramp", lr_step=5e-5)) == [step * 5e-5 for step in range(10)]


def test_a_run_that_validates_does_so_after_its_last_step_too() -> None:
    def validated(every: int) -> list[int]:
        config = run_of(lr=1e-3).replace(val_every=every)
        return [step for step in range(10) if config.validates_after(step)]

    assert validated(0) == []
    assert validated(4) == [3, 7, 9]
    assert validated(5) == [4, 9]
    assert validated(99) == [9]


def test_constant_after_a_linear_warm_up() -> None:
    config = run_of(kind="constant", lr=1.0, warmup_steps=4)
    assert rates(config) == [0.25, 0.5, 0.75, 1.0, *[1.0] * 6]


def test_linear_decay_ends_at_zero() -> None:
    config = run_of(kind="linear", lr=1.0, warmup_steps=5)
    assert rates(config) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0])


def test_cosine_decay_is_half_a_cosine() -> None:
    expected = [0.5 * (1 + math.cos(math.pi * step / 9)) for step in range(10)]
    assert rates(run_of(kind="cosine", lr=1.0)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ModelConfig(**{**SHAPE, "d_model": 10, "n_heads": 4}), "not divisible"),
        (lambda: ModelConfig(**{**SHAPE, "placemnt": "pre"}), "did you mean 'placement'"),
        (lambda: ModelConfig(**SHAPE, placement="prep"), "did you mean 'pre'"),
        (lambda: ModelConfig(**{**SHAPE, "n_layers": 0}), "n_layers = 0 should be greater than"),
        (lambda: ModelConfig(**{"d_model": 8}), "needs n_layers"),
        (lambda: ModelConfig(**SHAPE, dropout=1.5), "dropout = 1.5 should be less than 1"),
        *(
            (lambda fields=fields: ModelConfig(**SHAPE, **fields), sentence)
            for fields, sentence in REFUSED
        ),
        (
            lambda: run_of(lr=1.0).replace(
                batch_size=1, model=ModelConfig(**{**SHAPE, "max_seq_len": 1}, norm="batchnorm")
            ),
            "one token has none",
        ),
        (lambda: ScheduleConfig(kind="ramp"), "needs lr_step"),
        (lambda: ScheduleConfig(kind="ramp", lr_step=0.0), "greater than 0"),
        (lambda: ScheduleConfig(kind="ramp", lr_step=math.inf), "finite"),
        (lambda: ScheduleConfig(kind="ramp", lr_step=math.nan), "finite"),
        (lambda: ScheduleConfig(kind="ramp", lr_step=1e-4, lr=1.0), "lr_step alone"),
        (lambda: ScheduleConfig(kind="linear"), "needs lr"),
        (lambda: ScheduleConfig(lr=1.0, lr_step=1.0), "belongs to the ramp"),
        (lambda: PrecisionConfig(name="fp16", master_weights=False), "fp16-pure"),
        (lambda: PrecisionConfig(name="fp8"), "unknown name 'fp8'"),
        (lambda: run_of(kind="ramp", lr_step=1e-4).replace(model={"d_model": 8}), "needs n_layers"),
    ],
)
def test_a_mistake_is_one_sentence(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_config_cannot_be_changed() -> None:
    config = ModelConfig(**SHAPE)
    with pytest.raises(Exception, match="frozen"):
        config.d_model = 16
    assert config.replace(d_model=16).d_model == 16
    assert config.d_model == 8


def test_an_unknown_name_without_a_neighbour_lists_what_there_is() -> None:
    assert unknown("size", "xyz", ["nano", "micro"]) == "unknown size 'xyz'. Known: nano, micro."


@pytest.mark.parametrize(("given", "near"), [("warmpu", "'warmup'"), ("zzz", None)])
def test_an_unknown_setting_names_its_neighbours_alone(given: str, near: str | None) -> None:
    with pytest.raises(ConfigError) as raised:
        gradlab.train("pre-ln", "nano", **{given: 1})
    said = str(raised.value)
    assert near is None or near in said
    assert "gradlab train --help-all" in said
    assert len(said) < 120
    assert "OneRun" not in said
