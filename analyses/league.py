"""What a league says of each architecture: a number a measure and seed, and means over seeds."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from gradlab.analyses.final_losses import final_losses
from gradlab.analyses.gradient_study import study_gradients, study_mismatch, window_length
from gradlab.analyses.headroom import tightest_by_layer
from gradlab.analyses.intervals import MeanInterval, geometric_interval, mean_interval
from gradlab.analyses.limits import answers, limits
from gradlab.analyses.lr_search import search_seeds
from gradlab.analyses.stability import first_overflow_sites
from gradlab.analyses.stability_table import ramps_table
from gradlab.models.presets import BASELINE
from gradlab.runs.study import StudyRecord, StudySet
from gradlab.studies.equal_time import NOTE
from gradlab.studies.league import League

OP = "fc2"
"""The weights whose gradients are compared, as in figure 3 of the paper."""


@dataclass(frozen=True)
class Measure:
    """A column of a league.

    Attributes:
        heading: Over the column.
        says: What it is, in a sentence.
        geometric: Whether means are geometric and architectures are compared by ratio.
        better: Which side is the better one: `higher`, `lower`, or none.
    """

    heading: str
    says: str
    geometric: bool = True
    better: str = ""

    @property
    def none(self) -> float:
        """What no difference is."""
        return 1.0 if self.geometric else 0.0


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "ramp": Measure("LR at the break", "learning rate at the ramp's break", better="higher"),
        "limit": Measure("highest constant LR", "highest constant rate survived", better="higher"),
        "best_lr": Measure("best LR", "best learning rate"),
        "loss": Measure("loss at it", "validation loss at the best rate", False, "lower"),
        "sensitivity": Measure("LR sensitivity", "LR sensitivity", False, "lower"),
        "mismatch": Measure("mismatch", f"mismatch of {OP}'s gradients, first layers over last,"),
        "headroom": Measure("least headroom", "least FP16 headroom", False, "higher"),
        "cost": Measure("cost of a step", "time of a step", better="lower"),
    }
)
"""The measures of a league, in the order of its columns.

`loss` and `sensitivity` in nats a token, `headroom` in bits, `cost` over Pre-LN's.
"""

_Row = tuple[str, int, str, float, bool]

SEED_COLUMNS = ["arch", "seed", "measure", "value", "bound"]

SUMMARY_COLUMNS = ["arch", "measure", "seeds", "value", "low", "high", "bound"]


def is_league(study: StudyRecord) -> bool:
    """Whether studies are those of `gradlab league`."""
    return study.command is not None and study.command.name == League.command_name


def league_seeds(league: StudySet) -> pd.DataFrame:
    """Every measure of each architecture and seed, of what has ended; the cost has no seeds.

    Args:
        league: The studies of `gradlab league`, finished or not.

    Returns:
        Columns arch, seed, measure, value (ramp and limit: the learning rate; best_lr: that of
        the seed's lowest loss among those tried; loss: of the seed at the architecture's best
        rate; sensitivity: mean over rates of the loss over the lowest; mismatch: as
        `gradlab.analyses.gradients.mismatch_of_layers`, late; headroom: the least of any forward
        site at any step that was looked at; none where a seed of the architecture had something
        that was not finite), bound (a lower one). Values that are not finite are
        left out, and those that have no logarithm where a mean is geometric.

    Raises:
        GradlabError: Something in it is damaged.
    """
    studies = league.studies
    rows = [
        row for name, read in _READERS.items() if name in studies for row in read(studies[name])
    ]
    return pd.DataFrame(rows, columns=SEED_COLUMNS).astype({"value": "float64", "bound": "bool"})


def _limit(study: StudyRecord) -> Iterator[_Row]:
    known = answers(limits(study))
    highest = known["done"] & known["high"].isna()
    yield from _rows("ramp", known, "ramp", bound=known["ramp_bound"])
    yield from _rows("limit", known, "low", bound=highest)


def _search(study: StudyRecord) -> Iterator[_Row]:
    losses = final_losses(study.runs, vary="lr")
    if len(losses):
        seeds = search_seeds(losses)
        yield from _rows("best_lr", seeds, "own_lr")
        yield from _rows("loss", seeds, "best_loss")
        yield from _rows("sensitivity", seeds, "sensitivity")


def _gradients(study: StudyRecord) -> Iterator[_Row]:
    runs = [run for run in study.runs if run.completed]
    if not runs:
        return
    mismatch = study_mismatch(study_gradients(runs, length=window_length(runs)))
    late = mismatch["window"] == mismatch["window"].iloc[-1]
    yield from _rows("mismatch", mismatch[late & (mismatch["op"] == OP)], "ratio")
    least = []
    for run in runs:
        tightest = tightest_by_layer(run.table("headroom"), run.table("steps", ["step", "lr"]))
        bits = float(tightest["headroom_bits"].min())
        least.append((run.config.arch, run.config.seed, "headroom", bits, False))
    # Where one seed had none left, the others would speak for those that were spared.
    none_left = {arch for arch, _, _, bits, _ in least if bits == -math.inf}
    yield from (row for row in least if math.isfinite(row[3]) and row[0] not in none_left)


_READERS: Mapping[str, Callable[[StudyRecord], Iterator[_Row]]] = MappingProxyType(
    {"limit": _limit, "lr-search": _search, "grad-norms": _gradients}
)
"""By the study's folder."""


