"""The benchmark of blocks refuses files that differ, and prints what it found."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "blocks", raising=False)
    return __import__("blocks")


def found(seconds: float, total: str | None = "a") -> dict[str, Any]:
    return {"seconds": seconds, "first": seconds / 2, "rows": 1000, "peak": 10**9, "sha256": total}


def test_files_that_differ_are_refused(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match="the files differ"):
        script._summary([{"local": found(1), "ray1": found(2, "b")}])


def test_the_page_holds_medians_spreads_and_rates(script: ModuleType) -> None:
    jobs = {
        "recommend": script._summary([{"local": found(s), "objects": found(4 * s, None)} for s in (1, 2, 5)]),
        "encode": script._summary([{"local": found(10)}]),
    }
    about = {"cores": 2, "rounds": 3, "k": 10, "items": 50, "users": 100, "texts": 1000}
    page = script.lines({"about": about, **jobs})
    assert "| this process | 2.0 (1.0 to 5.0) | 1.0 (0.5 to 2.5) | 500 | 1,000 |" in page
    assert "| an object a row | 8.0 (4.0 to 20.0) | 4.0 (2.0 to 10.0) | 125 | 1,000 |" in page
    assert "| this process | 10.0 (10.0 to 10.0) | 5.0 (5.0 to 5.0) | 100 | 1,000 |" in page
