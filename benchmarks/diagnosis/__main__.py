"""Which tool names the cause of a broken training: cases from public reports, run under each.

    pip install --editable '.[peers]'
    python -m benchmarks.diagnosis                      # every case under every tool, as Markdown
    python -m benchmarks.diagnosis --tool gradlab       # one
    python -m benchmarks.diagnosis --case bn --claims   # some cases, and what was said

Each case trains a small model of its own in a loop as people write it, in emulated FP16 where it is
about FP16, and then again as a healthy twin; each tool has a process of its own. The rule by which
a tool has named a cause is in `rule.py`.
"""

import argparse
import platform
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.diagnosis.case import Case
from benchmarks.diagnosis.cases import CASES, KINDS
from benchmarks.diagnosis.runner import Score, installed, judge, runs_apart
from benchmarks.diagnosis.tool import Tool
from benchmarks.diagnosis.tools import TOOLS

MARKS = {"named": "●", "noticed": "○", "silent": "–"}


def main() -> None:
    """Run what is asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tool", nargs="+", choices=TOOLS, default=list(TOOLS), help="only these")
    parser.add_argument(
        "--case", nargs="+", default=[""], help="only those with this in their name"
    )
    parser.add_argument("--jobs", type=int, default=2, help="tools side by side")
    parser.add_argument("--limit", type=float, default=60, help="seconds for one training")
    parser.add_argument("--claims", action="store_true", help="print what each tool said, too")
    options = parser.parse_args()
    tools = [tool for tool in options.tool if installed(tool)]
    for missing in set(options.tool) - set(tools):
        print(f"{missing} is not installed: the extra `peers` has it", file=sys.stderr)
    chosen = [
        case
        for key, case in CASES.items()
        if any(word in key or word in case.title for word in options.case)
    ]
    if not chosen:
        parser.error(f"no case has {' or '.join(options.case)} in its name: {', '.join(CASES)}")

    with ThreadPoolExecutor(options.jobs) as pool:
        started = {
            tool: pool.submit(list, runs_apart(tool, chosen, options.limit))
            for tool in (Tool.title, *tools)
        }
    bare = started[Tool.title].result()
    scores: dict[tuple[str, str], Score] = {}
    for tool in tools:
        for case, (bare_twin, own), (twin, run) in zip(
            chosen, bare, started[tool].result(), strict=True
        ):
            found = scores[case.key, tool] = judge(case, own, bare_twin, run, twin)
            print(f"{tool}: {case.key}: {describe(found)}", file=sys.stderr)
            if options.claims:
                print(*found.claims, found.error, sep="\n  ", file=sys.stderr)
                print("of the twin:", *found.claims_of_twin, sep="\n  ", file=sys.stderr)
    print(where_and_what(tools), "", *summary(tools, chosen, scores), "", sep="\n")
    print(*each_case(tools, chosen, scores), sep="\n")


def describe(found: Score) -> str:
    return (
        found.outcome + ", disturbed" * found.is_disturbed + ", false alarm" * found.is_false_alarm
    )


def where_and_what(tools: list[str]) -> str:
    """The versions and the processor."""
    packages = {TOOLS[tool].package for tool in tools} - {None}
    versions = ", ".join(f"{package} {version(package)}" for package in sorted(packages))
    return (
        f"torch {torch.__version__}, {versions}; Python {platform.python_version()}; {processor()}"
    )


def processor() -> str:
    """Its name, as well as it is known."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def summary(
    tools: list[str], chosen: list[Case], scores: dict[tuple[str, str], Score]
) -> Iterator[str]:
    """A row a tool."""
    yield "| | named | noticed | silent | disturbed | false alarms |"
    yield "|---|---|---|---|---|---|"
    for tool in tools:
        of_tool = [scores[case.key, tool] for case in chosen]
        counts = [sum(s.outcome == outcome for s in of_tool) for outcome in MARKS]
        counts += [sum(s.is_disturbed for s in of_tool), sum(s.is_false_alarm for s in of_tool)]
        share = f" ({100 * counts[0] / len(of_tool):.0f} %)"
        yield f"| {tool} | {counts[0]}{share} | " + " | ".join(map(str, counts[1:])) + " |"


def each_case(
    tools: list[str], chosen: list[Case], scores: dict[tuple[str, str], Score]
) -> Iterator[str]:
    """A row a case, the kinds between them."""
    yield f"| case | met in | {' | '.join(tools)} |"
    yield "|---|---|" + "---|" * len(tools)
    for kind, module in KINDS.items():
        of_kind = [case for case in chosen if case.train.__module__ == module.__name__]
        if of_kind:
            yield f"| **{kind}** | |" + " |" * len(tools)
        for case in of_kind:
            cells = (mark(scores[case.key, tool]) for tool in tools)
            source = case.source.removeprefix("https://github.com/").replace("/issues/", "#")
            source = source.replace("/pull/", "#")
            yield f"| {case.title} | [{source}]({case.source}) | {' | '.join(cells)} |"


def mark(found: Score) -> str:
    return MARKS[found.outcome] + "✗" * found.is_disturbed + "!" * found.is_false_alarm


if __name__ == "__main__":
    main()
