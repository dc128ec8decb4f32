import dataclasses
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import gradlab
from gradlab.analyses.findings import findings
from gradlab.analyses.stability import paired_differences
from gradlab.analyses.stability_words import difference_sentence
from gradlab.cli.main import app
from gradlab.config import OptimizerConfig, RecordConfig, ScheduleConfig
from gradlab.figures import kinds
from gradlab.pages.groups import groups
from gradlab.runs.gather import gather
from gradlab.runs.study import load_study
from gradlab.runs.writer import RunWriter
from gradlab.studies import Stability
from gradlab.studies.table import STABILITY

WriteRun = Callable[..., Path]

VOID = {"meta", "input", "wbr", "br", "hr"}


class Page(HTMLParser):
    """A page as a browser reads it; elements that do not close fail."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.headings: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.svgs = 0
        self.words = ""
        self.classes: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    @property
    def runs(self) -> list[list[str]]:
        """The table of the runs, its headings first."""
        (found,) = [table for table in self.tables if table[0][0] == "run"]
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [str(given[name]) for name in ("id",) if name in given]
        self.classes += str(given.get("class") or "").split()
        self.addresses += [str(given[n]) for n in ("src", "href", "xlink:href") if n in given]
        self.svgs += tag == "svg"
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")
        if tag in ("h2", "h3"):
            self.headings.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"style", "script"} & set(self.open):
            return
        self.words += data
        if {"th", "td"} & set(self.open):
            self.tables[-1][-1][-1] += data
        if {"h2", "h3"} & set(self.open):
            self.headings[-1] += data


def make(out: Path, *runs: Path, force: bool = False) -> Page:
    result = run_command(*runs, "--out", out, *["--force"] * force)
    assert result.exit_code == 0, result.output
    return Page(out.read_text(encoding="utf-8"))


def run_command(*words: object) -> Any:
    return CliRunner().invoke(app, ["report", *map(str, words)])


def write_study(folder: Path, write_run: WriteRun) -> Path:
    for seed in range(2):
        for arch in ("pre-ln", "normformer"):
            write_run(folder / f"{arch}_{seed}", arch, seed)
    command = Stability(lr_step=[0.01], seeds=2).command()
    study = {"runs": {run.name: {} for run in sorted(folder.iterdir())}, **command.note()}
    (folder / "study.json").write_text(json.dumps(study))
    STABILITY.write(folder, load_study(folder).runs)
    return folder


@pytest.fixture
def study(tmp_path: Path, write_run: WriteRun) -> Path:
    """A study to do something to."""
    return write_study(tmp_path / "study", write_run)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, write_run: WriteRun) -> Path:
    """A study, and beside it its report."""
    folder = write_study(tmp_path_factory.mktemp("whole") / "study", write_run)
    make(folder.parent / "report.html", folder)
    return folder


@pytest.fixture
def page(whole: Path) -> Page:
    return Page((whole.parent / "report.html").read_text(encoding="utf-8"))


def test_a_study_as_one_page(page: Page, whole: Path) -> None:
    assert page.headings[:2] == ["In short", "run-stability (study): 4 runs"]
    assert {"Figures and tables", "Settings side by side", "How to repeat it"} <= set(page.headings)
    for heading in ("Learning rate at the break", "Breaks against the baseline", "The layers"):
        assert heading in page.headings
    assert "FP16 headroom by layer" in page.headings
    assert page.svgs == 5
    runs = page.runs
    assert sorted(row[0] for row in runs[1:]) == sorted(
        file.parent.name for file in whole.glob("*/run.json")
    )
    assert all(row[1] == "broke: the loss was not finite" for row in runs[1:])


def test_the_page_needs_nothing_else(page: Page) -> None:
    inside = {address for address in page.addresses if not address.startswith("data:image/png")}
    assert all(address.startswith("#") for address in inside)
    assert {address[1:] for address in inside} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page.text)
    named = "/*! https://github.com/leeoniya/uPlot (v1.6.32) */"  # where the library is from
    assert "http" not in without_names.replace("http-equiv", "").replace(named, "")
    assert "@import" not in page.text
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", page.text)
    assert "default-src 'none'" in page.text or "default-src &#x27;none&#x27;" in page.text


def test_the_same_runs_give_the_same_page(page: Page, whole: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "report.html", whole).text == page.text


def test_the_sentences_are_those_of_the_analysis(page: Page, whole: Path) -> None:
    (group,) = groups(gather([whole]).runs)
    assert group.stability is not None
    (row,) = paired_differences(group.stability).to_dict("records")
    assert difference_sentence(row) in page.words
    assert row["pairs"] == 2


@pytest.mark.usefixtures("unrendered")
def test_what_differs_is_marked(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path / "light")
    write_run(tmp_path / "heavy", optimizer=OptimizerConfig(weight_decay=0.1))
    page = make(tmp_path / "report.html", tmp_path / "light", tmp_path / "heavy")
    assert page.classes.count("other") == 1
    differing, alike = ({row[0]: row[1:] for row in table} for table in page.tables[-2:])
    assert differing.keys() == {"", "seeds", "optimizer.weight_decay"}
    assert differing["optimizer.weight_decay"] == ["0.01", "0.1"]
    assert alike["steps"] == ["4000"]
    assert "their optimizers differ" in page.words


def test_every_run_has_a_section_with_all_that_inspect_says(page: Page, whole: Path) -> None:
    for run in load_study(whole).runs:
        for finding in findings(run):
            assert finding.what in page.words
            assert finding.sentence in page.words
    places = [address[1:] for address in page.addresses if address.startswith("#run")]
    assert {"run0", "run1", "run2", "run3"} <= set(places) & set(page.ids)


@pytest.mark.usefixtures("unrendered")
def test_claims_have_their_verdicts(tmp_path: Path, write_run: WriteRun) -> None:
    write_study(tmp_path / "claims" / "stability", write_run)
    page = make(tmp_path / "report.html", tmp_path / "claims")
    (claims,) = [table for table in page.tables if "verdict" in table[0]]
    for claim in gradlab.inspect(tmp_path / "claims").sentences[:-1]:
        assert any(claim.startswith(row[0]) for row in claims[1:])
    assert "Not begun: gradients, scales, ablation." in page.words
    assert page.headings[1:3] == ["The paper's claims", "run-stability (stability): 4 runs"]


def test_how_to_repeat_it(page: Page, whole: Path) -> None:
    words = page.words
    assert re.findall("gradlab run-stability.*", words) == [
        "gradlab run-stability --lr-step 0.01 --seeds 2"
    ]
    assert "ab" * 32 in words
    assert "torch" in words
    assert f"gradlab report {whole}" in words


NASTY = '<script>alert("1")</script>&amp;\'"</style>'


def test_names_cannot_break_the_page(tmp_path: Path, write_run: WriteRun) -> None:
    folder = tmp_path / NASTY.replace("/", "_")
    write_run(folder, size=NASTY, record=RecordConfig(probes=("headroom",)))
    other = RunWriter(tmp_path / "own", None, {"model": NASTY, "tables": ["steps"]})
    other.finish("finished")
    page = make(tmp_path / "report.html", folder, tmp_path / "own")
    assert page.text.count("<script>") == 1
    assert page.text.count("</style>") == 1
    cells = [cell for row in page.runs for cell in row]
    assert cells.count(NASTY) == 2
    assert folder.name in cells


@pytest.mark.usefixtures("unrendered")
def test_a_bad_run_is_a_sentence_and_the_rest_is_made(study: Path, tmp_path: Path) -> None:
    (study / "bad").mkdir()
    (study / "bad" / "run.json").write_text("{")
    document = json.loads((study / "pre-ln_0" / "run.json").read_text())
    (study / "new").mkdir()
    (study / "new" / "run.json").write_text(json.dumps({**document, "schema_version": 999}))
    result = run_command(study, tmp_path / "nowhere", "--out", tmp_path / "report.html")
    assert result.exit_code == 0
    page = Page((tmp_path / "report.html").read_text())
    for sentence in ("is damaged", "newer gradlab", "the folder does not exist"):
        assert sentence in page.words
        assert sentence in result.output
    assert page.svgs == 5


@pytest.mark.usefixtures("unrendered")
def test_a_damaged_table_costs_its_own_figure_only(study: Path, tmp_path: Path) -> None:
    for part in study.glob("normformer_*/headroom/*"):
        part.write_bytes(part.read_bytes()[:100])
    page = make(tmp_path / "report.html", study)
    assert {"Learning rate at the break", "FP16 headroom by layer"} <= set(page.headings)
    assert "headroom" in page.words
    assert "damaged" in page.words or "cannot be read" in page.words


def test_a_run_without_the_table_says_which_probe_makes_it(
    tmp_path: Path, write_run: WriteRun
) -> None:
    page = make(tmp_path / "report.html", write_run(tmp_path / "run", tables=()))
    assert "--probes headroom" in page.words
    assert "FP16 headroom by layer" not in page.headings


@pytest.mark.usefixtures("unrendered")
def test_a_run_that_nobody_writes_any_more(tmp_path: Path, write_run: WriteRun) -> None:
    page = make(tmp_path / "report.html", write_run(tmp_path / "run", reason=None))
    assert "Killed, or kept from writing, before its end" in page.words
    assert "least headroom" in page.words
    assert page.runs[1][1] == "killed, or kept from writing, before its end"
    assert "Learning rate at the break" not in page.headings


@pytest.mark.parametrize("reason", ["loss_nonfinite", "error", "interrupted"])
def test_nan_throughout(
    request: pytest.FixtureRequest, tmp_path: Path, write_run: WriteRun, reason: str
) -> None:
    if reason != "loss_nonfinite":  # rendered once
        request.getfixturevalue("unrendered")
    run = write_run(tmp_path / "run", loss=math.nan, reason=reason)
    page = make(tmp_path / "report.html", run)
    row = dict(zip(page.runs[0], page.runs[1], strict=True))
    assert row["lowest loss"] == row["last loss"] == "–"
    assert ">nan<" not in page.text.lower()


def trained(tmp_path: Path, write_run: WriteRun, **fields: Any) -> list[Path]:
    return [
        write_run(
            tmp_path / f"{arch}{seed}",
            arch,
            seed,
            tables=("grad_norms",),
            reason="completed",
            schedule=ScheduleConfig(lr=1e-3),
            steps=8,
            **fields,
        )
        for arch in ("post-ln", "pre-ln")
        for seed in (0, 1)
    ]


@pytest.mark.usefixtures("unrendered")
def test_gradients_of_runs_that_reached_their_end(tmp_path: Path, write_run: WriteRun) -> None:
    page = make(tmp_path / "report.html", *trained(tmp_path, write_run))
    assert "Gradients by layer" in page.headings
    assert "pre-ln's late fc2 mismatch" in page.words
    (mismatch,) = [table for table in page.tables if "first / last layers" in table[0]]
    assert mismatch[1][:4] == ["post-ln", "fc2", "early", "2"]
    assert mismatch[1][4] == "1.5 (1.5 to 1.5)"


@pytest.mark.usefixtures("unrendered")
def test_gradients_that_are_never_finite_are_a_sentence(
    tmp_path: Path, write_run: WriteRun
) -> None:
    page = make(tmp_path / "report.html", *trained(tmp_path, write_run, loss=math.nan))
    assert "Gradients by layer" not in page.headings
    assert "no gradient of fc2 was finite" in page.words


def test_a_run_of_a_loop_of_its_own(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "own", None, {"model": "GPT2", "tables": ["steps"]})
    writer.finish("finished")
    page = make(tmp_path / "report.html", tmp_path / "own")
    assert "GPT2" in page.words
    assert "gradlab.attach" in page.words
    assert "to the bit" not in page.words


@pytest.mark.usefixtures("unrendered")
def test_a_run_given_twice_is_one_and_twins_are_left_out(
    tmp_path: Path, write_run: WriteRun
) -> None:
    one = write_run(tmp_path / "a" / "run")
    two = write_run(tmp_path / "b" / "run")
    page = make(tmp_path / "report.html", one, one / "run.json", tmp_path / "a", two)
    assert [row[0] for row in page.runs[1:]] == ["a/run", "b/run"]
    assert "b/run has the architecture, size, seed and schedule of a/run" in page.words


@pytest.mark.usefixtures("unrendered")
def test_runs_of_a_study_that_have_not_begun(study: Path, tmp_path: Path) -> None:
    names = [file.parent.name for file in study.glob("*/run.json")]
    (study / "study.json").write_text(json.dumps({"runs": dict.fromkeys([*names, "x", "y"])}))
    page = make(tmp_path / "report.html", study)
    assert "2 of the 6 runs" in page.words
    assert [row[0] for row in page.runs[1:]] == names  # in the study's order


@pytest.mark.usefixtures("unrendered")
def test_a_new_kind_of_figure_is_on_the_page(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kind,) = [kind for kind in kinds.KINDS if kind.title == "headroom"]
    new = dataclasses.replace(kind, title="figure 99", heading="Something new")
    monkeypatch.setattr(kinds, "KINDS", (new,))
    page = make(tmp_path / "report.html", study)
    assert "Something new" in page.headings
    assert "FP16 headroom by layer" not in page.headings


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "report.html"
    for place in (tmp_path / "nowhere", tmp_path / "empty"):
        result = run_command(place, "--out", out)
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
        assert str(place) in result.stderr
    assert run_command("--out", out).exit_code == 2
    assert not out.exists()


@pytest.mark.usefixtures("unrendered")
def test_nothing_is_overwritten_unless_asked(tmp_path: Path, write_run: WriteRun) -> None:
    out = tmp_path / "report.html"
    out.write_text("mine")
    run = write_run(tmp_path / "run", tables=())
    result = run_command(run, "--out", out)
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert out.read_text() == "mine"
    assert run_command(run, "--out", tmp_path).exit_code == 2
    make(out, run, force=True)
    make(tmp_path / "new" / "folder" / "report.html", run)
