"""A report's page: sections of runs, comparisons, settings, and how to repeat them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.cli.html import (
    Cell,
    Markup,
    element,
    inline_svg,
    joined,
    number,
    scrolling,
    table,
)
from gradlab.cli.report_figures import draw_all
from gradlab.cli.report_groups import FREE, Group, groups, subject
from gradlab.cli.report_repeat import repeat_section
from gradlab.cli.report_runs import Gathered
from gradlab.cli.report_settings import settings_section
from gradlab.cli.report_style import SCRIPT, STYLE
from gradlab.errors import GradlabError
from gradlab.runs.reader import Run

if TYPE_CHECKING:
    import pandas as pd

# Nothing is fetched, and nothing runs but the page's own script.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def report_page(gathered: Gathered, paths: Sequence[Path]) -> str:
    """The whole page, in one file that needs nothing else.

    Args:
        gathered: The runs.
        paths: What the user named, for the command that makes the page again.
    """
    from gradlab.analyses.settings import settings

    compared = groups(gathered.runs)
    found = settings(gathered.runs)
    title = f"gradlab: {_counted(len(gathered.runs), 'run')}"
    if len(gathered.runs) == 1:
        title = f"gradlab: {next(iter(gathered.runs))}"
    seen: set[bytes] = set()
    comparisons = [
        _comparison(group, place, compared[0], seen) for place, group in enumerate(compared)
    ]
    sections = {
        "runs": ("The runs", _runs(gathered.runs)),
        "compared": ("Figures and tables", joined(comparisons)),
        "settings": ("Settings side by side", settings_section(found)),
        "repeat": ("How to repeat it", repeat_section(gathered.runs, compared, paths)),
    }
    if not compared:
        del sections["compared"]
    links = (element("a", words, href=f"#{name}") for name, (words, _) in sections.items())
    body = [
        element("h1", title),
        element("p", ", ".join(str(path) for path in paths), class_="quiet"),
        element("nav", joined(links, " "), aria_label="Sections"),
        _notes("What is missing", gathered.notes),
    ]
    for name, (words, content) in sections.items():
        body.append(element("section", element("h2", words), content, id=name))
    return _document(title, joined(body, "\n"))


def _document(title: str, body: Markup) -> str:
    head = joined(
        [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name_="color-scheme", content="light dark"),
            element("title", title),
            Markup(f"<style>{STYLE}</style>"),
        ],
        "\n",
    )
    script = Markup(f"<script>{SCRIPT}</script>")
    page = element(
        "html",
        "\n",
        element("head", "\n", head, "\n"),
        "\n",
        element("body", "\n", element("main", body), "\n", script, "\n"),
        lang="en",
    )
    return f"<!doctype html>\n{page}\n"


def _notes(heading: str, notes: Sequence[str]) -> Markup:
    if not notes:
        return Markup("")
    items = (element("li", note) for note in notes)
    return element("div", element("strong", heading), element("ul", *items), class_="notes")


def _runs(runs: Mapping[str, Run]) -> Markup:
    """How each run ended: a sentence each where they are few, and a table."""
    from gradlab.analyses.overview import overview

    rows = overview(runs)
    parts = [_notes("Tables that cannot be read", rows["problem"].dropna().tolist())]
    if len(runs) <= _FEW:
        parts += [_what_happened(name, run) for name, run in runs.items()]
    parts.append(
        table(
            _RUN_HEADINGS,
            (_run_cells(row, runs[row["run"]]) for row in rows.to_dict("records")),
            caption="How each run ended. A heading sorts the table.",
        )
    )
    return joined(parts)


_FEW = 3
"""Runs of which each is told at length."""


def _what_happened(name: str, run: Run) -> Markup:
    """A run's end, and the sentences of `gradlab inspect`."""
    from gradlab.analyses.findings import findings
    from gradlab.analyses.overview import verdict_sentence

    parts = [element("h3", name), element("p", verdict_sentence(run), class_="said")]
    try:
        for finding in findings(run)[1:]:
            inside = [finding.sentence]
            if finding.table is not None:
                inside.append(_finding_table(finding.what, finding.table))
            parts += [element("dt", finding.what), element("dd", *inside)]
    except GradlabError as error:
        parts += [element("dt", "damaged"), element("dd", str(error))]
    return joined([*parts[:2], element("dl", *parts[2:])])


