from gradlab.pages.loss_tables import difference_table

DIFFERENCE = {"difference": 0.5, "low": 0.25, "high": 0.75, "pairs": 2, "seeds": 2}


def test_a_reference_that_nothing_is_compared_with_has_no_column() -> None:
    headings = ["row", "against a", "against b"]
    one = difference_table(headings, [(["x"], [None, DIFFERENCE]), (["b"], [None, None])])
    assert one.headings == ["row", "against b"]
    assert [len(row) for row in one.rows] == [2, 2]
    assert one.rows[0][1].order == 0.5
    both = difference_table(headings, [(["x"], [DIFFERENCE, None]), (["y"], [None, DIFFERENCE])])
    assert both.headings == headings
