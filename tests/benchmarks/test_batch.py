"""The benchmark of batches refuses files that differ, and its tables hold what it found."""

from typing import Any

import pytest

from benchmarks.speed import batch


def found(seconds: float, total: str | None = "a") -> dict[str, Any]:
    return {"seconds": seconds, "first": seconds / 2, "rows": 1000, "peak": 10**9, "sha256": total}


def test_files_that_differ_are_refused() -> None:
    with pytest.raises(SystemExit, match="the files differ"):
        batch._summary([{"local": found(1), "ray1": found(2, "b")}])


def test_the_tables_hold_medians_spreads_and_rates() -> None:
    jobs = {
        "recommend": batch._summary([{"local": found(s), "objects": found(4 * s, None)} for s in (1, 2, 5)]),
        "encode": batch._summary([{"local": found(10)}]),
    }
    about = {"cores": 2, "rounds": 3, "k": 10, "items": 50, "users": 100, "texts": 1000}
    page = [line for block in batch.blocks({"about": about, **jobs}).values() for line in block.lines()]
    assert "| this process | 2.0 (1.0 to 5.0) | 1.0 (0.5 to 2.5) | 500 | 1,000 |" in page
    assert "| an object a row | 8.0 (4.0 to 20.0) | 4.0 (2.0 to 10.0) | 125 | 1,000 |" in page
    assert "| this process | 10.0 (10.0 to 10.0) | 5.0 (5.0 to 5.0) | 100 | 1,000 |" in page
