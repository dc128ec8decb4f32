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
        ahead = int(came) - int(first["step"])
        found.append(
            Finding(
                "foreseen",
                f"The overflow at step {int(came)} was foreseen first at step {first['step']}, "
                f"{counted(ahead, 'step')} before it: about {_left(first)}{_off(first, ahead)}.",
                is_fact=True,
            )
        )
    last = forecasts.iloc[-1]
    if last["step"] == headroom["step"].max():
        told = f"About {_left(last)}, as of step {last['step']}, which is rough: {_TRIED}."
        found.append(Finding("forecast", told))
    elif pd.isna(came):
        sentence = (
            f"At {counted(len(forecasts), 'step')} an overflow was foreseen, last at step "
            f"{last['step']} (about {_left(last)}); none came."
        )
        found.append(Finding("foreseen", sentence, is_fact=True))
    return found


_TRIED = "in trials four forecasts of five said 9 to 145 where 50 were left"
"""How far one is to be trusted: docs/forecast.md has the table."""


def _left(forecast: "pd.Series[Any]") -> str:
    return f"{counted(_steps(forecast), 'step')} left at {forecast['site']}"


def _off(forecast: "pd.Series[Any]", ahead: int) -> str:
    """That it was off by twice or more, if so."""
    said = _steps(forecast)
    ratio = max(said, ahead) / min(said, ahead)
    return "" if ratio < 2 else f", {ratio:.1f} times too {'many' if said > ahead else 'few'}"


def _steps(forecast: "pd.Series[Any]") -> int:
    return int(forecast["overflow_step"]) - int(forecast["step"])
