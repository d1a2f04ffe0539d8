"""What a build or a reader does not use is said: columns, above all times, and items tables without a known column."""

import json
from pathlib import Path

import pytest

from gtcrec.data import load
from gtcrec.data.build.pipeline import BuildConfig, build
from gtcrec.data.build.report import write_report


def built(folder: Path, header: str, row: str, config: BuildConfig) -> dict:
    lines = "".join(f"u{k // 3},i{(k // 3 + k % 3) % 7},{row}\n" for k in range(18))
    (folder / "clicks.csv").write_text(f"user,item,{header}\n{lines}")
    (folder / "items.csv").write_text("item,title,colour\n" + "".join(f"i{k},t{k},red\n" for k in range(7)))
    return build(folder / "items.csv", folder / "clicks.csv", folder / "out", config)


@pytest.mark.parametrize(
    "cell", ["2021-01-01", "2021-01-01T10:00:00Z", "1609459200", "1609459200000", "2021-01-01 10:00"]
)
@pytest.mark.parametrize("name", ["order_date", "Zeit", "when"])
def test_a_column_of_times_that_is_not_used_is_named(tmp_path: Path, name: str, cell: str) -> None:
    report = built(tmp_path, name, cell, BuildConfig(core=0))
    assert report["unused"] == {"interactions": [f"{name} (holds times? then set time={name})"], "items": ["colour"]}
    text = write_report(report)
    assert f"Columns of the interactions that no setting names: {name} (holds times? then set time={name})." in text
    assert "Nothing." not in text


def test_columns_that_hold_no_times_are_listed_and_used_ones_are_not(tmp_path: Path) -> None:
    report = built(tmp_path, "day,note,amount", "2021-01-01,hello,3", BuildConfig(core=0, time="day", keep=("colour",)))
    assert report["unused"] == {"interactions": ["note", "amount"], "items": []}


def test_a_build_that_leaves_nothing_out_says_so(tmp_path: Path) -> None:
    report = built(tmp_path, "timestamp", "2021-01-01", BuildConfig(core=0, keep=("colour",)))
    assert write_report(report).endswith("## What was left out\n\nNothing.\n")


def test_an_items_table_without_a_title_or_image_is_noted(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text("userID\titemID\n0\t0\n1\t1\n")
    (tmp_path / "items.tsv").write_text("itemID\tname\tpicture\n0\tmug\ta.png\n1\ttea\tb.png\n")
    expected = {"items.tsv: no column called title or image, found itemID, name, picture": 2}
    assert load(tmp_path).notes == expected
    (tmp_path / "x.inter").rename(tmp_path / "interactions.tsv")
    assert load(tmp_path).notes == expected


def test_unused_columns_may_hold_lists_and_objects(tmp_path: Path) -> None:
    rows = [{"user": f"u{k}", "item": "i", "tags": ["a"], "more": {"b": 1}, "at": "2021-01-01"} for k in range(3)]
    (tmp_path / "clicks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "items.csv").write_text("item\ni\n")
    report = build(tmp_path / "items.csv", tmp_path / "clicks.jsonl", tmp_path / "out", BuildConfig(core=0))
    assert report["unused"]["interactions"] == ["tags", "more", "at (holds times? then set time=at)"]
