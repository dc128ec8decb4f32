"""A report's page: sections of runs, comparisons, settings, and how to repeat them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab.cli.html import (
    Markup,
    element,
    inline_svg,
    joined,
    note_box,
    scrolling,
)
from gradlab.cli.report_figures import draw_all
from gradlab.cli.report_groups import FREE, Group, groups, subject
from gradlab.cli.report_overview import runs_section
from gradlab.cli.report_repeat import repeat_section
from gradlab.cli.report_runs import Gathered
from gradlab.cli.report_settings import settings_section
from gradlab.cli.report_style import SCRIPT, STYLE

if TYPE_CHECKING:
    pass

# Nothing is fetched, and nothing runs but the page's own script; figures may hold images.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


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
        "short": ("In short", _in_short(compared)),
        "runs": ("The runs", runs_section(gathered.runs)),
        "compared": ("Figures and tables", joined(comparisons)),
        "settings": ("Settings side by side", settings_section(found)),
        "repeat": ("How to repeat it", repeat_section(gathered.runs, paths)),
    }
    sections = {name: section for name, section in sections.items() if section[1]}
    links = (element("a", words, href=f"#{name}") for name, (words, _) in sections.items())
    body = [
        element("h1", title),
        element("p", ", ".join(str(path) for path in paths), class_="quiet"),
        element("nav", joined(links, " "), aria_label="Sections"),
        note_box("What is missing", gathered.notes),
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


def _in_short(compared: Sequence[Group]) -> Markup:
    """How the architectures of each group differ; nothing where none can be compared."""
    from gradlab.cli.report_tables import group_sentences

    parts = []
    for group in compared:
        sentences = group_sentences(group)
        if sentences:
            parts += [element("h3", _heading(group))] if len(compared) > 1 else []
            parts.append(element("ul", *(element("li", said) for said in sentences), class_="said"))
    return joined(parts)


def _heading(group: Group) -> str:
    """What a group's runs are, and how many."""
    subjects = list(dict.fromkeys(subject(run) for run in group.runs.values()))
    heading = "; ".join(subjects[:3]) + (" …" if len(subjects) > 3 else "")
    return f"{heading} ({_counted(len(group.runs), 'run')})"


def _comparison(group: Group, place: int, first: Group, seen: set[bytes]) -> Markup:
    """A group's figures and tables."""
    from gradlab.analyses.comparable import what_differs
    from gradlab.cli.report_tables import group_tables

    parts = [element("h3", _heading(group))]
    attached = any(run.attached for run in group.runs.values())
    if place and not attached:
        one, other = (next(iter(some.runs.values())) for some in (first, group))
        word = what_differs(one, other, free=FREE)
        parts.append(
            element("p", f"Not compared with the first runs: their {word} differ.", class_="quiet")
        )
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
    parts.append(note_box("Not shown", group.notes))
    return element("article", joined(parts, "\n"))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
