"""The benchmark of encoders measures what it names, and replaces its table only."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "encode", raising=False)
    return __import__("encode")


@pytest.mark.parametrize("case", ["poster", "numbers", "again"])
def test_a_case_encodes_all_its_items(script: ModuleType, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, settings = script.CASES[case]
    monkeypatch.setitem(script.IMAGES, "large", (20, 20))
    monkeypatch.setitem(script.CASES, case, (name, 150, settings))
    assert script.measure(case) > 0


def test_the_table_is_written_between_its_marks(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = {"about": {"rounds": 3, "processor": "a chip"}}
    result |= {case: {"min": 1, "median": 2000, "max": 3000} for case in script.CASES}
    monkeypatch.setattr(script, "PAGE", tmp_path / "content.md")
    script.PAGE.write_text(f"before\n{script.START}old\n{script.END}after\n")
    script.write(json.loads(json.dumps(result)))
    lines = script.PAGE.read_text().splitlines()
    assert "| 3 numbers | 2,000 (1 to 3,000) |" in lines
    assert (lines[0], lines[-1], "old" in lines) == ("before", "after", False)
    assert "3 rounds, in CPU time with one thread on a chip; drawn" in " ".join(lines)


def test_a_page_without_the_marks_is_refused(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "PAGE", tmp_path / "content.md")
    script.PAGE.write_text("nothing\n")
    with pytest.raises(SystemExit, match=r"content\.md: wanted the lines <!-- throughput --> and <!-- end of"):
        script.write({})
