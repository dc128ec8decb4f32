"""What was foreseen of a run's overflow, and whether it came."""

from typing import Any

import pandas as pd

from gradlab.analyses.finding import Finding, counted


def forecast_findings(
    forecasts: pd.DataFrame, headroom: pd.DataFrame, overflows: pd.DataFrame
) -> list[Finding]:
    """The overflow that is foreseen at a run's end, or what had been said of one that came.

    Args:
        forecasts: The run's `forecasts` table.
        headroom: Its `headroom`: the last step with rows is the last of which something is said.
        overflows: Its `overflows`.
    """
    if forecasts.empty:
        return []
    came = overflows.loc[overflows["direction"] == "forward", "step"].min()
    before = forecasts if pd.isna(came) else forecasts[forecasts["step"] < came]
    found = []
    if not pd.isna(came) and len(before):
        first = before.iloc[0]
        ahead = counted(int(came) - int(first["step"]), "step")
        found.append(
            Finding(
                "foreseen",
                f"The overflow at step {int(came)} was foreseen first at step {first['step']}, "
                f"{ahead} before it: about {_left(first)}.",
                is_fact=True,
            )
        )
    last = forecasts.iloc[-1]
    if last["step"] == headroom["step"].max():
        found.append(Finding("forecast", f"About {_left(last)}, as of step {last['step']}."))
    elif pd.isna(came):
        sentence = (
            f"At {counted(len(forecasts), 'step')} an overflow was foreseen, last at step "
            f"{last['step']} (about {_left(last)}); none came."
        )
        found.append(Finding("foreseen", sentence, is_fact=True))
    return found


def _left(forecast: "pd.Series[Any]") -> str:
    left = int(forecast["overflow_step"]) - int(forecast["step"])
    return f"{counted(left, 'step')} left at {forecast['site']}"
