from typing import Any

from made_up_runs import nano

from gradlab.analyses.settings import differing, keys_of, settings
from gradlab.config import OptimizerConfig
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run


def made_up(arch: str = "pre-ln", sha: str = "a", **fields: Any) -> Run:
    info = {"corpus": {"name": "text", "sha256": sha}, "versions": {"torch": "2.13.0"}}
    return MemoryWriter(nano(arch, **fields), info).run()


def test_runs_that_differ_in_seeds_alone_are_one_setting() -> None:
    found = settings({"b": made_up(seed=1), "a": made_up(seed=0), "c": made_up("normformer")})
    assert [(s.label, s.runs, s.seeds) for s in found] == [
        ("pre-ln nano", ("b", "a"), (0, 1)),
        ("normformer nano", ("c",), (0,)),
    ]
    assert found[0].values["model.d_model"] == 64
    assert found[0].values["versions.torch"] == "2.13.0"


def test_what_differs_is_found() -> None:
    heavy = OptimizerConfig(weight_decay=0.1)
    found = settings({"a": made_up(), "b": made_up(optimizer=heavy), "c": made_up(sha="b")})
    assert [s.label for s in found] == ["pre-ln nano (1)", "pre-ln nano (2)", "pre-ln nano (3)"]
    assert differing(found) == {"optimizer.weight_decay", "corpus.sha256"}
    assert differing(found[:1]) == set()
    assert differing([]) == set()


def test_architectures_differ_in_their_switches() -> None:
    found = settings({"a": made_up(), "b": made_up("normformer")})
    switches = {"model.head_scale", "model.attn_out_norm", "model.ffn_mid_norm"}
    assert differing(found) == {"arch", *switches}


def test_an_attached_run_has_what_its_document_says() -> None:
    own = MemoryWriter(None, {"model": "GPT2", "versions": {"torch": "2.13.0"}}).run()
    found = settings({"a": made_up(), "b": own})
    assert found[1].label == "GPT2"
    assert found[1].seeds == ()
    assert "batch_size" not in found[1].values
    assert differing(found) == set()
    assert keys_of(found)[-1] == "model"
