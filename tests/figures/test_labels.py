import pytest
from matplotlib.lines import Line2D

from gradlab.figures.labels import count_label, distinct_labels, plain_label, rate_label
from gradlab.figures.style import figure_of, legend_above, looks, paper_axes


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
    [
        *[(0, "0"), (0.14, "0.14"), (0.001, "0.001"), (5e-5, "5e-5"), (2.5e-4, "2.5e-4")],
        *[(float("inf"), "inf"), (float("nan"), "nan")],
    ],
)
def test_rates(rate: float, label: str) -> None:
    assert rate_label(rate) == label


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("pre-ln", "pre-ln"),
        ("a $x$", r"a \$x\$"),
        ("two\nlines", "two lines"),
        ("x" * 40, "x" * 27 + "…"),
        ("_hidden", "\u200b_hidden"),
        ("", "unnamed"),
    ],
)
def test_names_of_others_are_plain_text(name: str, label: str) -> None:
    assert plain_label(name) == label


def test_any_name_can_be_drawn_and_stands_in_the_legend() -> None:
    names = ["_b", "$x^{", "a\\b", "<script>", "\u202e", "$$"]
    ax = paper_axes()
    handles = [Line2D([], [], label=look.label) for look in looks(names).values()]
    legend_above(ax, handles)
    figure_of(ax).draw_without_rendering()
    assert len(ax.get_legend().get_texts()) == len(names)


def test_names_that_begin_alike_are_told_apart_by_their_ends() -> None:
    long = "2026-11-26_experiment_of_the_evening"
    names = [f"{long}_lr_1e-3", f"{long}_lr_3e-3", "short", f"{long}_a\n", f"{long}_a\r"]
    found = distinct_labels(names)
    assert list(found) == names
    assert len(set(found.values())) == len(names)
    assert found["short"] == "short"
    assert found[names[0]].endswith("lr_1e-3")
    assert all(len(label) <= 31 for label in found.values())
    assert distinct_labels([f"{long}_a"]) == {f"{long}_a": plain_label(f"{long}_a")}
