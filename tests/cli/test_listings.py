"""`gtcrec models` and `gtcrec runs`."""

import json
import shutil
from pathlib import Path

import pytest

from gtcrec.cli.main import execute
from gtcrec.experiments.run import Run


def test_models_lists_every_model_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    from gtcrec.models.registry import MODELS

    assert execute(["models", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts) == list(MODELS)
    assert facts["gtc"]["settings"]["embedding_dim"] == 128
    assert execute(["models"]) == 0
    out = capsys.readouterr().out
    assert all(one["about"] in out for one in facts.values())
    assert execute(["models", "list"]) == 0
    assert capsys.readouterr().out == out


def test_a_model_is_shown_with_settings_and_search_space(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["models", "show", "lightgcn", "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["descriptions"]) == set(facts["settings"])
    assert facts["search_space"]
    assert set(facts["ranges"]) == set(facts["settings"])
    assert facts["ranges"]["embedding_dim"] == "whole, >= 1"
    assert execute(["models", "show", "lightgcn"]) == 0
    out = capsys.readouterr().out
    assert all(key in out for key in (*facts["settings"], *facts["search_space"]))
    assert all(text in out for text in (*facts["ranges"].values(), *facts["descriptions"].values()))
    assert execute(["models", "show", "lightgnc"]) == 1
    assert "did you mean 'lightgcn'?" in capsys.readouterr().err


def test_runs_are_listed_with_their_state(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    shutil.copytree(runs / "bpr", tmp_path / "runs/more/open")
    (tmp_path / "runs/more/open/report.json").unlink()
    shutil.copytree(runs / "bpr", tmp_path / "runs/more/torn")
    (tmp_path / "runs/more/torn/report.json").write_text("{")
    assert execute(["runs", "list", str(tmp_path / "runs"), "--format", "json"]) == 0
    rows = {Path(row["run"]).name: row for row in json.loads(capsys.readouterr().out)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "bpr": "finished", "popular": "finished", "open": "unfinished", "torn": "damaged",
    }  # fmt: skip
    assert {row["model"] for row in rows.values()} == {"bpr", "popular"}
    report = json.loads((runs / "bpr" / "report.json").read_text())
    metric = rows["bpr"]["metric"]
    assert rows["bpr"]["test"] == report["test"]["means"][metric]
    assert execute(["runs", "list", str(tmp_path / "runs"), "--metric", "ndcg@5"]) == 0
    assert f"{report['valid']['means']['ndcg@5']:.4f}" in capsys.readouterr().out


def test_a_folder_without_runs_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, message in ((tmp_path, "expected runs, found none"), (tmp_path / "x", "found nothing")):
        assert execute(["runs", "list", str(folder)]) == 1
        assert message in capsys.readouterr().err


def test_a_run_is_shown_with_metrics_and_configuration(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["runs", "show", str(runs / "bpr"), "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["model"], facts["counts"]["users"], facts["config"]["train"]["epochs"]) == ("bpr", 80, 2)
    assert execute(["runs", "show", str(runs / "bpr")]) == 0
    out = capsys.readouterr().out
    assert f"{facts['test']['means']['recall@20']:.4f}" in out
    assert "learning_rate" in out
    shutil.copytree(runs / "bpr", tmp_path / "open")
    (tmp_path / "open/report.json").unlink()
    assert execute(["runs", "show", str(tmp_path / "open")]) == 1
    assert "training has not ended; go on with `gtcrec resume" in capsys.readouterr().err


def test_the_page_of_a_run_is_written_again(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs / "bpr", folder)
    (folder / "report.html").unlink()
    assert execute(["runs", "report", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    assert "<html" in (folder / "report.html").read_text()
    Run.load(folder)  # whose manifest agrees
