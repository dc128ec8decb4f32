"""Which runs of a page stand together."""

from made_up_runs import nano

from gradlab.pages.groups import groups
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run


def own(seed: int = 0, precision: str = "fp32") -> Run:
    return MemoryWriter(nano(seed=seed, precision={"name": precision}), {}).run()


def attached(model: str) -> Run:
    return MemoryWriter(None, {"model": model, "tables": ["steps"]}).run()


def test_runs_that_compare_are_a_group_and_those_of_ones_own_another() -> None:
    runs = {"a": own(), "mine": attached("GPT2"), "b": own(1), "bf16": own(0, "bf16")}
    runs["theirs"] = attached("Llama")
    assert [list(group.runs) for group in groups(runs)] == [
        ["a", "b"],
        ["bf16"],
        ["mine", "theirs"],
    ]


def test_the_same_run_is_there_once() -> None:
    (group,) = groups({"a": own(), "again": own()})
    assert list(group.runs) == ["a"]
    assert group.notes == ["again is the same run as a: it is left out here."]
