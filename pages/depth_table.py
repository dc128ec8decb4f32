"""The table of a depth scan."""

import pandas as pd

from gradlab.analyses.wording import number_text
from gradlab.pages.table import Cell, Table, number, numeric


def depth_tables(scan: pd.DataFrame) -> list[Table]:
    """Two tables, a row an architecture, warm-up and depth: how it trained, and what it cost.

    Args:
        scan: A table of `gradlab.analyses.depth_scan.depth_scan`.
    """
    trained, inside = [], []
    searched = scan["stable_low"].notna().any()
    keys = ["arch", "warmup", "depth"]
    for _, rows in scan.groupby(keys, sort=True):
        arch, warmup, depth = rows[keys].iloc[0]
        place = [Cell(str(arch)), numeric(str(warmup), warmup), numeric(str(depth), depth)]
        mean = rows.mean(numeric_only=True)
        count = int(rows["trains"].sum())
        word = "yes" if count == len(rows) else "no" if not count else f"{count} of {len(rows)}"
        ends = ", ".join(dict.fromkeys(r for r in rows["reason"] if r != "completed"))
        trained.append(
            [
                *place,
                Cell(f"{word} ({ends})" if ends else word),
                number(mean["loss"]),
                number(mean["cosine"], ".3f"),
                *([number(mean["stable_low"], ".3g")] if searched else []),
            ]
        )
        ratios = [mean[f"first_{when}"] / mean[f"last_{when}"] for when in ("start", "end")]
        inside.append(
            [
                *place,
                *(numeric(number_text(ratio, ".2g"), ratio) for ratio in ratios),
                number(1000 * mean["seconds"], ".3g"),
                number(mean["bytes"] / 1e6, ".3g"),
            ]
        )
    named = ["architecture", "warm-up", "layers"]
    return [
        Table(
            [*named, "trains", "loss", "cosine", *(["stable LR"] if searched else [])],
            trained,
            "Loss over the last tenth of steps; cosine between tokens in the last layer",
            whole=named[:1],
        ),
        Table(
            [*named, "at first", "at last", "ms", "MB"],
            inside,
            "Mean |g| of the first layer over the last's; time and memory of a step",
            whole=named[:1],
        ),
    ]
