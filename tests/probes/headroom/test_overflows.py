import math
from dataclasses import replace

import torch

from gradlab.probes.headroom.overflows import overflow_rows, overflows, site_label
from gradlab.probes.probe import Step
from gradlab.probes.sites import HANDED, Details, Place, SiteStep

HALF, WIDE = torch.float16, torch.float32
CLEAN = Details(max_abs=1.0, infinite=0, nan=0, subnormal=0, nonzero=4)


def step_of(*entries: tuple[str, torch.dtype, float, Details]) -> SiteStep:
    """Sites in order: (name, dtype, largest magnitude or inf or NaN, counts)."""
    return SiteStep(
        step=7,
        sampled=False,
        places=tuple(Place(name, "backward", dtype) for name, dtype, _, _ in entries),
        order=tuple(range(len(entries))),
        low=[0.0 for _ in entries],
        high=[high for _, _, high, _ in entries],
        details={i: entry[3] for i, entry in enumerate(entries)},
        entries=dict.fromkeys(range(len(entries)), 4),
    )


def counts(infinite: int = 0, nan: int = 0) -> Details:
    return Details(max_abs=1.0, infinite=infinite, nan=nan, subnormal=0, nonzero=4)


def test_kinds_counts_and_the_producer() -> None:
    step = step_of(
        ("a", HALF, 3.0, CLEAN),
        ("b", HALF, math.inf, counts(infinite=2)),
        ("c", WIDE, math.nan, counts(nan=1)),
        ("d", HALF, math.nan, counts(infinite=1, nan=3)),
        ("e", HALF, math.nan, counts(nan=4)),
    )
    found = [(e.place.site, e.kind, e.count, e.producer, e.order) for e in overflows(step)]
    assert found == [
        ("b", "inf", 2, "b gradient", 1),
        ("d", "both", 4, None, 3),
        ("e", "nan", 4, None, 4),
    ]


def test_no_more_entries_are_counted_than_were_looked_at() -> None:
    step = replace(step_of(("a", HALF, math.inf, counts(infinite=8))), entries={0: 8})
    rows = overflow_rows(step, overflows(step), Step(7, 1.0, True))
    assert (rows["count"], rows["numel"]) == ([8], [8])


def test_the_order_is_the_steps_own() -> None:
    bad = counts(infinite=1)
    step = step_of(("a", HALF, math.inf, bad), ("b", HALF, math.inf, bad), ("c", HALF, 1.0, CLEAN))
    turned = replace(step, order=(1, 0))
    assert [(e.place.site, e.order) for e in overflows(turned)] == [("b", 0), ("a", 1)]


def test_without_counts_an_event_has_none() -> None:
    step = step_of(("a", HALF, math.inf, CLEAN), ("b", HALF, math.nan, CLEAN))
    uncounted = replace(step, details={})
    assert [(e.kind, e.count) for e in overflows(uncounted)] == [("inf", None), ("nan", None)]


def test_a_producer_whose_input_was_not_finite_is_what_lies_before_it() -> None:
    bad = counts(infinite=1)
    step = replace(step_of(("block.fc", HALF, math.inf, bad)), causes={0: HANDED})
    assert [e.producer for e in overflows(step)] == ["block (between its modules)"]


def test_minus_infinity_from_a_module_that_masks_is_no_event() -> None:
    mask = Place("mask", "forward", HALF, masks=True)
    step = replace(step_of(("mask", HALF, 3.0, CLEAN)), places=(mask,), low=[-math.inf])
    assert overflows(step) == []
    assert len(overflows(replace(step, high=[math.inf]))) == 1
    assert len(overflows(replace(step, places=(replace(mask, masks=False),)))) == 1


def test_a_cast_of_a_finite_value_that_does_not_fit() -> None:
    step = step_of(("wide", WIDE, 70000.0, CLEAN), ("half", HALF, math.inf, counts(infinite=1)))
    assert [event.kind for event in overflows(step)] == ["cast"]


def test_a_wide_value_that_still_rounds_into_range_is_no_cast_overflow() -> None:
    step = step_of(("wide", WIDE, 65519.0, CLEAN), ("half", HALF, math.inf, counts(infinite=1)))
    assert [event.kind for event in overflows(step)] == ["inf"]


def test_a_wide_tensor_is_an_event_only_where_nothing_before_it_was() -> None:
    widened = ("softmax", WIDE, math.inf, counts(infinite=1))
    scores = ("scores", HALF, math.nan, counts(nan=1))
    assert [e.place.site for e in overflows(step_of(widened, scores))] == ["softmax", "scores"]
    assert [e.place.site for e in overflows(step_of(scores, widened))] == ["scores"]


def test_without_fp16_there_are_no_events() -> None:
    assert overflows(step_of(("a", WIDE, math.inf, counts(infinite=1)))) == []
    assert overflows(step_of(("a", torch.bfloat16, math.inf, counts(infinite=1)))) == []


def test_labels() -> None:
    assert site_label(Place("x", "forward", HALF)) == "x"
    assert site_label(Place("x", "backward", HALF)) == "x gradient"
