"""What is watched while a run trains: numbers by step, each from what was seen up to that step."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

import gradlab
from benchmarks.forecast.record import RECORD
from gradlab.forecast import Forecaster

WINDOW = 50
"""Steps that a step is compared with."""

Series: TypeAlias = "pd.Series[float]"


@dataclass(frozen=True)
class Watched:
    """A recorded run.

    Attributes:
        seed: Its seed.
        break_step: Where it broke, or at an earlier look overflowed first; None if it lasted.
        signals: By name, a number a step or look before the break: the larger, the worse.
    """

    seed: int
    break_step: int | None
    signals: Mapping[str, Series]


def watched(folder: Path) -> Watched:
    """A run's signals.

    | signal | the number |
    |---|---|
    | forecast | −(steps left to the overflow that is foreseen); −inf where none is |
    | least headroom | −(bits left at the FP16 output that has the fewest) |
    | gradient norm | over its median in the last `WINDOW` steps |
    | loss | standard deviations above its mean in the last `WINDOW` steps |
    | update norm | over its median in the last `WINDOW` steps |
    | kurtosis | of a block's output, the largest |
    """
    run = gradlab.load(folder)
    told = json.loads((folder / RECORD).read_text())
    loss, norm = pd.Series(told["loss"]), pd.Series(told["grad_norm"])
    before = loss.shift(1).rolling(WINDOW)
    updates = run.table("updates").set_index("step")["norm"]
    looks = WINDOW // int(np.diff(updates.index).min())
    headroom = run.table("headroom")
    narrow = headroom[(headroom["direction"] == "forward") & (headroom["dtype"] == "float16")]
    signals = {
        "forecast": foreseen(narrow),
        "least headroom": -narrow.groupby("step")["headroom_bits"].min(),
        "gradient norm": norm / norm.shift(1).rolling(WINDOW).median(),
        "loss": (loss - before.mean()) / before.std(),
        "update norm": updates / updates.shift(1).rolling(looks).median(),
        "kurtosis": run.table("kurtosis").groupby("step")["kurtosis"].max(),
    }
    verdict = told["verdict"]
    broke = None
    if verdict["reason"] != "completed":
        over = narrow.loc[narrow["headroom_bits"] == -math.inf, "step"]
        broke = int(min([verdict["step"], *over]))
    end = math.inf if broke is None else broke
    return Watched(
        run.info["meta"]["seed"],
        broke,
        {name: one[one.index < end].dropna() for name, one in signals.items()},
    )


def foreseen(headroom: pd.DataFrame) -> Series:
    """What the forecast says at each look, from the recorded rows of `headroom`."""
    forecaster, said = Forecaster(), {}
    for step, rows in headroom.groupby("step"):
        columns = {str(name): rows[name].tolist() for name in rows}
        forecast = forecaster.take(int(str(step)), [{"headroom": columns}])
        said[step] = (
            -math.inf if forecast is None else float(int(str(step)) - forecast.overflow_step)
        )
    return pd.Series(said, dtype=float)
