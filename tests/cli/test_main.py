"""The command line: output, exit codes, interruption."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer

from gtcrec.cli.main import execute, main
from gtcrec.cli.train import train_here
from gtcrec.data import write_catalogue
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.training.trainer import Epoch

SMALL = ["--set", "epochs=2", "--set", "dim=8", "--set", "batch_size=512"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalogue(tmp_path_factory.mktemp("data") / "shop", n_users=80, n_items=50)


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two evaluated runs."""
    folder = tmp_path_factory.mktemp("runs")
    assert execute(["train", "--data", str(data), "--model", "bpr", "--out", str(folder / "bpr"), *SMALL]) == 0
    assert execute(["train", "--data", str(data), "--model", "popular", "--out", str(folder / "popular")]) == 0
    assert [execute(["evaluate", str(folder / name)]) for name in ("bpr", "popular")] == [0, 0]
    return folder


HEAVY = ("torch", "numpy", "scipy", "pyarrow", "matplotlib", "jinja2", "ray", "transformers", "PIL")
COMMANDS = (
    "data build",
    "data inspect",
    "data make-synthetic",
    "data encode",
    "train",
    "resume",
    "evaluate",
    "recommend",
    "compare",
    "ablate",
    "knockout",
    "explain",
    "missing",
    "models",
    "demo",
)


