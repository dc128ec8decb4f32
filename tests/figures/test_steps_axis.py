import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.figures.steps_axis import marked, thinned


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=300),
    st.integers(2, 60),
)
def test_what_is_left_out_lies_between_what_stays(values: list[float], most: int) -> None:
    line = np.array(values)
    kept = thinned(line, most)
    assert (np.diff(kept) > 0).all()
    assert kept[0] == 0
    assert kept[-1] == len(line) - 1
    assert len(kept) <= max(1.5 * most + 4, 0)
    finite = np.isfinite(line)
    if finite.any():
        assert line[kept][finite[kept]].max() == line[finite].max()
        assert line[kept][finite[kept]].min() == line[finite].min()
    assert finite[kept].all() == finite.all(), "a gap stays one"


def test_a_short_line_stays_whole() -> None:
    assert thinned(range(10), 10).tolist() == list(range(10))
    assert thinned([], 10).tolist() == []


@pytest.mark.parametrize("count", [1, 599, 5000])
def test_marks_that_would_be_one_are_one(count: int) -> None:
    steps = list(range(count))
    shown = marked(steps, (0, count))
    assert shown == steps if count < 600 else len(shown) <= 601
    assert shown[0] == 0
