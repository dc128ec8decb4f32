import math

import pandas as pd
import pytest
from by_hand import geometric_interval

from gradlab.analyses.compute import summarise_shares
from gradlab.analyses.steps_to import steps_sentences, steps_text, steps_to_final
from gradlab.errors import GradlabError

CURVES = {
    ("pre-ln", 0): [9.0, 6.0, 5.0, 4.0],
    ("pre-ln", 1): [9.0, 4.5, 5.0, 5.0],  # as low before its end
    ("pre-ln", 2): [9.0, 6.0, 5.0, 4.5],
    ("normformer", 0): [8.0, 4.0, 3.0, 2.0],
    ("normformer", 1): [8.0, 6.0, 4.9, 6.0],
    ("normformer", 2): [4.6, 4.4, math.nan, 9.0],
    ("post-ln", 0): [8.0, 7.0, 6.0, 5.0],
    ("post-ln", 1): [8.0, 7.0, 5.5, 5.0],
    ("post-ln", 3): [1.0, 1.0, 1.0, 1.0],  # a seed that the baseline has not
}
EVERY = 25


def table() -> pd.DataFrame:
    rows = [
        ["nano", arch, seed, EVERY * (place + 1) - 1, perplexity]
        for (arch, seed), curve in CURVES.items()
        for place, perplexity in enumerate(curve)
    ]
    return pd.DataFrame(rows, columns=["size", "arch", "seed", "step", "perplexity"])


def share_by_hand(arch: str, seed: int) -> float:
    curve, goal = CURVES[arch, seed], CURVES["pre-ln", seed][-1]
    for place, perplexity in enumerate(curve):
        if perplexity <= goal:
            return (place + 1) / len(CURVES["pre-ln", seed])
    return math.nan


def test_each_run_as_a_loop_finds_it() -> None:
    found = steps_to_final(table(), baseline="pre-ln")
    shares = {(row["arch"], row["seed"]): row["share"] for row in found.to_dict("records")}
    wanted = {key: share_by_hand(*key) for key in CURVES if key[1] < 3}
    assert shares == pytest.approx(wanted, nan_ok=True)
    assert shares["pre-ln", 1] == 0.5
    assert found["of"].unique().tolist() == [100]
    assert (found["steps"].dropna() == 100 * found["share"].dropna()).all()
    assert (found["reached"].dropna() <= found["target"][found["reached"].notna()]).all()


def test_over_seeds() -> None:
    summary = summarise_shares(steps_to_final(table(), baseline="pre-ln")).set_index("arch")
    row = summary.loc["normformer"]
    expected = geometric_interval(share_by_hand("normformer", seed) for seed in range(3))
    assert tuple(row[["share", "low", "high"]]) == pytest.approx(expected)
    assert (row["seeds"], row["reached"]) == (3, 3)
    assert not row["distinguished"]
    late = summary.loc["post-ln"]
    assert (late["seeds"], late["reached"], late["share"]) == (2, 1, 1.0)
    assert not late["distinguished"]


def test_in_words() -> None:
    row = {"seeds": 3, "reached": 3, "share": 0.7, "low": 0.6, "high": 0.8}
    assert steps_text(row) == "70 % (60 to 80)"
    assert steps_text({**row, "reached": 0}) == "never"
    assert steps_text({**row, "reached": 1, "low": math.nan}) == "70 %; never in 2 seeds"
    told = summarise_shares(steps_to_final(table(), baseline="pre-ln"))
    assert len(steps_sentences(told)) == 2
    assert steps_sentences(told)[1].endswith(
        "after 100 % of its steps, not distinguished from all of them; never in 1 seed."
    )
    never = told.assign(reached=0, share=math.nan)
    assert (
        steps_sentences(never)[1] == "post-ln never has the final perplexity of pre-ln, in 2 seeds."
    )


def test_a_baseline_that_broke_has_no_final_perplexity() -> None:
    broke = table()
    broke.loc[(broke["arch"] == "pre-ln") & (broke["step"] == 99), "perplexity"] = math.inf
    assert steps_to_final(broke, baseline="pre-ln")["share"].isna().all()
    with pytest.raises(GradlabError, match="unknown baseline 'pre-lm'"):
        steps_to_final(broke, baseline="pre-lm")
