"""`gtcrec train`, `resume` and `evaluate`: output, interruption, the way on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml

from gtcrec.cli.main import execute
from gtcrec.cli.train import train_here
from gtcrec.data import write_catalog
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.training.trainer import Epoch

SMALL = ["epochs=2", "dim=8", "batch_size=512"]


def test_training_shows_epochs_on_stderr_and_validation_on_stdout(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert execute(["train", str(data), "bpr", *SMALL, "--out", str(out), "--seed", "3"]) == 0
    shown, said = capsys.readouterr()
    assert re.search(r"^epoch 1/2  bpr \d\.\d{4}  .*ndcg@20 \d\.\d{4} \(best \d\.\d{4}\)$", said, re.MULTILINE)
    assert "training ended: all 2 epochs done" in said
    assert f"test is one explicit call: gtcrec evaluate {out}" in said
    assert re.match(r"bpr, best epoch \d of 2, validation, \d+ users, mean and 95 % interval\n", shown)
    assert re.search(r"^recall +(\d\.\d{4} \d\.\d{4} to \d\.\d{4} *){4}$", shown, re.MULTILINE)
    assert "seed: 3" in (out / "config.yaml").read_text()
    assert "test" not in json.loads((out / "report.json").read_text())


def test_training_into_a_used_folder_is_refused(data: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["train", str(data), "--out", str(runs / "bpr")]) == 1
    assert f"error: {runs / 'bpr'}: expected a new or empty folder" in capsys.readouterr().err


def test_evaluate_prints_the_test_figures_of_the_report(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["evaluate", str(runs / "bpr"), "--format", "json"]) == 0
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


def test_several_workers_need_ray(data: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["train", str(data), "--out", str(tmp_path / "x")], ["resume", str(runs / "bpr")]):
        assert execute([*line, "--workers", "2"]) == 1
        message = "error: --engine local is one process, found --workers 2; expected --engine ray, or torchrun\n"
        assert capsys.readouterr().err == message
    assert not (tmp_path / "x").exists()


def test_a_run_may_be_evaluated_on_another_device(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["evaluate", str(runs / "popular"), "--device", "cpu"]) == 0
    assert execute(["evaluate", str(runs / "popular"), "--device", "npu"]) == 1
    assert "error: there is no device 'npu'; torch sees cpu" in capsys.readouterr().err


class Stalled:
    """A run whose training is interrupted in its second epoch."""

    folder = Path("my run")
    workers = ProcessGroup()
    split = SimpleNamespace(has_test=True)
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
    line = ["train", str(data), "bpr", "epochs=60", "patience=60", "--out", str(out)]
    command = [sys.executable, "-m", "gtcrec", *line]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("threads: ")
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


def test_a_configuration_may_name_the_data(runs: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert execute(["train", "--config", str(runs / "bpr" / "config.yaml"), "epochs=1", "--out", str(out)]) == 0
    assert f"path: {data}" in (out / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("options", "variable", "said"),
    [
        (["--threads", "3"], "1", r"threads: (3) \(as --threads says\)"),
        ([], "2", r"threads: (2) \(as OMP_NUM_THREADS says\)"),
        ([], "", r"threads: (\d+) \(\1 of \d+ cores free\)"),
    ],
)
def test_training_says_how_many_threads_it_uses_and_uses_them(
    tmp_path: Path, options: list[str], variable: str, said: str
) -> None:
    write_catalog(tmp_path / "shop", n_users=30, n_items=40)
    code = "import sys; from gtcrec.cli.main import execute; code = execute(sys.argv[1:]); import torch; "
    code += "print('used', torch.get_num_threads()); sys.exit(code)"
    line = ["train", str(tmp_path / "shop"), "bpr", "epochs=1", "embedding_dim=4", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": variable}
    if not variable:
        del environment["OMP_NUM_THREADS"]
    done = subprocess.run(
        [sys.executable, "-c", code, *line, *options], capture_output=True, text=True, timeout=100, env=environment
    )
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(said, done.stderr.splitlines()[0])
    assert found, done.stderr
    assert done.stdout.splitlines()[-1] == f"used {found[1]}"
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["threads"] == int(found[1])


@pytest.mark.parametrize(
    ("model", "lines"),
    [
        (
            ["bpr", "dim=8", "batch_size=512"],
            [r"parameters    about 1,040", r"epoch         about \d+\.\d s for \d step.*"],
        ),
        (["ease"], [r"parameters    about 0", r"epoch         none: nothing is trained step by step"]),
    ],
)
def test_a_dry_run_prints_what_a_training_takes_and_makes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: list[str], lines: list[str]
) -> None:
    assert execute(["train", str(data), *model, "--dry-run", "--out", str(tmp_path / "no" / "run")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["users         80", "items         50"]
    assert re.fullmatch(r"interactions  \d+ to train on, \d+ to validate on", shown[2])
    assert re.fullmatch(lines[0], shown[3])
    assert re.fullmatch(r"memory        about 0\.\d\d GiB .*; \d+\.\d\d GiB are free", shown[4])
    assert re.fullmatch(lines[1], shown[6])
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_what_does_not_fit_says_so_with_numbers(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["train", str(data), "bpr", "dim=1000000000", "--dry-run"]) == 1
    shown, said = capsys.readouterr()
    assert re.search(r"^memory        about \d{5}\.\d\d GiB", shown, re.MULTILINE)
    assert "epoch" not in shown
    assert re.search(r"error: training bpr for 80 users and 50 items: needs at least 2421\.\d\d GiB of memory, ", said)


def test_training_needs_a_folder_unless_it_is_a_dry_run(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["train", str(data), "bpr"]) == 2
    assert "missing option --out" in capsys.readouterr().err


def test_options_of_training_are_settings(data: Path, tmp_path: Path) -> None:
    line = ["train", str(data), "bpr", *SMALL, "--epochs", "1", "--lr", "0.0123", "--out", str(tmp_path / "run")]
    assert execute(line) == 0
    train = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["train"]
    assert (train["epochs"], train["learning_rate"]) == (1, 0.0123)


def test_a_start_from_another_run_is_said(
    data: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", str(data), "bpr", *SMALL, "--init-from", str(runs / "bpr")]
    assert execute([*line, "--out", str(tmp_path / "run")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"starting from {runs / 'bpr'}: 80 users and 0 new, 50 items and 0 new" in said
    assert "warning" not in said
    assert execute([*line, "--out", str(tmp_path / "other"), "split.seed=1"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"was trained on \d+ of \d+ interactions of the validation, which looks better than it is", said)


def test_a_start_from_another_run_is_for_one_process(
    data: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", str(data), "bpr", *SMALL, "--init-from", str(runs / "bpr"), "--engine", "ray", "--out", "run"]
    assert execute(line) == 1
    assert "error: --init-from is for --engine local, found --engine ray" in capsys.readouterr().err
