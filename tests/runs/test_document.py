import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlab import config as configs
from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.models import config as shapes
from gradlab.runs.document import closing, opening, plain, to_json
from gradlab.runs.verdict import Verdict


def above(low: float, high: float = 1e30) -> st.SearchStrategy[float]:
    return st.floats(low, high, exclude_min=True, exclude_max=True)


def share() -> st.SearchStrategy[float]:
    return st.floats(0, 1, exclude_max=True)


def schedules() -> st.SearchStrategy[configs.ScheduleConfig]:
    ramp = st.builds(configs.ScheduleConfig, kind=st.just("ramp"), lr_step=above(0))
    others = st.builds(
        configs.ScheduleConfig,
        kind=st.sampled_from(["constant", "linear", "cosine"]),
        lr=above(0),
        warmup_steps=st.integers(0, 10**9),
    )
    return ramp | others


@st.composite
def models(draw: Callable[..., Any]) -> shapes.ModelConfig:
    heads, width = draw(st.integers(1, 64)), draw(st.integers(1, 64))
    fields = {
        "placement": shapes.Placement,
        "norm": shapes.NormKind,
        "head_scale": shapes.HeadScalePlace,
        "res_scale": shapes.ResScale,
        "activation": shapes.Activation,
        "positions": shapes.Positions,
        "attention": shapes.AttentionPath,
    }
    return shapes.ModelConfig(
        d_model=2 * heads * width,
        n_heads=heads,
        n_layers=draw(st.integers(1, 100)),
        d_ff=draw(st.integers(1, 10**5)),
        vocab_size=draw(st.integers(2, 10**6)),
        max_seq_len=draw(st.integers(1, 10**5)),
        dropout=draw(share()),
        stochastic_depth=draw(share()),
        logit_cap=draw(st.none() | above(0)),
        init=draw(st.sampled_from(["fairseq", "xavier", "kaiming", "gpt2", "deepnorm"])),
        **{
            name: draw(st.booleans())
            for name in ("attn_out_norm", "ffn_out_norm", "embed_norm", "ffn_mid_norm", "qkv_norm")
        },
        **{name: draw(st.sampled_from(get_args(kind))) for name, kind in fields.items()},
    )


def whole(least: int) -> st.SearchStrategy[int]:
    return st.integers(least, 2**63 - 1)


def precisions() -> st.SearchStrategy[configs.PrecisionConfig]:
    return st.builds(
        configs.PrecisionConfig,
        name=st.sampled_from(get_args(configs.PrecisionName)),
        initial_loss_scale=above(0),
        growth_factor=above(1),
        backoff_factor=above(0, 1),
        growth_interval=whole(1),
    ) | st.just(configs.PrecisionConfig(name="fp16-pure", master_weights=False))


def runs() -> st.SearchStrategy[RunConfig]:
    return st.builds(
        RunConfig,
        arch=st.text(min_size=1, max_size=8),
        size=st.text(min_size=1, max_size=8),
        model=models(),
        schedule=schedules(),
        steps=whole(1),
        seed=whole(0),
        batch_size=whole(1),
        accumulation=whole(1),
        optimizer=st.builds(
            configs.OptimizerConfig,
            beta1=share(),
            beta2=share(),
            eps=above(0),
            weight_decay=st.floats(0, 1e30),
            clip_norm=st.none() | above(0),
        ),
        precision=precisions(),
        data=st.builds(
            configs.DataConfig,
            corpus=st.text(max_size=8),
            tokenizer=st.none() | st.text(max_size=8),
            held_out=above(0, 1),
        ),
        record=st.builds(configs.RecordConfig, window=whole(1), every=whole(1)),
        stop_when_destabilised=st.booleans(),
    )


@settings(max_examples=60)
@given(runs())
def test_every_config_comes_back_from_its_document(config: RunConfig) -> None:
    text = to_json(opening(config, {}))
    assert RunConfig.from_mapping(json.loads(text)["config"]) == config


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@given(ANYTHING)
def test_documents_are_strict_json(value: Any) -> None:
    read = json.loads(to_json({"value": value}), parse_constant=refuse)
    assert read == {"value": with_none_for_nonfinite(value)}


def with_none_for_nonfinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: with_none_for_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_none_for_nonfinite(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value - value) else value


def test_what_json_has_no_form_for_becomes_the_nearest() -> None:
    value = {
        1: (np.float32(0.5), np.int64(3), np.bool_(True), np.float64("nan")),
        "array": np.array([[1.0, np.inf]]),
        "path": Path("runs") / "x",
    }
    assert plain(value) == {
        "1": [0.5, 3, True, None],
        "array": [[1.0, None]],
        "path": str(Path("runs/x")),
    }


def test_an_opening_says_what_runs_and_with_what(config: RunConfig) -> None:
    document = opening(config, {"device": "cpu", "tables": ["steps"]})
    assert document["status"] == "running"
    assert document["verdict"] is None
    assert (document["seed"], document["precision"]) == (2, "fp32")
    assert document["device"] == "cpu"
    assert document["tables"] == ["steps"]
    assert {"python", "torch", "numpy", "pyarrow", "gradlab-diagnostics"} <= set(
        document["versions"]
    )


def test_tables_are_declared_only_where_they_are_recorded(config: RunConfig) -> None:
    assert opening(config, {})["tables"] == ["steps", "headroom", "overflows", "faults"]
    quiet = config.replace(record=config.record.replace(probes=()))
    assert opening(quiet, {})["tables"] == ["steps"]


def test_a_closing_keeps_the_opening(config: RunConfig) -> None:
    begun = opening(config, {"device": {"type": "cpu"}})
    ended = closing(
        begun, "finished", Verdict(reason="loss_rise", step=4), {"steps": 3}, {"note": 1}
    )
    assert ended["verdict"]["reason"] == "loss_rise"
    assert (ended["status"], ended["writes"], ended["note"]) == ("finished", {"steps": 3}, 1)
    changed = {"status", "verdict", "ended", "note"}
    assert all(ended[key] == begun[key] for key in begun.keys() - changed)
    assert begun["status"] == "running"
    with pytest.raises(GradlabError, match="unknown status 'done'"):
        closing(begun, "done", None, {}, {})
