"""The clients of the load find every wrong answer, and kills lose no event."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving import kills
from benchmarks.serving.client import Expected


@pytest.fixture
def expected(tmp_path: Path) -> Expected:
    """Two users, three items; the list of "u" under version "v" is b, c, a."""
    lists = {"v_items": np.array([[1, 2, 0], [0, -1, -1]]), "v_scores": np.array([[3.0, 2.0, 1.0], [1.0, 0.0, 0.0]])}
    np.savez(tmp_path / "lists.npz", users=["u", "w"], items=["a", "b", "c"], versions=["v"], **lists)
    return Expected(tmp_path / "lists.npz", n=2)


def answer(items: str, scores: tuple[float, ...] = (3.0, 2.0), user: str = "u", version: str = "v") -> bytes:
    rows = [{"item": item, "score": score} for item, score in zip(items, scores, strict=True)]
    return json.dumps({"user": user, "version": version, "impression": "a-" + "0" * 24, "items": rows}).encode()


def test_a_right_answer_has_no_fault(expected: Expected) -> None:
    assert [expected.fault(0, answer("bc")) for _ in range(2)] == ["", ""]
    assert expected.fault(1, answer("a", (1.0,), user="w")) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        answer("cb"),
        answer("bc", (3.0, 2.1)),
        answer("b", (3.0,)),
        answer("bc", user="w"),
        answer("bc", version="x"),
    ],
)
def test_a_wrong_answer_is_found_also_after_a_right_one(expected: Expected, wrong: bytes) -> None:
    expected.fault(0, answer("bc"))
    assert expected.fault(0, wrong).startswith("u: ")


def test_a_clicked_item_must_be_gone(expected: Expected) -> None:
    expected.fault(0, answer("bc"))
    expected.click(0, "b")
    assert expected.fault(0, answer("bc")).startswith("u: items")
    assert expected.fault(0, answer("ca", (2.0, 1.0))) == ""


@pytest.mark.slow
def test_no_acknowledged_event_is_lost_or_kept_twice_through_three_kills(tmp_path: Path) -> None:
    result = kills.kill_workers(tmp_path, 3)
    assert result["acknowledged"] > 100
    assert (result["lost"], result["twice"], result["kills"]) == (0, 0, 3)
