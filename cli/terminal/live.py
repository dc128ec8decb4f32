"""What is going on while runs train: a line a run, with what it sees and how long it may take."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gradlab.pages.screen import results_table

if TYPE_CHECKING:
    from gradlab.config import RunConfig
    from gradlab.studies.news import News, RunUpdate
    from gradlab.training.progress import Progress

SECONDS_BETWEEN_LINES = 10.0
"""Least time between two plain lines of one run, where there is no terminal."""

COMPILING = "Compiling the model comes first: a run says nothing for about a minute."


@dataclass
class Watch:
    """What is known of a study's runs while they train.

    Attributes:
        work: Each run's work if it took all its steps, in any unit (FLOPs); none before it is
            known which runs there are.
        clock: Seconds, from any zero.
        timing: The share that is done of a timing of steps, which goes before the runs.
    """

    work: Mapping[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    states: dict[str, str] = field(default_factory=dict)
    last: dict[str, "Progress"] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    least: dict[str, dict[int, float]] = field(default_factory=dict)
    timing: float | None = None
    _printed: dict[str, float] = field(default_factory=dict, init=False)
    _before: dict[str, float] = field(default_factory=dict, init=False)
    """The share of a run's steps that an earlier session took, before it was resumed."""
    _began: float = field(init=False)
    _freed: float = field(init=False)
    """When a run could last begin: as another ended."""

    def __post_init__(self) -> None:
        self._began = self._freed = self.clock()

    def begin(self, work: Mapping[str, float]) -> None:
        """The runs are known, and about to be trained; those of a study before are forgotten."""
        self.states, self.last, self.messages, self.least = {}, {}, {}, {}
        self.timing, self._before = None, {}
        self.work = work
        self._began = self._freed = self.clock()

    def take(self, update: "RunUpdate") -> None:
        """Take in the news of a run."""
        self.states[update.name] = update.state
        if update.progress is not None:
            news = self.last[update.name] = update.progress
            here = self.clock() - self._freed  # the seconds that it has had since
            earlier = max(0.0, 1 - here / news.seconds) if news.seconds else 0.0
            self._before.setdefault(update.name, earlier * (news.step + 1) / news.steps)
            if news.least_headroom is not None:
                stretches, at = self.least.setdefault(update.name, {}), stretch(news)
                stretches[at] = min(stretches.get(at, math.inf), news.least_headroom)
        if update.message is not None:
            self.messages[update.name] = update.message
        if update.state != "running":
            self._freed = self.clock()

    def is_due(self, name: str) -> bool:
        """Whether the next plain line of something may be printed, which it then is."""
        now = self.clock()
        if now - self._printed.get(name, -math.inf) < SECONDS_BETWEEN_LINES:
            return False
        self._printed[name] = now
        return True

    @property
    def ended(self) -> int:
        """Runs that are over, well or not."""
        return sum(state != "running" for state in self.states.values())

    def trend(self, name: str) -> str:
        """A run's steps as a bar: how high a part is says how much headroom was left in it."""
        if (news := self.last.get(name)) is None:
            return ""
        least, begun = self.least.get(name, {}), stretch(news) + 1
        if not least:
            return _UNKNOWN * begun + _AHEAD * (_STRETCHES - begun)
        done = "".join(headroom_mark(least.get(at)) for at in range(begun))
        return done + _AHEAD * (_STRETCHES - begun)

    @property
    def share_done(self) -> float:
        """The share of the work that needs not be done any more."""
        left = sum(
            work * (1 - (news.step + 1) / news.steps if (news := self.last.get(name)) else 1)
            for name, work in self.work.items()
            if self.states.get(name, "running") == "running"
        )
        return 1 - left / sum(self.work.values())

    def seconds_left(self) -> float | None:
        """About how long the rest takes; None while there is nothing to go by.

        The work done here so far, by the clock, gives the speed. Runs that ended here before their
        last step say what share of its steps a run takes; without one, all of them.
        """
        shares = {name: (news.step + 1) / news.steps for name, news in self.last.items()}
        done = sum(self.work[name] * (share - self._before[name]) for name, share in shares.items())
        elapsed = self.clock() - self._began
        if done <= 0 or elapsed <= 0:
            return None
        ends = [share for name, share in shares.items() if self.states[name] != "running"]
        usual = sum(ends) / len(ends) if ends else 1.0
        left = sum(
            work * max(0.0, usual - shares.get(name, 0.0))
            for name, work in self.work.items()
            if self.states.get(name, "running") == "running"
        )
        return left * elapsed / done


