"""Parts of scores: how lists change without them, and how bars are laid out."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtcrec.serving.page.score_parts import (
    Part,
    ScoredItem,
    leave_out,
    mark_moves,
    measure,
    part_names,
    scored_items,
)

NUMBERS = st.floats(-10, 10).map(lambda x: round(x, 6))
SCORES = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=12)


def items(rows: list[tuple[float, ...]]) -> list[ScoredItem]:
    made = [
        ScoredItem(f"p{place}", 0, sum(row), tuple(Part(f"m{n}", value, n) for n, value in enumerate(row)))
        for place, row in enumerate(rows)
    ]
    return leave_out(made, [])


@given(SCORES)
def test_what_is_left_adds_up_and_descends(rows: list[tuple[float, ...]]) -> None:
    left = leave_out(items(rows), ["m1"])
    assert [one.rank for one in left] == list(range(1, len(rows) + 1))
    assert [one.score for one in left] == sorted((one.score for one in left), reverse=True)
    for one in left:
        assert [part.name for part in one.parts] == ["m0", "m2"]
        assert sum(part.value for part in one.parts) == pytest.approx(one.score, abs=1e-9)


@given(SCORES)
def test_bars_stay_within_the_width_and_do_not_overlap(rows: list[tuple[float, ...]]) -> None:
    made = items(rows)
    scale = measure(made)
    for one in made:
        segments = sorted(scale.segments(one.parts))
        assert segments[0][0] >= -0.01
        assert max(start + width for start, width, _ in segments) <= 100.01
        for (start, width, _), (following, *_) in pairwise(segments):
            assert start + width <= following + 0.01


def test_moves_are_places_gained_against_the_list_before() -> None:
    before = items([(3.0, 0, 0), (2.0, 0, 0), (1.0, 0, 0)])
    after = mark_moves(leave_out(items([(1.0, 0, 0), (3.0, 0, 0), (2.0, 0, 0), (0.5, 0, 0)]), []), before)
    assert [(one.item, one.move) for one in after] == [("p1", 1), ("p2", 1), ("p0", -2), ("p3", None)]


def test_parts_that_read_the_same_of_an_item_are_one() -> None:
    explained = {
        "score": 1.5,
        "nearest": [],
        "because": [],
        "parts": [
            {"view": "linear", "value": 1.0},
            {"view": "embedding: text", "value": 0.2},
            {"view": "history: text", "value": 0.3},
        ],
    }
    rows = [
        {"item": "a", "rank": 1, "score": 1.4999999, "explanation": explained},
        {"item": "b", "rank": 2, "score": 1.0},
    ]
    assert part_names(rows) == ["linear", "text"]
    first, second = scored_items(rows)
    assert (first.score, [part.color for part in first.parts]) == (1.5, [0, 1])
    assert [part.value for part in first.parts] == [1.0, 0.5]
    assert second.parts == ()
