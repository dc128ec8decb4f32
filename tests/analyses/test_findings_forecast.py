"""What is said of an overflow that was foreseen."""

import pandas as pd
import pytest

from gradlab.analyses.findings_forecast import forecast_findings

CAME = 100


@pytest.mark.parametrize(
    ("said", "judged"),
    [(10, ", 3.0 times too few."), (120, ", 4.0 times too many."), (59, "."), (16, ".")],
)
def test_a_forecast_that_was_off_says_by_how_much(said: int, judged: str) -> None:
    foreseen = pd.DataFrame({"step": [70], "site": ["q"], "overflow_step": [70 + said]})
    headroom = pd.DataFrame({"step": [CAME]})
    overflows = pd.DataFrame({"step": [CAME], "direction": ["forward"]})
    (found,) = forecast_findings(foreseen, headroom, overflows)
    assert found.sentence.endswith(f"30 steps before it: about {said} steps left at q{judged}")
