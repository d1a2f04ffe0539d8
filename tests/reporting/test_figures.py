"""Plots of a training."""

from typing import Any

import pytest

from gtcrec.reporting import figures


@pytest.mark.parametrize("draw", [figures.curves, figures.losses])
def test_one_epoch_is_no_curve(draw: Any) -> None:
    line = {"epoch": 1, "losses": {"bpr": 1.0}, "valid": {"recall@20": 0.1}, "best": True}
    assert draw([line]) == b""
    assert draw([]) == b""
    assert draw([line, {**line, "epoch": 2}]).startswith(b"\x89PNG")


def test_epochs_without_validation_are_left_out_of_the_curves() -> None:
    lines = [{"epoch": e, "losses": {}, "valid": {"mrr": 0.1} if e % 2 else None, "best": e == 1} for e in range(5)]
    assert figures.curves(lines).startswith(b"\x89PNG")
    assert figures.losses(lines) == b""


@pytest.mark.parametrize("count", [1, 4, 6])
def test_any_number_of_cut_offs_can_be_drawn(count: int) -> None:
    valid = {f"recall@{k + 1}": 0.1 for k in range(count)}
    lines = [{"epoch": e, "losses": {}, "valid": valid, "best": False} for e in (1, 2)]
    assert figures.curves(lines, figures.DARK).startswith(b"\x89PNG")


@pytest.mark.parametrize(("values", "ticks"), [((3.0, 40.0), ("5", "10", "20")), ((20.0, 5e6), ("100", "1,000,000"))])
def test_a_logarithmic_axis_has_plain_numbers(values: tuple[float, float], ticks: tuple[str, ...]) -> None:
    marks = [(x, figures.Mark("gtc", 0.5, 0.4, 0.6)) for x in values]
    svg = figures.points(marks, "ndcg@20", "seconds", logarithmic=True).decode()
    assert "math" not in svg
    assert [tick for tick in ticks if f"<!-- {tick} -->" not in svg] == []


def test_panels_stand_one_below_the_other_where_there_is_one_column() -> None:
    lines = [{"epoch": e, "losses": {"bpr": 1 / e, "reg": 0.1}, "valid": None, "best": False} for e in (1, 2)]
    (wide, low), (narrow, high) = (png_size(figures.losses(lines, columns=n)) for n in (2, 1))
    assert wide == 2 * narrow
    assert high == 2 * low


def png_size(content: bytes) -> tuple[int, int]:
    return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
