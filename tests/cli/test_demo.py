"""`gtcrec demo`, with a stand-in for training."""

import json
from pathlib import Path
from typing import Any

import pytest

from gtcrec.cli.main import execute


class TestDemo:
    """The demo with a stand-in for training, so that its verdict can be chosen."""

    @pytest.fixture
    def fake(self, monkeypatch: pytest.MonkeyPatch, runs: Path) -> Any:
        import shutil

        def make(first: str) -> None:
            """Let gtc end as `first`, another run, did."""
            monkeypatch.setattr("gtcrec.data.write_catalog", lambda folder, seed: folder)
            monkeypatch.setattr("gtcrec.experiments.config.load_config", lambda path, model, file, given: model)
            monkeypatch.setattr("gtcrec.experiments.run.Run.create", lambda model, folder: copy(model, folder))
            monkeypatch.setattr("gtcrec.cli.train.train_here", lambda run: None)

            def copy(model: str, folder: Path) -> Any:
                source = first if model == "gtc" else "bpr" if first == "popular" else "popular"
                shutil.copytree(runs / source, folder)
                return type("Done", (), {"evaluate": lambda self: None})()

        return make

    def test_it_names_the_reports_and_succeeds_if_gtc_is_best(
        self,
        fake: Any,
        runs: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        score = {
            n: json.loads((runs / n / "report.json").read_text())["test"]["means"]["ndcg@20"]
            for n in ("bpr", "popular")
        }
        best, worst = sorted(score, key=lambda name: -score[name])
        fake(best)
        assert execute(["demo", "--out", str(tmp_path / "a")]) == 0
        shown, said = capsys.readouterr()
        assert "paired tests against gtc" in shown
        assert f"{tmp_path / 'a' / 'comparison.html'}" in said
        assert f"gtc is better than popular and bpr on test ndcg@20: gtc {score[best]:.4f}, popular" in said
        assert said.splitlines()[-1] == f"look at what it recommends, and why: gtcrec serve {tmp_path / 'a' / 'gtc'}"
        monkeypatch.setattr("sys.argv", [".venv/bin/gtcrec", "demo"])
        monkeypatch.setenv("PATH", "")
        fake(best)
        assert execute(["demo", "--out", str(tmp_path / "c")]) == 0
        assert f"why: .venv/bin/gtcrec serve {tmp_path / 'c' / 'gtc'}" in capsys.readouterr().err
        fake(worst)
        assert execute(["demo", "--out", str(tmp_path / "b")]) == 1
        assert "error: gtc is not better than popular and bpr on test ndcg@20: gtc" in capsys.readouterr().err

    def test_it_refuses_a_used_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "x").write_text("")
        assert execute(["demo", "--out", str(tmp_path)]) == 1
        assert capsys.readouterr().err.endswith(
            "expected a new or empty folder, found one in use; give another with --out\n"
        )
