"""`gradlab.draw`: every figure that runs allow, in Python."""

from base64 import b64decode
from pathlib import Path

import pytest
from made_up_runs import nano, write_headroom, write_rows, write_steps
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import gradlab
from gradlab.config import RecordConfig, ScheduleConfig
from gradlab.errors import GradlabError
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run
from gradlab.runs.study import run_name
from gradlab.runs.verdict import Reason, Verdict
from gradlab.runs.writer import RunWriter
from gradlab.studies import Limit
from gradlab.studies.folder import claim
from gradlab.studies.table import STABILITY


def made_up(arch: str = "pre-ln", seed: int = 0, *, lr: float = 0.07) -> Run:
    """A run of a stability test, kept in memory."""
    ramp = ScheduleConfig(kind="ramp", lr_step=1e-2)
    config = nano(arch, seed, schedule=ramp, steps=4000, record=RecordConfig(probes=("headroom",)))
    writer = MemoryWriter(config, {"params": 300_000})
    write_steps(writer, config)
    write_headroom(writer)
    writer.finish("finished", Verdict(reason="loss_nonfinite", step=7, lr=lr))
    return writer.run()


def test_the_figures_of_one_run_and_of_several() -> None:
    before = plt.get_fignums()
    for source in (made_up(), [made_up(), made_up("normformer")]):
        found = gradlab.draw(source)
        assert list(found) == ["course", "headroom"]
        assert isinstance(found["headroom"], Figure)
        panels = [axes for axes in found["headroom"].axes if axes.lines]
        assert len(panels) == (1 if isinstance(source, Run) else 2)
    assert plt.get_fignums() == before


def test_figures_of_names_that_no_file_system_takes_are_all_there() -> None:
    runs = []
    for name in ("опыт", "проба"):
        writer = MemoryWriter(None, {"model": "m", "tables": ["steps", "grad_norms"]})
        write_rows(writer, "grad_norms", step=[0, 1], layer=0, param="w")
        run = writer.run()
        run.info["meta"] = {"which": name}
        runs.append(run)
    drawn = gradlab.draw(runs, only=["gradients over steps"])
    assert len(drawn) == 2


def test_studies_in_folders_of_one_name_have_figures_of_their_own(tmp_path: Path) -> None:
    """As the same part of two leagues."""
    study = Limit(arch="pre-ln", seeds=1, lowest=0.1, highest=0.2, factor=2.0)
    begun = study.configs()
    constant = next(config for config in begun if config.schedule.kind == "constant")
    begun += [constant.replace(schedule=ScheduleConfig(lr=lr)) for lr in (0.1, 0.2)]
    plan = {run_name(config): config for config in begun}
    folders = [tmp_path / league / "limit" for league in ("one", "two")]
    for folder in folders:
        folder.mkdir(parents=True)
        claim(folder, plan, resume=False, notes=study.command().note())
        for name, config in plan.items():
            writer = RunWriter(folder / name, config, {"params": 9})
            reason: Reason = "loss_rise" if config.schedule.kind == "ramp" else "completed"
            writer.finish("finished", Verdict(reason=reason, step=2, lr=0.3))
    assert list(gradlab.draw(folders, only=["limit"])) == ["limit_one_limit", "limit_two_limit"]


def test_some_figures_alone() -> None:
    assert list(gradlab.draw(made_up(), only=["course"])) == ["course"]
    with pytest.raises(GradlabError, match="unknown figure 'corse': did you mean 'course'"):
        gradlab.draw(made_up(), only=["corse"])
    with pytest.raises(GradlabError, match="scores over steps needs the table scores"):
        gradlab.draw(made_up(), only=["scores over steps"])


def test_a_table_of_a_users_own_by_one_of_our_names_is_none_of_ours() -> None:
    run = made_up()
    run.info["own_tables"] = {"headroom": {}}
    assert list(gradlab.draw(run)) == ["course"]
    with pytest.raises(GradlabError, match="needs the table headroom"):
        gradlab.draw(run, only=["headroom"])


def test_a_run_shows_itself_in_a_notebook() -> None:
    run, before = made_up(), plt.get_fignums()
    assert len(run.plot().axes) == 2, "loss and learning rate"
    assert len(run.plot("headroom").axes) == 2, "a panel and its scale"
    for shown in (run._repr_html_(), gradlab.inspect(run)._repr_html_()):
        _, _, data = shown.partition('src="data:image/png;base64,')
        assert b64decode(data.partition('"')[0]).startswith(b"\x89PNG")
    assert "<pre>run" in gradlab.inspect(run)._repr_html_()
    empty = MemoryWriter(None, {"model": "<b>", "tables": ["steps"]}).run()
    assert "<img" not in empty._repr_html_()
    assert plt.get_fignums() == before


def test_a_stability_table_gives_figure_5(tmp_path: Path) -> None:
    runs = [
        made_up(arch, seed, lr=0.07 + 0.01 * (arch == "normformer") + 0.001 * seed)
        for arch in ("pre-ln", "normformer")
        for seed in (0, 1)
    ]
    STABILITY.write(tmp_path, runs)
    assert list(gradlab.draw(tmp_path)) == ["lr_at_break", "lr_against_pre-ln_ramp0.01"]


def test_nothing_to_draw_is_a_sentence(tmp_path: Path) -> None:
    run = MemoryWriter(None, {"model": "Mine", "tables": ["steps"]}).run()
    remedy = r"scales: record it with gradlab.attach\(…, probes=\[…, gradlab.probes.LearnedScales\("
    with pytest.raises(GradlabError, match=remedy):
        gradlab.draw(run)
    with pytest.raises(GradlabError, match="there is no run"):
        gradlab.draw(tmp_path)