def _rows(
    name: str, table: pd.DataFrame, column: str, bound: "pd.Series[bool] | bool" = False
) -> Iterator[_Row]:
    """A row for each architecture and seed that has a value, and a logarithm where it needs one."""
    least = 0.0 if MEASURES[name].geometric else -math.inf
    for row in table.assign(bound=bound).to_dict("records"):
        if least < row[column] < math.inf:
            yield row["arch"], row["seed"], name, row[column], row["bound"]


def step_costs(league: StudySet) -> pd.DataFrame:
    """The time of each architecture's step over Pre-LN's, as measured in turns before the search.

    Returns:
        Columns `SUMMARY_COLUMNS`, with the quartiles over rounds for low and high, and no seeds.
    """
    search = league.studies.get("lr-search")
    times: Mapping[str, Any] = search.notes.get(NOTE, {}) if search else {}
    planned = {config.arch for config in search.configs.values()} if search else set()
    rows = [
        [arch, "cost", 0, time["ratio"], time["low"], time["high"], False]
        for arch, time in times.items()
        if arch in planned
    ]
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def summarise_league(seeds: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """Every measure of each architecture over its seeds.

    Args:
        seeds: A table of `league_seeds`.
        costs: A table of `step_costs`.

    Returns:
        One row per (arch, measure), the architectures by their highest constant rate, the highest
        first: columns arch, measure, seeds (that have a value), value (mean, geometric where the
        measure is), low, high (Student's t interval at 95 %, on logarithms there; NaN for one
        seed), bound (whether one seed's is a lower bound, and so the mean).
    """
    rows = []
    for (arch, name), group in seeds.groupby(["arch", "measure"], sort=False):
        found = _interval(group["value"], MEASURES[str(name)])
        rows.append([arch, name, len(group), *found, bool(group["bound"].any())])
    table = pd.DataFrame(rows, columns=SUMMARY_COLUMNS)
    whole = pd.concat([part for part in (table, costs) if len(part)] or [table])
    highest = whole[whole["measure"] == "limit"].set_index("arch")["value"]
    order = sorted(dict.fromkeys(whole["arch"]), key=lambda arch: -highest.get(arch, -math.inf))
    places = {name: place for place, name in enumerate([*order, *MEASURES])}
    return whole.sort_values(
        ["arch", "measure"], key=lambda column: column.map(places), ignore_index=True
    )


def _interval(values: Iterable[float], measure: Measure) -> MeanInterval:
    return (geometric_interval if measure.geometric else mean_interval)(list(values))


def league_differences(seeds: pd.DataFrame, *, baseline: str = BASELINE) -> pd.DataFrame:
    """How each architecture differs from the baseline in each measure, over the seeds of both.

    Args:
        seeds: A table of `league_seeds`.
        baseline: The one to compare with.

    Returns:
        One row per measure and other architecture: columns measure, baseline, arch, pairs (seeds
        of both, without those of which the baseline's is a lower bound), difference (a ratio where
        the measure is geometric, else arch's − the baseline's), low, high (Student's t interval at
        95 %), bound (a lower one), distinguished (whether the interval lies wholly on one side of
        no difference: the upper one where it is a bound, the lower one where the baseline's is a
        bound in a seed).
    """
    theirs = seeds[seeds["arch"] == baseline].drop(columns="arch")
    return _differences(seeds[seeds["arch"] != baseline], theirs).assign(baseline=baseline)


_DIFFERENCE_COLUMNS = [
    *["measure", "baseline", "arch", "pairs"],
    *["difference", "low", "high", "bound", "distinguished"],
]


def league_beside(mine: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """How each architecture differs from itself in another league, over the seeds of both.

    As with a norm on q and k and without it.

    Args:
        mine: A table of `league_seeds`.
        other: Another's.

    Returns:
        The columns of `league_differences`, the baseline being the architecture itself.
    """
    rows = _differences(mine, other)
    return rows.assign(baseline=rows["arch"])


def _differences(mine: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """A row a measure and architecture, against the same seed of one, or of the same of several."""
    key = [name for name in ("arch", "seed", "measure") if name in theirs]
    both = mine.merge(theirs[[*key, "value", "bound"]], on=key, suffixes=("", "_baseline"))
    rows = [
        {"measure": name, "arch": arch, **_compared(pairs, MEASURES[str(name)])}
        for (name, arch), pairs in both.groupby(["measure", "arch"], sort=False)
        if not pairs["bound_baseline"].all()
    ]
    return pd.DataFrame(rows, columns=_DIFFERENCE_COLUMNS)


def order_kept(mine: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Whether the architectures of two leagues stand in the same order, as at two widths.

    Args:
        mine: A table of `league_seeds`.
        other: Another's.

    Returns:
        One row per measure that both have of three architectures or more: columns measure,
        architectures, correlation (Spearman's, of the means).
    """
    tables = [_means(one) for one in (mine, other)]
    rows = []
    for name in MEASURES:
        if all(name in table for table in tables):
            both = pd.concat([table[name] for table in tables], axis=1, keys=["mine", "other"])
            both = both.dropna()
            if len(both) > 2:
                rows.append([name, len(both), _spearman(both["mine"], both["other"])])
    return pd.DataFrame(rows, columns=["measure", "architectures", "correlation"])


def _means(seeds: pd.DataFrame) -> pd.DataFrame:
    """A row an architecture, a column a measure."""
    summary = summarise_league(seeds, pd.DataFrame(columns=SUMMARY_COLUMNS))
    return summary.pivot(index="arch", columns="measure", values="value")


def _spearman(one: "pd.Series[float]", other: "pd.Series[float]") -> float:
    """Spearman's rank correlation; NaN for fewer than three, or where all are alike."""
    if len(one) < 3 or min(one.nunique(), other.nunique()) < 2:
        return math.nan
    return float(np.corrcoef(one.rank(), other.rank())[0, 1])


def _compared(both: pd.DataFrame, measure: Measure) -> dict[str, Any]:
    """The difference over pairs: columns value, bound, and the baseline's.

    Where the baseline's is a bound, it may lie anywhere above: such a pair has no difference, and
    arch is not told to be higher, nor lower if its own is a bound there too.
    """
    pairs = both[~both["bound_baseline"]]
    mine, theirs = pairs["value"], pairs["value_baseline"]
    apart = mine / theirs if measure.geometric else mine - theirs
    middle, low, high = _interval(apart, measure)
    is_higher = low > measure.none and len(pairs) == len(both)
    is_lower = high < measure.none and not both["bound"].any()
    return {
        "pairs": len(pairs),
        "difference": middle,
        "low": low,
        "high": high,
        "bound": bool(pairs["bound"].any()),
        "distinguished": bool(is_higher or is_lower),
    }


def league_overflows(league: StudySet) -> pd.DataFrame:
    """Where the ramps' breaks began: `gradlab.analyses.stability.first_overflow_sites` of them."""
    study = league.studies.get("limit")
    return first_overflow_sites(ramps_table(study.runs if study else []))


def rank_agreement(seeds: pd.DataFrame, one: str, other: str) -> dict[str, float]:
    """Whether two measures rank the architectures alike.

    Args:
        seeds: A table of `league_seeds`.
        one: A measure.
        other: Another.

    Returns:
        architectures (that have both), correlation (Spearman's, of the means; NaN for fewer than
        three), pairs (of architectures that both measures tell apart), turned (those of them that
        the two put the other way round).
    """
    known = _means(seeds).reindex(columns=[one, other]).dropna()
    higher: dict[str, dict[frozenset[str], str]] = {one: {}, other: {}}
    for baseline in known.index:
        for row in league_differences(seeds, baseline=baseline).to_dict("records"):
            name, arch = row["measure"], row["arch"]
            if name in higher and row["distinguished"]:
                is_higher = row["difference"] > MEASURES[name].none
                higher[name][frozenset((baseline, arch))] = arch if is_higher else baseline
    both = higher[one].keys() & higher[other].keys()
    return {
        "architectures": len(known),
        "correlation": _spearman(known[one], known[other]),
        "pairs": len(both),
        "turned": sum(higher[one][pair] != higher[other][pair] for pair in both),
    }
