"""`gtcrec recommend`: whose lists, in which format."""

import csv
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gtcrec.cli.main import execute


def test_each_format_of_recommend_holds_the_same_rows(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["recommend", str(runs / "popular"), "--user", "u0007", "-u", "u0002", "-k", "3"]
    assert execute([*line, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["user_id"], row["rank"]) for row in rows] == [(u, r) for u in ("u0007", "u0002") for r in (1, 2, 3)]
    assert execute([*line, "--format", "csv"]) == 0
    parsed = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert parsed == [{key: str(value) for key, value in row.items()} for row in rows]
    for form in ("json", "csv", "parquet", "text"):
        assert execute([*line, "--format", form, "--out", str(tmp_path / form)]) == 0
        shown, said = capsys.readouterr()
        assert (shown, said) == ("", f"6 rows: {tmp_path / form}\n")
    assert json.loads((tmp_path / "json").read_text()) == rows
    assert pq.read_table(tmp_path / "parquet").to_pylist() == rows
    assert execute(line) == 0
    table = capsys.readouterr().out
    assert table == (tmp_path / "text").read_text()
    assert table.split()[:5] == ["user", "rank", "score", "item", "title"]
    assert [item for item in re.findall(r"\bp\d{4}\b", table)] == [row["item_id"] for row in rows]


def test_what_a_killed_process_left_of_a_list_is_removed(runs: Path, tmp_path: Path) -> None:
    (tmp_path / ".lists.csv.4194304.tmp").touch()  # a number that no process has
    line = ["recommend", str(runs / "popular"), "--user", "u0007", "--format", "csv", "--out"]
    assert execute([*line, str(tmp_path / "lists.csv")]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["lists.csv"]


def test_all_users_get_lists(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["recommend", str(runs / "bpr"), "--all", "-k", "2", "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 80 * 2


def test_an_unknown_user_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["recommend", str(runs / "bpr"), "--user", "nobody"]) == 1
    assert capsys.readouterr().err == "error: user 'nobody' is not in the data, which has 80 users\n"


def test_users_are_named_one_by_one_or_in_a_list(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["recommend", str(runs / "popular"), "-k", "1", "--format", "json"]
    assert execute([*line, "--users", "u0007,u0002"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert execute([*line, "--user", "u0007", "--user", "u0002"]) == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert [row["user_id"] for row in rows] == ["u0007", "u0002"]


def test_an_item_of_a_history_may_have_a_comma(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["Lock, Stock 3", "i1", "i2", "i3", "i4", "i5", "i6"]
    pairs = [(f"u{u}", names[(u + k) % 7]) for u in range(6) for k in range(3)]
    with (tmp_path / "shop.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user_id", "item_id"), *pairs])
    run = str(tmp_path / "run")
    assert execute(["train", str(tmp_path / "shop.csv"), "ease", "--out", run]) == 0
    line = ["recommend", run, "-k", "2", "--format", "json"]
    capsys.readouterr()
    assert execute([*line, "--history", "Lock, Stock 3", "--history", "i1"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 2
    assert not {"Lock, Stock 3", "i1"} & {row["item_id"] for row in rows}
    assert execute([*line, "--liked", "i1,i2"]) == 0
    assert execute([*line, "--liked", "Lock, Stock 3"]) == 1
    assert "'Lock' is not in the data" in capsys.readouterr().err


def test_a_missing_folder_of_a_result_is_made(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "lists/2024/x.csv"
    line = ["recommend", str(runs / "popular"), "--user", "u0001", "--format", "csv"]
    assert execute([*line, "--out", str(out)]) == 0
    assert out.read_text().startswith("user_id,item_id,rank,score\n")
