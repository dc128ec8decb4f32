"""Names → configs: the paper's parameter counts, overrides, and what a wrong name says."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.errors import ConfigError
from gradlab.models.build import build_model
from gradlab.models.config import ModelConfig
from gradlab.models.presets import (
    ABLATIONS,
    ARCHITECTURES,
    SIZES,
    at_width,
    base_size,
    model_config,
    size_labels,
)

# The paper's Table 2, to the last digit.
COUNTS = {
    ("125M", "pre-ln"): 124_377_600,
    ("125M", "normformer"): 124_469_904,
    ("125M", "normformer-resscale"): 124_479_120,
    ("355M", "pre-ln"): 354_740_224,
    ("355M", "normformer"): 354_986_368,
    ("355M", "normformer-resscale"): 355_010_944,
    ("1.3B", "pre-ln"): 1_313_460_224,
    ("1.3B", "normformer"): 1_313_952_512,
    ("1.3B", "normformer-resscale"): 1_314_001_664,
    ("2.7B", "pre-ln"): 2_648_724_480,
    ("2.7B", "normformer"): 2_649_544_704,
    ("2.7B", "normformer-resscale"): 2_649_626_624,
}


def count(arch: str, size: str, **overrides: object) -> int:
    model = build_model(model_config(arch, size, **overrides), device="meta")
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("size", "arch"), COUNTS)
def test_parameter_counts_are_the_papers(size: str, arch: str) -> None:
    assert count(arch, size) == COUNTS[size, arch]


@pytest.mark.parametrize("size", ["nano", "micro", "mini", "125M"])
def test_what_each_operation_adds_in_closed_form(size: str) -> None:
    shape = SIZES[size]
    n_layers, d, n_heads = shape["n_layers"], shape["d_model"], shape["n_heads"]
    base = count("pre-ln", size)
    assert count("normformer", size) - base == n_layers * (10 * d + n_heads)
    assert count("pre-ln-resscale", size) - base == n_layers * d
    assert base - count("post-ln", size) == 2 * d  # no final norm
    assert count("pre-ln", size, qkv_norm=True) - base == n_layers * 6 * d
    assert count("pre-ln", size, res_scale="both-scalar") - base == n_layers * 2


@pytest.mark.parametrize("size", [*SIZES, "nano-d768"])
def test_the_wide_pre_ln_has_normformers_parameters(size: str) -> None:
    config = model_config("pre-ln-wide", size)
    assert config.replace(d_ff=4 * config.d_model) == model_config("pre-ln", size)
    difference = count("normformer", size) - count("pre-ln-wide", size)
    assert difference == config.n_layers * (config.n_heads - 5)
    assert abs(difference) < 0.02 * (count("normformer", size) - count("pre-ln", size))
    assert model_config("pre-ln-wide", size, d_ff=64).d_ff == 64


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("size", SIZES)
def test_every_name_makes_a_config(arch: str, size: str) -> None:
    config = model_config(arch, size)
    assert config.d_ff == 4 * config.d_model
    assert config == ModelConfig(**SIZES[size], **ARCHITECTURES[arch])


def test_the_four_operations_of_each_architecture() -> None:
    def switches(arch: str) -> tuple[object, ...]:
        config = model_config(arch, "nano")
        return config.head_scale, config.attn_out_norm, config.ffn_mid_norm, config.res_scale

    assert switches("post-ln") == switches("pre-ln") == ("none", False, False, "none")
    assert switches("normformer") == ("heads", True, True, "none")
    assert switches("normformer-resscale") == ("heads", True, True, "ffn")
    assert switches("pre-ln-resscale") == ("none", False, False, "ffn")


def test_an_ablation_is_all_operations_but_for_one() -> None:
    everything = model_config("normformer-resscale", "nano").model_dump()
    changes = {
        name: dict(model_config(name, "nano").model_dump().items() - everything.items())
        for name in ABLATIONS
    }
    assert changes == {
        "minus-post-attn-ln": {"attn_out_norm": False},
        "minus-ffn-ln": {"ffn_mid_norm": False},
        "minus-head-scale": {"head_scale": "none"},
        "plus-3-more-ln": {"qkv_norm": True},
    }


def test_overrides_win() -> None:
    config = model_config("normformer", "125M", vocab_size=50_257, head_scale="output", d_ff=1000)
    assert (config.vocab_size, config.head_scale, config.d_ff) == (50_257, "output", 1000)
    assert config.attn_out_norm


_WIDTHS = "an even number from 2 to 999,998"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: model_config("normfomer", "nano"), "did you mean 'normformer'"),
        (lambda: model_config("pre-ln", "125"), "did you mean '125M'"),
        (lambda: model_config("pre-ln", "nano", dmodel=3), "did you mean 'd_model'"),
        (lambda: model_config("pre-ln", "nano", n_heads=5), "not divisible by n_heads = 5"),
        (lambda: at_width("nanno", 64), "did you mean 'nano'"),
        (lambda: model_config("pre-ln", "nanno-d128"), "did you mean 'nano'"),
        (lambda: model_config("pre-ln", "nano-d128-d64"), "unknown size 'nano-d128'"),
        (lambda: model_config("pre-ln", "nano-d0"), "unknown size 'nano-d0'"),
        (lambda: model_config("pre-ln", f"nano-d{'9' * 5000}"), "unknown size"),
        (lambda: model_config("pre-ln", "nano-d130"), "not divisible by n_heads = 4"),
        (lambda: size_labels(["nano-d128"], [64]), "names its width: give no other"),
        *(
            (lambda width=width: model_config("pre-ln", f"nano-d{width}"), _WIDTHS)
            for width in (1, 7, 999_999, 1_000_000, 100_000_000, (1 << 63) - 1)
        ),
        *(
            (lambda width=width: size_labels(["nano"], [width]), _WIDTHS)
            for width in (-4, 0, 3, 1_000_000)
        ),
    ],
)
def test_a_wrong_name_gets_one_clear_sentence(call, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        call()
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_the_tables_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        ARCHITECTURES["mine"] = {}  # type: ignore[index]


@pytest.mark.parametrize(("d_model", "n_heads"), [(64, 4), (128, 4), (256, 4), (512, 8), (768, 12)])
def test_nano_at_the_widths_of_the_width_study(d_model: int, n_heads: int) -> None:
    fields = at_width("nano", d_model)
    assert fields == {**SIZES["nano"], "d_model": d_model, "n_heads": n_heads, "d_ff": 4 * d_model}


def test_a_size_may_carry_its_width() -> None:
    config = model_config("normformer", "micro-d512", dropout=0.1)
    named = model_config("normformer", "micro").model_dump()
    wide = {"d_model": 512, "d_ff": 2048, "n_heads": 8, "dropout": 0.1}
    assert config.model_dump() == {**named, **wide}
    assert model_config("pre-ln", "nano-d64") == model_config("pre-ln", "nano")
    assert (base_size("micro-d512"), base_size("micro")) == ("micro", "micro")


def test_labels() -> None:
    assert size_labels(["nano", "micro"]) == ["nano", "micro"]
    assert size_labels(["nano", "micro"], [128]) == ["nano-d128", "micro"]
    assert size_labels(["nano", "nano-d64"]) == ["nano"]


@pytest.mark.parametrize("size", SIZES)
def test_a_sizes_own_width_changes_nothing(size: str) -> None:
    assert at_width(size, SIZES[size]["d_model"]) == SIZES[size]


@given(size=st.sampled_from([*SIZES]), blocks=st.integers(1, 64))
def test_heads_divide_the_width_and_stay_narrow(size: str, blocks: int) -> None:
    d_model = 64 * blocks
    if d_model == SIZES[size]["d_model"] or d_model % SIZES[size]["n_heads"]:
        return
    config = ModelConfig(**at_width(size, d_model))
    assert config.d_model // config.n_heads <= 64
    assert config.n_heads >= SIZES[size]["n_heads"]


def test_presets_do_not_import_torch() -> None:
    code = "import sys, gradlab.models.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
