"""Filters and pages of `gtcrec recommend`; `gtcrec similar` and `gtcrec users`."""

import csv
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import gtcrec
from gtcrec.cli.main import execute


def rows_of(capsys: pytest.CaptureFixture[str], *line: str) -> list[dict]:
    assert execute([*line, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["bpr", "popular"])
@pytest.mark.parametrize("who", [["--user", "u0007"], ["--user", "u0007", "--device", "cpu"], ["--all"]])
def test_options_of_a_list_are_those_of_the_library(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, who: list[str]
) -> None:
    model = gtcrec.Recommender.load(runs / name)
    (tmp_path / "items.txt").write_text("\n".join(model.item_ids[:30]) + "\n\n")
    asked = ["--where", "price < 25", "--exclude", "p0001,p0002", "--items", str(tmp_path / "items.txt")]
    found = rows_of(
        capsys, "recommend", str(runs / name), *who, *asked, "-k", "3", "--offset", "2", "--diversity", "0.4"
    )
    expected = model.recommend(
        None if who == ["--all"] else "u0007",
        k=3, where="price < 25", exclude=["p0001", "p0002"], items=model.item_ids[:30], offset=2, diversity=0.4,
    )  # fmt: skip
    shown = [(row["user_id"], row["item_id"], row["rank"]) for row in found]
    assert shown == [tuple(row.values())[:3] for row in expected.to_pylist()]
    assert len(shown) >= 3


def test_lists_of_all_users_in_blocks_are_filtered_too(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["recommend", str(runs / "bpr"), "--all", "--where", "price < 25", "-k", "3", "--offset", "1"]
    whole = rows_of(capsys, *asked)
    out = tmp_path / "lists.parquet"
    assert execute([*asked, "--format", "parquet", "--out", str(out), "--block-users", "30"]) == 0
    assert pq.read_table(out).to_pylist() == whole
    assert whole


def test_a_filter_that_cannot_be_read_is_refused_before_the_work(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ([], ["--format", "parquet", "--out", str(tmp_path / "x.parquet")]):
        line = ["recommend", str(runs / "bpr"), "--all", "--where", "prize < 25", *more]
        assert execute(line) == 1
        assert "error: filter: at position 1: no column 'prize' (did you mean 'price'?)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_items_that_is_no_text_is_named(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["recommend", str(runs / "bpr"), "--user", "u0007", "--items", str(tmp_path / "items")]
    assert execute(line) == 1
    assert f"{tmp_path}/items: No such file" in capsys.readouterr().err
    (tmp_path / "items").write_bytes(b"\xff\xfe")
    assert execute(line) == 1
    assert f"{tmp_path}/items: expected UTF-8 text, an item id a line" in capsys.readouterr().err


def test_similar_prints_the_items_nearest_to_an_item(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = gtcrec.Recommender.load(runs / "bpr")
    line = ["similar", str(runs / "bpr"), "p0003", "p0010", "-k", "3"]
    assert rows_of(capsys, *line) == model.similar_items(["p0003", "p0010"], 3).to_pylist()
    assert (
        rows_of(capsys, *line, "--where", "price < 25")
        == model.similar_items(["p0003", "p0010"], 3, where="price < 25").to_pylist()
    )
    assert execute(line) == 0
    table = capsys.readouterr().out
    assert re.split(r"\s{2,}|\n", table)[:3] == ["similar to", "rank", "score"]
    (title,) = model.titles_of(model.similar_items("p0003", 1)["similar_item_id"])
    assert title in table
    assert execute([*line, "--view", "image"]) == 1
    assert "unknown view 'image'; the model's modalities: none" in capsys.readouterr().err
    assert execute(["similar", str(runs / "bpr"), "mug"]) == 1
    assert "item 'mug' is not in the data" in capsys.readouterr().err


def test_users_prints_whom_an_item_may_please(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = gtcrec.Recommender.load(runs / "bpr")
    line = ["users", str(runs / "bpr"), "p0003", "-k", "80"]
    assert rows_of(capsys, *line) == model.users_for("p0003", 80).to_pylist()
    everyone = rows_of(capsys, *line, "--with-seen")
    assert len(everyone) == 80 > len(model.users_for("p0003", 80))
    assert execute([*line, "--format", "csv", "--out", str(tmp_path / "users.csv")]) == 0
    with (tmp_path / "users.csv").open(newline="") as file:
        assert [row["user_id"] for row in csv.DictReader(file)] == model.users_for("p0003", 80)["user_id"].to_pylist()
    assert execute(line) == 0
    assert re.split(r"\s{2,}|\n", capsys.readouterr().out)[:4] == ["item", "rank", "score", "user"]
    assert execute([*line, "--format", "parquet"]) == 2
