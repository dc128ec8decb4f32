"""Which runs of a page stand together."""

from made_up_runs import nano, write_rows

from gradlab.config import ScheduleConfig
from gradlab.pages.groups import groups
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run
from gradlab.runs.verdict import Reason, Verdict


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
    assert group.notes == [
        "again has the architecture, size, seed and schedule of a, which stands for both: it is "
        "left out here."
    ]


def test_of_two_caps_on_a_ramp_the_break_is_kept() -> None:
    def ramp(steps: int, reason: Reason) -> Run:
        schedule = ScheduleConfig(kind="ramp", lr_step=0.5)
        writer = MemoryWriter(nano(schedule=schedule, steps=steps), {"params": 9})
        writer.finish("finished", Verdict(reason=reason, step=2, lr=1.0))
        return writer.run()

    runs = {"short": ramp(3, "completed"), "broke": ramp(8, "loss_rise")}
    runs["long"] = ramp(9, "completed")
    (group,) = groups(runs)
    assert list(group.runs) == ["broke"]
    assert [note.split()[0] for note in group.notes] == ["short", "long"]


def test_gradients_of_other_lengths_have_a_table_of_their_own() -> None:
    runs = {}
    for steps, warmup in ((4, 0), (8, 0), (8, 2)):
        for arch in ("pre-ln", "normformer"):
            schedule = ScheduleConfig(lr=1e-3, warmup_steps=warmup)
            writer = MemoryWriter(nano(arch, steps=steps, schedule=schedule), {})
            write_rows(writer, "steps", step=range(steps))
            for layer in range(6):
                write_rows(writer, "grad_norms", step=range(steps), layer=layer, param="w")
            writer.finish("finished", Verdict(reason="completed", step=steps - 1))
            runs[f"{arch}{steps}{warmup}"] = writer.run()
    (group,) = groups(runs)
    assert len(group.gradients) == 3, group.notes
    assert [rows["arch"].nunique() for rows in group.gradients.values()] == [2, 2, 2]
    assert "nano, constant LR 0.001, 8 steps, 2 of warm-up" in group.gradients
