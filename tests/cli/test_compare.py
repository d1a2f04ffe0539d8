"""`gtcrec compare`: formats, names, the baseline."""

import json
import re
from pathlib import Path

import pytest

from gtcrec.cli.main import execute


def test_compare_prints_each_format_from_the_same_numbers(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["compare", str(runs / "popular"), str(runs / "bpr"), "--metric", "ndcg@20"]
    assert execute([*line, "--format", "json", "--html", str(tmp_path / "page.html")]) == 0
    shown, said = capsys.readouterr()
    facts = json.loads(shown)
    assert (facts["part"], facts["base"], [run["name"] for run in facts["runs"]]) == (
        "test",
        "popular",
        ["popular", "bpr"],
    )
    first, second = (run["means"]["ndcg@20"] for run in facts["runs"])
    assert facts["tests"][0]["difference"] == pytest.approx(second - first)
    warning, page = said.splitlines()
    assert page == f"page: {tmp_path / 'page.html'}"
    assert re.fullmatch(
        r"warning: bpr ended at its limit of (\d+) epochs while it still improved \(best epoch \d+\): with more epochs "
        "it may stand higher",
        warning,
    )
    html = (tmp_path / "page.html").read_text()
    assert "Paired tests against popular" in html
    assert html.count("Not trained to the end:") == 1  # popular has nothing to train
    assert warning.removeprefix("warning: ") in html
    for form in ("text", "markdown", "latex"):
        assert execute([*line, "--format", form]) == 0
        text = capsys.readouterr().out
        assert f"{first:.4f}" in text
        assert f"{second:.4f}" in text


def test_runs_of_one_name_are_told_apart_by_their_paths(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(runs)
    assert execute(["compare", "bpr", "../" + runs.name + "/bpr", "--format", "json", "--metric", "recall@5"]) == 0
    assert [run["name"] for run in json.loads(capsys.readouterr().out)["runs"]] == [
        "bpr",
        f"../{runs.name}/bpr",
    ]


def test_the_baseline_of_a_comparison_has_a_name(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["compare", str(runs / "popular"), str(runs / "bpr"), "--format", "json", "--metric", "ndcg@20"]
    assert execute([*line, "--baseline", "bpr"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["base"], [run["name"] for run in facts["runs"]]) == ("bpr", ["bpr", "popular"])
    assert execute([*line, "--baseline", "bqr"]) == 1
    assert "no run is called 'bqr' (did you mean 'bpr'?)" in capsys.readouterr().err
