"""Ids and titles that would command a terminal or a spreadsheet, and ids with commas."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest

from gtcrec.cli import console
from gtcrec.cli.main import execute
from gtcrec.cli.options import split_commas
from gtcrec.errors import DataError, visible

BAD = ("\x1b[2J", "\x1b]52;c;aGk=\x07", "\x9b31m", "\u202etxt", "\x7f", "\r")
ITEMS = [*(f"i{k}{one}" for k, one in enumerate(BAD)), "=1+1", "@SUM(A1)", "Lock, Stock 3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    rows = [{"user": f"u{k}", "item": ITEMS[(k + j) % 9], "x_label": j // 4} for k in range(9) for j in range(6)]
    (folder / "interactions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    titles = [{"item": item, "title": f"{item} title\x1b]0;x\x07"} for item in ITEMS]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in titles))
    assert execute(["train", str(folder), "itemknn", "--out", str(folder / "run")]) == 0
    return folder / "run"


def unseen(text: str) -> str:
    return visible(text.replace("\n", ""))


@pytest.mark.parametrize("form", ["text", "json", "csv"])
def test_no_list_commands_the_terminal(
    run: Path, form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        console, "console", lambda stream: __import__("rich.console").console.Console(file=stream, width=400)
    )
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert execute(["recommend", str(run), "--all", "-k", "3", "--format", form]) == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)  # rich's own colours
    assert unseen(shown) == shown.replace("\n", "")
    assert "i0\\x1b[2J" in shown or "i0\\u001b[2J" in shown


def test_files_and_pipes_keep_the_ids(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["recommend", str(run), "--all", "-k", "9", "--format", "json"]) == 0
    found = {row["item_id"] for row in json.loads(capsys.readouterr().out)}
    assert found <= set(ITEMS)
    assert any("\x1b" in one for one in found)


def test_safe_csv_disarms_formulas_alone(run: Path, tmp_path: Path) -> None:
    cells = {}
    for name, option in (("plain", []), ("safe", ["--safe-csv"])):
        out = tmp_path / name
        assert execute(["recommend", str(run), "--all", "--format", "csv", "--out", str(out), *option]) == 0
        with out.open(newline="") as stream:
            cells[name] = list(csv.reader(stream))
    formulas = ("=1+1", "@SUM(A1)")
    assert any(cell in formulas for row in cells["plain"] for cell in row)
    assert cells["safe"] == [[f"'{cell}" if cell in formulas else cell for cell in row] for row in cells["plain"]]


def test_ids_with_commas_can_be_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--history", "Lock, Stock 3"], ["--liked", '"Lock, Stock 3"'], ["--liked", '=1+1,"Lock, Stock 3"']):
        assert execute(["recommend", str(run), *option, "-k", "2", "--format", "json"]) == 0
        assert len(json.loads(capsys.readouterr().out)) == 2
    assert split_commas(' a ,"b, c",, d') == ["a", "b, c", "d"]


@pytest.mark.parametrize("bad", BAD)
def test_errors_are_one_line_of_visible_text(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = str(DataError(f"item {bad}\nis\r\nwrong"))
    assert text == unseen(text)
    assert execute(["data", "describe", f"no{bad}\nshop"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert unseen(said) == said.replace("\n", "")
