"""Parameters without a gradient, never or at some steps, and whether their modules were called."""

from collections.abc import Iterable

import pandas as pd

from gradlab.analyses.finding import Finding, counted, listed
from gradlab.analyses.findings_zeros import for_good


def absent_findings(
    faults: pd.DataFrame, grad_norms: pd.DataFrame | None, headroom: pd.DataFrame | None
) -> list[Finding]:
    """Parameters that the optimizer trains and that got no gradient.

    Args:
        faults: The run's `faults` table: says which never got one.
        grad_norms: Its `grad_norms`, or None: says which got one at some looks alone.
        headroom: Its `headroom`, or None: says which modules were called.
    """
    calls = _calls(grad_norms, headroom)
    found = _never(faults, grad_norms, calls)
    return found if grad_norms is None else [*found, *_at_times(grad_norms, calls)]


def _never(
    faults: pd.DataFrame, grad_norms: pd.DataFrame | None, calls: dict[str, set[int]] | None
) -> list[Finding]:
    absent = faults[faults["kind"] == "absent"]
    late = set(absent.loc[absent["count"] == 0, "name"])
    names = [name for name in absent["name"].drop_duplicates() if name not in late]
    if not names:
        return []
    given = set(grad_norms["param"]) if grad_norms is not None else set()
    of = f" of {len(given | set(absent['name']))}" if given else ""
    sentence = (
        f"{len(names)}{of} trained {'parameter' if len(names) == 1 else 'parameters'} never got a "
        f"gradient: {listed(names)}"
    )
    if calls is not None:
        within = [name for name in names if _owner(name)]
        idle = [name for name in within if _owner(name) not in calls]
        used = [name for name in within if _owner(name) in calls]
        if idle:
            sentence += (
                f"; {_modules(idle)} not called in a pass with gradients at any step looked at, as "
                "an expert without a token is, or a layer that nothing uses"
            )
        if used:
            sentence += (
                f"; {_modules(used)} called, but no path with gradients led from {_them(used)} to "
                "the loss"
            )
    return [Finding("no gradient", f"{sentence}.")]


def _at_times(grad_norms: pd.DataFrame, calls: dict[str, set[int]] | None) -> list[Finding]:
    """Those that got a gradient at some looks alone, and those that get none any more."""
    looks = sorted(set(grad_norms["step"]))
    given = {str(n): set(rows) for n, rows in grad_norms.groupby("param", sort=False)["step"]}
    some = {name: steps for name, steps in given.items() if len(steps) < len(looks)}
    ended = {
        name: max(steps)
        for name, steps in some.items()
        if for_good([at for at, step in enumerate(looks) if step > max(steps)], len(looks))
    }
    found = []
    if ended:
        last = max(ended.values())
        since = f"since step {last}" + (" or before" if len(set(ended.values())) > 1 else "")
        after = [name for name, step in ended.items() if _called(name, calls, step + 1)]
        sentence = (
            f"{len(ended)} of {counted(len(given), 'parameter')} got no gradient any more {since}: "
            f"{listed(list(ended))}"
        )
        idle = [name for name in ended if name not in after and _owner(name)]
        if calls is not None and idle:
            sentence += f"; {_modules(idle)} not called again"
        if after:
            sentence += f"; {_modules(after)} called all the same"
        found.append(Finding("no gradient any more", f"{sentence}."))
    rest = [name for name in some if name not in ended]
    if rest:
        least = min(rest, key=lambda name: len(some[name]))
        sentence = (
            f"{len(rest)} of {counted(len(given), 'parameter')} got a gradient at some steps "
            f"alone, as experts do that are not always chosen: {least} at {len(some[least])} of "
            f"{len(looks)} looked at"
        )
        found.append(Finding("gradient at times", f"{sentence}.", is_fact=True))
    return found


def _calls(
    grad_norms: pd.DataFrame | None, headroom: pd.DataFrame | None
) -> dict[str, set[int]] | None:
    """The steps at which each module was called; None if that is not known of all modules.

    Headroom may have been asked about some alone. Then most of those whose parameters got a
    gradient have no row, while of all modules only few do without a call, as an attention's output
    projection does.
    """
    if grad_norms is None or headroom is None:
        return None
    calls: dict[str, set[int]] = {}
    rows = headroom[headroom["direction"] == "forward"]
    for site, steps in rows.groupby("site")["step"]:
        calls.setdefault(str(site).partition("[")[0], set()).update(steps)
    owners = {owner for name in grad_norms["param"].unique() if (owner := _owner(name))}
    return calls if 2 * len(owners & calls.keys()) > len(owners) else None


def _called(name: str, calls: dict[str, set[int]] | None, first: int) -> bool:
    return calls is not None and max(calls.get(_owner(name), {-1})) >= first


def _owner(name: str) -> str:
    """The module that has a parameter; empty for the model itself."""
    return name.rpartition(".")[0]


def _modules(names: Iterable[str]) -> str:
    owners = list(dict.fromkeys(map(_owner, names)))
    return f"{listed(owners)} {'was' if len(owners) == 1 else 'were'}"


def _them(names: Iterable[str]) -> str:
    return "it" if len(set(map(_owner, names))) == 1 else "them"
