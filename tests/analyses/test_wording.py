import doctest
import math

import pytest

from gradlab.analyses import wording
from gradlab.analyses.wording import difference_sentence, mean_text, printable


def test_the_examples() -> None:
    done = doctest.testmod(wording)
    assert done.attempted
    assert not done.failed


@pytest.mark.parametrize("letter", [*map(chr, range(32)), "\x7f", "\x9b", "\u202e", "\ud800"])
def test_what_acts_or_misleads_is_replaced(letter: str) -> None:
    kept = letter in "\t\n"
    assert printable(f"a{letter}b") == (
        "a" + (letter if kept else "\N{REPLACEMENT CHARACTER}") + "b"
    )


def test_plain_text_stays() -> None:
    text = "blocks.0.ffn — λ_resid ⊙ 日本語 🙂 −0.5"
    assert printable(text) == text


def test_a_mean_with_its_spread() -> None:
    row = {"loss": 2.5, "loss_min": 2.25, "loss_max": 2.75, "loss_low": -1.0, "loss_high": math.inf}
    assert mean_text(row, "loss", 3) == "2.5 (2.25 to 2.75)"
    assert mean_text(row, "loss", 3, ends=("_low", "_high"), form=".2f") == "2.50 (−1.00 to inf)"
    assert mean_text(row, "loss", 1) == "2.5"
    assert mean_text(row, "loss", 0) == mean_text({"loss": math.nan}, "loss", 2) == "–"


ROW = {"pairs": 3, "seeds": 3, "low": "1", "high": "2", "distinguished": True}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({}, "a's loss is 9 lower than b's (95 % interval 1 to 2, 3 seeds)."),
        (
            {"distinguished": False, "seeds": 4},
            "a's loss is not distinguished from b's: it is 9 lower on average "
            "(95 % interval 1 to 2, 3 of 4 seeds).",
        ),
        ({"pairs": 1}, "a's loss is 9 lower than b's on the one seed of both: not distinguished."),
        ({"pairs": 0}, "a's loss cannot be compared with b's: none ended."),
    ],
)
def test_a_difference_as_a_sentence(changed: dict[str, object], sentence: str) -> None:
    words = {"than": " than", "one": "", "seldom": "none ended"}
    assert (
        difference_sentence({**ROW, **changed}, "a's loss", "b's", "9 lower", **words) == sentence
    )
