from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from gradlab.analyses.comparable import (
    check_comparable,
    comparable_groups,
    loss_differs,
    name_of,
    run_key,
    what_differs,
)
from gradlab.config import BASE_VARIANT, DataConfig, RunConfig, ScheduleConfig, StabilityConfig
from gradlab.errors import GradlabError
from gradlab.models.presets import MORE_FFN, NAMED, model_config
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run


def recorded(
    arch: str = "pre-ln", size: str = "nano", lr: float = 1e-3, seed: int = 0, *,
    variant: str = BASE_VARIANT, dropout: float = 0.0, objective: str = "causal",
    tokenizer: str | None = None, corpus: Mapping[str, str] = MappingProxyType({"sha256": "a"}),
) -> Run:  # fmt: skip
    model = model_config(arch, size, dropout=dropout, objective=objective)
    data = DataConfig(tokenizer=tokenizer)
    named = {"arch": arch, "size": size, "variant": variant}
    config = RunConfig(
        **named, model=model, schedule=ScheduleConfig(lr=lr), steps=9, seed=seed, data=data
    )
    return MemoryWriter(config, {"corpus": corpus}).run()


def attached(model: str = "Llama") -> Run:
    return MemoryWriter(None, {"model": model}).run()


def test_what_may_differ_is_said() -> None:
    one, other = recorded(), recorded("normformer", lr=1e-2)
    assert what_differs(one, other) == "schedules"
    assert what_differs(one, other, free=("schedules",)) is None
    check_comparable([one, other], free=("schedules",))
    with pytest.raises(GradlabError, match="their schedules differ"):
        check_comparable([one, other])
    assert what_differs(one, recorded(size="micro"), free=("schedules",)) == "sizes"


@pytest.mark.parametrize(
    ("word", "changes"),
    [
        ("held-out shares of the text", {"data": DataConfig(held_out=0.5)}),
        ("batches of a validation", {"val_batches": 1}),
        ("criteria of a break", {"stability": StabilityConfig(patience=2)}),
        ("criteria of a break", {"stability": StabilityConfig(margin=0.1)}),
    ],
)
def test_what_decides_the_numbers_is_no_side_issue(word: str, changes: dict[str, Any]) -> None:
    one, other = recorded(), recorded("normformer")
    changed = MemoryWriter(other.config.replace(**changes), {"corpus": {"sha256": "a"}}).run()
    assert what_differs(one, changed) == word
    of_the_loss = word if "data" in changes or "val_batches" in changes else None
    assert loss_differs(one, changed) == of_the_loss


def test_models_may_differ_in_what_their_architectures_say() -> None:
    def run(arch: str, **settings: Any) -> Run:
        config = recorded(arch).config
        model = model_config(arch, "nano", **settings)
        return MemoryWriter(config.replace(model=model), {"corpus": {"sha256": "a"}}).run()

    check_comparable([recorded(arch) for arch in NAMED if arch not in MORE_FFN])
    for setting, value in {"activation": "relu2", "init": "gpt2", "positions": "learned"}.items():
        changed = run("pre-ln", **{setting: value})
        assert what_differs(changed, run("normformer")) == "models' settings"
        assert what_differs(run("deepnorm"), changed) == "models' settings"
        assert what_differs(changed, run("normformer", **{setting: value})) is None
    assert what_differs(run("pre-ln", qk_norm="heads"), run("qk-norm")) is None
    assert what_differs(run("pre-ln", qk_norm="heads"), run("pre-ln")) == "models' settings"
    assert loss_differs(run("pre-ln", qk_norm="heads"), run("pre-ln")) is None


def test_objectives_and_tokenizers_are_named_before_what_follows_from_them() -> None:
    one = recorded()
    assert what_differs(one, recorded(objective="masked")) == "objectives"
    assert what_differs(one, recorded(objective="masked"), free=("sizes",)) == "objectives"
    check_comparable([recorded(objective="masked"), recorded("normformer", objective="masked")])
    bpe = [recorded(tokenizer="bpe", corpus={"sha256": text}) for text in "bcc"]
    assert what_differs(one, bpe[0]) == "tokenizers"
    assert what_differs(*bpe[:2]) == "corpora"
    check_comparable([bpe[1], recorded("normformer", tokenizer="bpe", corpus={"sha256": "c"})])
    files = [recorded(tokenizer=name, corpus={"sha256": "d"}) for name in ("a.json", "./a.json")]
    assert what_differs(*files) is None


def test_variants_are_kept_apart_whatever_may_differ() -> None:
    one, other = recorded(lr=1e-3), recorded(lr=2e-3, variant="twice-lr")
    assert what_differs(one, other, free=("schedules",)) == "variants"
    check_comparable([other, recorded("normformer", lr=2e-3, variant="twice-lr")])
    assert comparable_groups([one, other], free=("schedules",)) == [[one], [other]]
    assert what_differs(one, recorded("normformer", dropout=0.1)) == "dropouts"


def test_runs_are_sorted_into_groups_that_compare() -> None:
    nano = [recorded(), recorded("post-ln", seed=1)]
    micro = [recorded(size="micro"), recorded("normformer", "micro")]
    mixed = [nano[0], micro[0], nano[1], micro[1]]
    assert comparable_groups(mixed) == [nano, micro]
    assert comparable_groups(mixed, free=("sizes",)) == [mixed]
    assert comparable_groups([]) == []


def test_one_size_twice_is_refused_only_within_it() -> None:
    check_comparable([recorded(), recorded(size="micro")], free=("sizes",))
    with pytest.raises(GradlabError, match="are both pre-ln with seed 0 at micro: give one"):
        check_comparable([recorded(size="micro"), recorded(size="micro")], free=("sizes",))


def test_loops_of_ones_own_compare_with_no_other() -> None:
    assert what_differs(attached(), recorded()) == "loops"
    two, one = comparable_groups([attached(), recorded(), attached("GPT2")])
    assert (len(two), len(one)) == (2, 1), "those of one's own are compared as they are given"
    assert run_key(attached()) == ("Llama", "Llama", 0)
    assert name_of(attached()) == "the run of Llama"
    check_comparable([attached(), attached()])