_STRETCHES = 12
"""Parts of a run's bar."""

_LEVELS = "▁▂▃▄▅▆▇█"
"""Two bits of headroom each."""

_OVERFLOW, _UNKNOWN, _AHEAD = "×", "━", "·"


def stretch(news: "Progress") -> int:
    """The part of a run's bar that a step is in."""
    return news.step * _STRETCHES // news.steps


def headroom_mark(bits: float | None) -> str:
    """A part of a bar: the higher, the more bits are left."""
    if bits is None:
        return _UNKNOWN
    if math.isinf(bits):
        return _OVERFLOW
    return _LEVELS[min(max(int(bits // 2), 0), len(_LEVELS) - 1)]


def run_seconds_left(news: "Progress") -> float:
    """Seconds to a run's last step at its speed so far; a break comes sooner."""
    return (news.steps - news.step - 1) * news.seconds / (news.step + 1)


def duration(seconds: float) -> str:
    """45 s, 3 min, 1 h 20 min."""
    if seconds < 60:
        return f"{max(1, math.ceil(seconds))} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def headroom_text(news: "Progress") -> str:
    """The least headroom of a step and its site; an overflow where there is none left."""
    if news.least_headroom is None:
        return ""
    if math.isinf(news.least_headroom):
        return f"overflow at {news.tightest_site}"
    return f"{news.least_headroom:.1f} bits at {news.tightest_site}"


def forecast_text(news: "Progress") -> str:
    """The overflow that is foreseen, if one is."""
    if news.overflow_step is None:
        return ""
    left = max(1, news.overflow_step - news.step)
    steps = "1 step" if left == 1 else f"{left} steps"
    return f"overflow in about {steps} at {news.overflow_site}"


@contextmanager
def watching(console: Console) -> Iterator[Callable[["News"], None]]:
    """Show the news that the yielded function is given, until the end of the context.

    On a terminal, a table that is drawn anew; elsewhere plain lines, not more than one every few
    seconds for a run.

    Args:
        console: Where.
    """
    from gradlab.studies.news import Named, Planned, StudyBegun, Timing

    watch = Watch()
    show = watch.take if console.is_terminal else plain_lines(watch, console)

    def tell(news: "News") -> None:
        match news:
            case StudyBegun(line):
                console.print(f"\n{line}", markup=False, highlight=False, soft_wrap=True)
            case Timing(what, share):
                watch.timing = share
                if not share:
                    console.print(f"Timing a training step of {what}.", soft_wrap=True)
                elif not console.is_terminal and watch.is_due("timing"):
                    console.print(f"timing  {share:.0%}", highlight=False)
            case Planned(configs):
                watch.begin(work_of(configs))
                if any(config.compile for config in configs):
                    console.print(COMPILING, soft_wrap=True)
            case Named(names):
                watch.begin(dict.fromkeys(names, 1.0))
            case _:
                show(news)

    if not console.is_terminal:
        yield tell
        return
    with Live(
        get_renderable=lambda: _picture(watch, console),
        console=console,
        refresh_per_second=4,
        transient=True,
    ):
        yield tell


def work_of(configs: Iterable["RunConfig"]) -> dict[str, float]:
    """FLOPs of each run if it takes all its steps, by name."""
    from gradlab.models.cost import flops_per_token
    from gradlab.runs.study import run_name

    return {
        run_name(config): float(flops_per_token(config.model))
        * config.tokens_per_step
        * config.steps
        for config in configs
    }


def plain_lines(watch: Watch, console: Console) -> Callable[["RunUpdate"], None]:
    """A function that prints the news it is given as lines."""

    def report(update: "RunUpdate") -> None:
        watch.take(update)
        running = update.state == "running"
        if not watch.is_due(update.name) and running:
            return
        words = [update.name]
        if not running:
            words.append(f"{update.state} ({watch.ended} of {len(watch.work)})")
        if news := watch.last.get(update.name):
            words += [f"step {news.step + 1}/{news.steps}", f"lr {news.lr:.4g}"]
            words += [f"loss {news.loss:.3f}"]
            words += [text for text in [headroom_text(news), forecast_text(news)] if text]
        if running and news:
            words.append(f"at most {duration(run_seconds_left(news))} left")
        if update.message:
            words.append(update.message)
        console.print("  ".join(words), markup=False, highlight=False, soft_wrap=True)

    return report


def _picture(watch: Watch, console: Console) -> Group:
    """The running runs, then those that ended, the latest last, as far as there is room."""
    if watch.timing is not None:
        bar = ProgressBar(total=1.0, completed=watch.timing, width=24)
        return Group(_in_line(bar, f"timing · {watch.timing:.0%}"))
    if not watch.work:
        return Group()
    running = [name for name, state in watch.states.items() if state == "running"]
    over = [name for name, state in watch.states.items() if state != "running"]
    room = max(1, console.height - 2 * len(running) - 4)
    names = [*over[-room:], *running]
    for columns in _LAYOUTS:
        table = _table(watch, names, columns)
        wide = console.measure(table, options=console.options.update(width=1000)).maximum
        if wide <= console.width:
            break
    total, left = len(watch.work), watch.seconds_left()
    waiting = total - watch.ended - len(running)
    words = [f"{watch.ended} of {total} runs done"]
    if waiting:
        words.append(f"{waiting} waiting")
    if left is not None:
        words.append(f"about {duration(left)} left")
    foreseen = [
        Text(f"{name}: {text}", style="yellow")
        for name in running
        if (news := watch.last.get(name)) and (text := forecast_text(news))
    ]
    bar = ProgressBar(total=1.0, completed=watch.share_done, width=24)
    return Group(table, *foreseen, _in_line(bar, " · ".join(words)))


def _in_line(bar: ProgressBar, words: str) -> Table:
    line = Table.grid(padding=(0, 1))
    line.add_row(bar, Text(words, style="bold"))
    return line


_FULL = ("run", "step", "lr", "loss", "headroom so far", "least headroom", "")
_SHORT = ("run", "step", "lr", "loss", "bits", "ends in")
_LAYOUTS = (_FULL, (*_SHORT[:4], "headroom so far", *_SHORT[4:]), _SHORT)
"""Columns, the widest table first."""


def _table(watch: Watch, names: Sequence[str], columns: Sequence[str]) -> Table:
    """A row a run; in short without the size that all have, the tightest site, and words."""
    table = results_table()
    for title in columns:
        table.add_column(title, no_wrap=True, overflow="ellipsis")
    sizes = {name.partition("_")[0] for name in watch.work}  # what a run's name begins with
    short = "ends in" in columns
    begin = len(sizes.pop()) + 1 if short and len(sizes) == 1 else 0
    for name in names:
        cells = {"run": name[begin:], **_cells(watch, name, short=short)}
        table.add_row(*(Text(cells[title]) for title in columns), style=_style(watch, name))
    return table


def _style(watch: Watch, name: str) -> str:
    return {"running": "", "finished": "green"}.get(watch.states[name], "red")


def _cells(watch: Watch, name: str, *, short: bool) -> dict[str, str]:
    """What is known of a run, by column; in short, of a failure that it is one."""
    state, news = watch.states[name], watch.last.get(name)
    is_over = state != "running"
    ended = watch.messages.get(name, state)
    if news is None:
        return dict.fromkeys(_FULL + _SHORT, "") | (
            {"": ended, "ends in": state} if is_over else {}
        )
    left = duration(run_seconds_left(news))
    bits = "" if news.least_headroom is None else f"{news.least_headroom:.1f}"
    return {
        "step": f"{news.step + 1}/{news.steps}",
        "lr": f"{news.lr:.{3 if short else 4}g}",
        "loss": f"{news.loss:.3f}",
        "headroom so far": watch.trend(name),
        "least headroom": headroom_text(news),
        "bits": bits.replace("-", "−"),
        "ends in": state if is_over else left,
        "": ended if is_over else f"at most {left} left",
    }
