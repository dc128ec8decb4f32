"""Checkpoints for fairseq: its names, and the same logits when gradlab's loader of them reads them.

fairseq itself has no release for these versions of Python and torch; `tests/models/test_fairseq.py`
holds the loader against fairseq's mathematics.
"""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_runs import write_rows
from torch import Tensor

import gradlab
from gradlab.errors import GradlabError
from gradlab.exports.fairseq_folder import CHECKPOINT, EXPRESSED, FREE, fairseq_files
from gradlab.exports.trained import trained
from gradlab.models.config import ModelConfig
from gradlab.models.fairseq_file import load_checkpoint
from gradlab.models.presets import ABLATIONS, ARCHITECTURES, model_config
from gradlab.runs.memory import MemoryWriter

Keep = Callable[..., tuple[Path, Any]]

HAS = [
    ("pre-ln", {}),
    ("normformer", {}),
    ("normformer-resscale", {"head_scale": "output"}),
    ("pre-ln-resscale", {"activation": "relu2", "positions": "learned"}),
    ("minus-head-scale", {"embed_norm": True, "dropout": 0.1, "attention": "sdpa"}),
]


def checkpoint(run: Path) -> Path:
    return gradlab.export(run, to="fairseq").folder / "checkpoint.pt"


def read(file: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals([Namespace]):
        found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


@pytest.mark.parametrize(("arch", "model"), HAS, ids=str)
def test_loading_it_back_gives_the_same_logits(
    keep: Keep, tokens: Tensor, arch: str, model: dict[str, Any]
) -> None:
    run, own = keep(arch, **model)
    loaded = load_checkpoint(checkpoint(run)).eval()
    torch.testing.assert_close(loaded(tokens), own(tokens), rtol=0, atol=1e-5)
    assert loaded.config.max_seq_len == own.config.max_seq_len


def test_names_and_options_are_fairseqs(keep: Keep) -> None:
    run, _ = keep("normformer-resscale", head_scale="output", positions="learned")
    found = read(checkpoint(run))
    linear = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
    norms = ("self_attn_layer_norm", "attn_ln", "final_layer_norm", "ffn_layernorm")
    layer = {f"{part}.{kind}" for part in (*linear, *norms, "fc1", "fc2") for kind in KINDS}
    layer |= {"c_attn", "w_resid"}
    whole = {f"layers.{i}.{name}" for i in range(2) for name in layer}
    whole |= {f"layer_norm.{kind}" for kind in KINDS} | {"version"}
    whole |= {f"{name}.weight" for name in ("embed_tokens", "embed_positions", "output_projection")}
    assert set(found["model"]) == {f"decoder.{name}" for name in whole}
    assert found["model"]["decoder.version"].item() == 3  # or fairseq drops the final norm
    assert found["model"]["decoder.embed_positions.weight"].shape == (12 + 2, 16)
    options = vars(found["args"])
    assert (options["arch"], options["task"]) == ("transformer_lm", "language_modeling")
    assert (options["decoder_attention_heads"], options["decoder_ffn_embed_dim"]) == (2, 24)
    assert (options["decoder_layers"], options["decoder_embed_dim"]) == (2, 16)
    assert options["share_decoder_input_output_embed"]
    assert [options[f"scale_{what}"] for what in ("attn", "fc", "heads", "resids")] == [True] * 4
    # What fairseq's checkpoint_utils looks up in any file.
    last = found["optimizer_history"][-1]
    assert {"optimizer_name", "lr_scheduler_state", "num_updates"} <= set(last)
    assert found["extra_state"]["train_iterator"]["epoch"] == 1


KINDS = ("weight", "bias")


def test_the_updates_are_those_that_were_made(keep: Keep) -> None:
    found = trained(keep("pre-ln")[0])
    writer = MemoryWriter(found.config, {})
    write_rows(writer, "steps", step=range(3), skipped=[True, False, False])
    files, _ = fairseq_files(replace(found, run=writer.run()))
    with torch.serialization.safe_globals([Namespace]):
        written = torch.load(BytesIO(files[CHECKPOINT]), weights_only=True)
    assert [history["num_updates"] for history in written["optimizer_history"]] == [2]


def test_the_papers_head_scale_becomes_part_of_the_projection(keep: Keep) -> None:
    run, _ = keep("normformer")
    made = gradlab.export(run, to="fairseq")
    assert any("multiplied into out_proj" in note for note in made.notes)
    found = read(made.folder / "checkpoint.pt")
    assert not any("c_attn" in key for key in found["model"])
    assert not found["args"].scale_heads


LACKS = [
    arch
    for arch, fields in {**ARCHITECTURES, **ABLATIONS}.items()
    if arch not in ("minus-ffn-ln", "minus-post-attn-ln", *(arch for arch, _ in HAS))
]
SWITCHES: list[dict[str, Any]] = [
    {"activation": "geglu"},
    {"objective": "masked"},
    {"score_cap": 2.0, "logit_cap": 3.0},
    {"res_scale": "both"},
    {"res_scale": "ffn-scalar"},
    {"stochastic_depth": 0.1},
]


@pytest.mark.parametrize(
    ("arch", "model"), [*((a, {}) for a in LACKS), *(("pre-ln", s) for s in SWITCHES)], ids=str
)
def test_what_fairseq_cannot_express_is_refused_by_its_switches(
    keep: Keep, arch: str, model: dict[str, Any]
) -> None:
    run, own = keep(arch, **model)
    with pytest.raises(GradlabError) as refused:
        gradlab.export(run, to="fairseq")
    plain = model_config("pre-ln", "nano")
    allowed = {"head_scale": "heads", "attn_out_norm": True, "ffn_mid_norm": True}
    allowed |= {"embed_norm": True}
    wrong = {
        name: value
        for name, value in own.config.model_dump().items()
        if name not in FREE
        and value not in (getattr(plain, name), allowed.get(name))
        and (name, value) != ("res_scale", "ffn")
    }
    assert wrong
    for name, value in wrong.items():
        assert f"{name} = {value!r}" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (run / "fairseq").exists()


def test_the_switches_named_are_the_models() -> None:
    assert {*EXPRESSED, *FREE} <= set(ModelConfig.model_fields)