def _finding_table(what: str, rows: "pd.DataFrame") -> Markup:
    from gradlab.cli.inspect_run import HEADINGS, cell_text

    cells = [
        [
            Cell(cell_text(name, value))
            if isinstance(value, str)
            else Cell(cell_text(name, value), float("nan") if value is None else value, "number")
            for name, value in zip(rows.columns, row, strict=True)
        ]
        for row in rows.astype(object).where(rows.notna(), None).itertuples(index=False)
    ]
    return table(
        [HEADINGS.get(name, name) for name in rows.columns], cells, caption=what, shown=False
    )


_RUN_HEADINGS = (
    "run",
    "how it ended",
    "step",
    "LR there",
    "first overflow",
    "architecture",
    "size",
    "seed",
    "precision",
    "LR at the lowest loss",
    "LR at the collapse",
    "lowest loss",
    "last loss",
    "lowest val. loss",
    "steps",
    "skipped",
    "seconds",
)


def _run_cells(row: Mapping[Any, Any], run: Run) -> list[Cell]:
    from gradlab.analyses.overview import REASONS

    ending = "being written, or killed" if run.status == "running" else run.status
    class_ = None
    if run.verdict is not None:
        ending = REASONS[run.verdict.reason]
        class_ = "broke" if run.verdict.broke else "done" if run.verdict.censored else None
    return [
        Cell(row["run"], class_="name"),
        Cell(ending, class_=class_),
        number(_whole(row["step"]), "d"),
        number(row["lr"]),
        _word(row["first_overflow"]),
        _word(row["arch"]),
        _word(row["size"]),
        number(_whole(row["seed"]), "d"),
        _word(row["precision"]),
        number(row["lr_min_loss"]),
        number(row["lr_collapse"]),
        number(row["lowest_loss"]),
        number(row["loss"]),
        number(row["val_loss"]),
        number(_whole(row["steps"]), "d"),
        number(_whole(row["skipped"]), "d"),
        number(row["seconds"], ".0f"),
    ]


def _word(value: Any) -> Cell:
    return Cell(value) if isinstance(value, str) else Cell("–")


def _whole(value: Any) -> int | None:
    import pandas as pd

    return None if pd.isna(value) else int(value)


def _comparison(group: Group, place: int, first: Group, seen: set[bytes]) -> Markup:
    """A group's sentences, figures and tables."""
    from gradlab.analyses.comparable import what_differs
    from gradlab.cli.report_tables import group_sentences, group_tables

    subjects = list(dict.fromkeys(subject(run) for run in group.runs.values()))
    heading = "; ".join(subjects[:3]) + (" …" if len(subjects) > 3 else "")
    parts = [element("h3", f"{heading} ({_counted(len(group.runs), 'run')})")]
    attached = any(run.attached for run in group.runs.values())
    if place and not attached:
        one, other = (next(iter(some.runs.values())) for some in (first, group))
        word = what_differs(one, other, free=FREE)
        parts.append(
            element("p", f"Not compared with the first runs: their {word} differ.", class_="quiet")
        )
    sentences = group_sentences(group)
    if sentences:
        parts.append(element("ul", *(element("li", said) for said in sentences), class_="said"))
    for index, drawn in enumerate(draw_all(group)):
        if drawn.svg in seen:
            continue
        seen.add(drawn.svg)
        words = drawn.heading
        svg = inline_svg(drawn.svg, f"g{place}f{index}-", words)
        parts.append(
            element(
                "figure",
                element("h3", words),
                element("div", scrolling(svg, words), class_="paper"),
                element("figcaption", drawn.caption),
            )
        )
    parts += group_tables(group)
    parts.append(_notes("Not shown", group.notes))
    return element("article", joined(parts, "\n"))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