def test_help_imports_nothing_heavy() -> None:
    lines = [[*command.split(), "--help"] for command in ("", "data", *COMMANDS)]
    code = f"""
import sys
from gtcrec.cli.main import execute
assert [execute(line) for line in {lines!r}] == [0] * {len(lines)}
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--all-users" in done.stdout


@pytest.mark.parametrize(
    ("given", "count"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_waiting_threads_soon_sleep_unless_the_environment_says_otherwise(given, count, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gtcrec", "--version"])
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main()
    assert os.environ.get("GOMP_SPINCOUNT") == count


def test_version_and_module_entry() -> None:
    done = subprocess.run([sys.executable, "-m", "gtcrec", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"gtcrec \d+\.\d+\.\d+\S*\n", done.stdout)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "No such command 'nonsense'"),
        ("train --out x", "Missing option '--data'"),
        ("recommend x", "wanted one of --user ID, once or more, --all-users, and --liked IDS"),
        ("recommend x --user u1 --all-users", "wanted one of --user ID, once or more, --all-users, and --liked IDS"),
        ("recommend x --user u1 --format parquet", "--format parquet needs --out FILE"),
        ("recommend x --user u1 -k 0", "Invalid value for '-k'"),
        ("compare x", "wanted at least two run folders"),
    ],
)
def test_wrong_usage_exits_2(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in " ".join(re.sub("[│╭╰─╮╯]", " ", err).split())


def test_our_error_is_one_line_on_stderr_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["evaluate", "no/such/folder"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: no/such/folder: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("line", ["--debug evaluate no/such", "evaluate no/such --debug"])
def test_debug_shows_the_traceback(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(line.split()) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "\nerror: no/such: " in err


def test_an_unexpected_exception_names_its_type(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise ZeroDivisionError("by [zero]")

    monkeypatch.setattr("gtcrec.experiments.run.Run.load", fail)
    assert execute(["evaluate", "x"]) == 1
    assert capsys.readouterr().err == "error: ZeroDivisionError: by [zero]; run with --debug for the traceback\n"


def test_a_closed_pipe_is_quiet(data: Path) -> None:
    line = [sys.executable, "-m", "gtcrec", "data", "inspect", str(data), "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_inspect_prints_counts(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["data", "inspect", str(data), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["users"], facts["items"], facts["name"]) == (80, 50, "shop")
    assert execute(["data", "inspect", str(data)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^users +80$", out, re.MULTILINE)
    assert re.search(r"^modalities +width +present", out, re.MULTILINE)


def test_make_synthetic_prints_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["data", "make-synthetic", str(tmp_path / "s"), "--users", "60", "--items", "40"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 's'}\n"
    assert (tmp_path / "s" / "interactions.csv").is_file()


def test_training_shows_epochs_on_stderr_and_validation_on_stdout(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert execute(["train", "--data", str(data), "--model", "bpr", "--out", str(out), "--seed", "3", *SMALL]) == 0
    shown, said = capsys.readouterr()
    assert re.search(r"^epoch 1/2  bpr \d\.\d{4}  .*recall@20 \d\.\d{4} \(best \d\.\d{4}\)$", said, re.MULTILINE)
    assert "training ended: all 2 epochs done" in said
    assert f"test is one explicit call: gtcrec evaluate {out}" in said
    assert re.match(r"bpr, best epoch \d of 2, validation, \d+ users, mean and 95 % interval\n", shown)
    assert re.search(r"^recall +(\d\.\d{4} \d\.\d{4} to \d\.\d{4} *){4}$", shown, re.MULTILINE)
    assert "seed: 3" in (out / "config.yaml").read_text()
    assert "test" not in json.loads((out / "report.json").read_text())


def test_training_into_a_used_folder_is_refused(data: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["train", "--data", str(data), "--out", str(runs / "bpr")]) == 1
    assert f"error: {runs / 'bpr'}: exists and is not an empty folder" in capsys.readouterr().err


def test_evaluate_prints_the_test_figures_of_the_report(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["evaluate", str(runs / "bpr"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["means"] == json.loads((runs / "bpr" / "report.json").read_text())["test"]["means"]
    assert execute(["evaluate", str(runs / "bpr")]) == 0
    assert f"{found['means']['recall@20']:.4f} {found['intervals']['recall@20'][0]:.4f} to" in capsys.readouterr().out


def test_resuming_a_finished_run_says_so(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["resume", str(runs / "bpr")]) == 0
    shown, said = capsys.readouterr()
    assert "training has ended already" in said
    assert "test is one explicit call" not in said
    assert shown.startswith("bpr, best epoch")


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
    for form in ("json", "csv", "parquet", "table"):
        assert execute([*line, "--format", form, "--out", str(tmp_path / form)]) == 0
        shown, said = capsys.readouterr()
        assert (shown, said) == ("", f"6 rows: {tmp_path / form}\n")
    assert json.loads((tmp_path / "json").read_text()) == rows
    assert pq.read_table(tmp_path / "parquet").to_pylist() == rows
    assert execute(line) == 0
    table = capsys.readouterr().out
    assert table == (tmp_path / "table").read_text()
    assert table.split()[:5] == ["user", "rank", "score", "item", "title"]
    assert [item for item in re.findall(r"\bp\d{4}\b", table)] == [row["item_id"] for row in rows]


def test_all_users_get_lists(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["recommend", str(runs / "bpr"), "--all-users", "-k", "2", "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 80 * 2


def test_an_unknown_user_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["recommend", str(runs / "bpr"), "--user", "nobody"]) == 1
    assert capsys.readouterr().err == "error: user 'nobody' is not in the data, which has 80 users\n"


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
    assert said == f"page: {tmp_path / 'page.html'}\n"
    assert "Paired tests against popular" in (tmp_path / "page.html").read_text()
    for form in ("table", "markdown", "latex"):
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


def test_several_workers_need_ray(data: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["train", "--data", str(data), "--out", str(tmp_path / "x")], ["resume", str(runs / "bpr")]):
        assert execute([*line, "--workers", "2"]) == 1
        message = "error: --engine local is one process, found --workers 2; wanted --engine ray, or torchrun\n"
        assert capsys.readouterr().err == message
    assert not (tmp_path / "x").exists()


def test_a_run_may_be_evaluated_on_another_device(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["evaluate", str(runs / "popular"), "--device", "cpu"]) == 0
    assert execute(["evaluate", str(runs / "popular"), "--device", "npu"]) == 1
    assert "error: there is no device 'npu'; torch sees cpu" in capsys.readouterr().err


def test_models_lists_every_model_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    from gtcrec.models.registry import MODELS

    assert execute(["models", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts) == list(MODELS)
    assert facts["gtc"]["settings"]["dim"] == 128
    assert execute(["models"]) == 0
    out = capsys.readouterr().out
    assert all(entry.about in out for entry in MODELS.values())


class Stalled:
    """A run whose training is interrupted in its second epoch."""

    folder = Path("my run")
    workers = ProcessGroup()
    epochs_done = 0

    class config:
        class train:
            epochs = 5
            valid_metric = "recall@20"

    class training:
        best = Epoch(0, {}, {"recall@20": 0.75}, True, "")

    def __init__(self, stop: int) -> None:
        self.stop = stop

    def epochs(self, on_step: Any) -> Iterator[Epoch]:
        yield Epoch(1, {"bpr": 0.5}, {"recall@20": 0.25}, False, "")
        on_step(1, 10)
        signal.raise_signal(self.stop)
        time.sleep(60)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_training_names_the_way_on(stop: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as end:
        train_here(Stalled(stop))  # type: ignore[arg-type]
    assert end.value.exit_code == code
    assert signal.getsignal(signal.SIGTERM) is before
    first, last = capsys.readouterr().err.splitlines()
    assert first == "epoch 1/5  bpr 0.5000  recall@20 0.2500 (best 0.7500)"
    assert last == "stopped; resume with: gtcrec resume 'my run'"


def test_a_terminated_training_resumes_to_the_end(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    line = ["train", "--data", str(data), "--model", "bpr", "--out", str(out), "--set", "epochs=60"]
    command = [sys.executable, "-m", "gtcrec", *line, "--set", "patience=60"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("epoch 1/60")
        os.kill(process.pid, signal.SIGTERM)
        assert process.stderr.read().endswith(f"stopped; resume with: gtcrec resume {out}\n")
    assert process.returncode == 143
    config = (out / "config.yaml").read_text()
    assert execute(["recommend", str(out), "--user", "u0001"]) == 1
    assert "training has not ended" in capsys.readouterr().err
    assert "epochs: 60" in config
    assert execute(["resume", str(out)]) == 0
    history = [json.loads(line)["epoch"] for line in (out / "history.jsonl").read_text().splitlines()]
    assert history == list(range(1, 61))


class TestDemo:
    """The demo with a stand-in for training, so that its verdict can be chosen."""

    @pytest.fixture
    def fake(self, monkeypatch: pytest.MonkeyPatch, runs: Path) -> Any:
        import shutil

        def make(first: str) -> None:
            """Let gtc end as `first`, another run, did."""
            monkeypatch.setattr("gtcrec.data.write_catalogue", lambda folder, seed: folder)
            monkeypatch.setattr("gtcrec.experiments.config.resolve", lambda path, model, file, given: model)
            monkeypatch.setattr("gtcrec.experiments.run.Run.create", lambda model, folder: copy(model, folder))
            monkeypatch.setattr("gtcrec.cli.train.train_here", lambda run: None)

            def copy(model: str, folder: Path) -> Any:
                source = first if model == "gtc" else "bpr" if first == "popular" else "popular"
                shutil.copytree(runs / source, folder)
                return type("Done", (), {"evaluate": lambda self: None})()

        return make

    def test_it_names_the_reports_and_succeeds_if_gtc_is_best(
        self, fake: Any, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
        fake(worst)
        assert execute(["demo", "--out", str(tmp_path / "b")]) == 1
        assert "error: gtc is not better than popular and bpr on test ndcg@20: gtc" in capsys.readouterr().err

    def test_it_refuses_a_used_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "x").write_text("")
        assert execute(["demo", "--out", str(tmp_path)]) == 1
        assert capsys.readouterr().err.endswith(
            "wanted a new or empty folder, found one in use; give another with --out\n"
        )
