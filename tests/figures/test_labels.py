import pytest

from gradlab.figures.labels import count_label, rate_label


@pytest.mark.parametrize(
    ("number", "label"),
    [
        (12, "12"),
        (999, "999"),
        (1_000, "1.0 k"),
        (314_880, "315 k"),
        (999_900, "1.0 M"),
        (1_234_000, "1.2 M"),
        (9_960_000, "10 M"),
        (42_900_000, "43 M"),
        (124_377_600, "124 M"),
        (2_648_724_480, "2.6 B"),
    ],
)
def test_counts(number: float, label: str) -> None:
    assert count_label(number) == label


@pytest.mark.parametrize(
    ("rate", "label"),
    [(0, "0"), (0.14, "0.14"), (0.001, "0.001"), (5e-5, "5e-5"), (2.5e-4, "2.5e-4")],
)
def test_rates(rate: float, label: str) -> None:
    assert rate_label(rate) == label
