"""The benchmark of encoders measures what it names."""

import pytest

from benchmarks.speed import encode


@pytest.mark.parametrize("case", ["poster", "numbers", "again"])
def test_a_case_encodes_all_its_items(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, settings = encode.CASES[case]
    monkeypatch.setitem(encode.IMAGES, "large", (20, 20))
    monkeypatch.setitem(encode.CASES, case, (name, 150, settings))
    assert encode.measure(case) > 0


def test_the_table_has_the_rates_of_what_was_measured() -> None:
    result = {"about": {"rounds": 3, "processor": "a chip"}}
    result |= {case: {"min": 1, "median": 2000, "max": 3000} for case in encode.CASES if case != "clip"}
    block = encode.table_block(result)
    assert "| 3 numbers | 2,000 (1 to 3,000) |" in block.lines()
    assert len(block.rows) == len(encode.CASES) - 1
    assert "3 rounds, in CPU time with one thread on a chip; drawn" in block.text[0]
