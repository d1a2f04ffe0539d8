"""`python -m benchmarks` names its measurements, and each can be tried on tiny data."""

import subprocess
from pathlib import Path

import pytest

from benchmarks.paths import RESULTS, module_command, module_environment

DOORS = ("accuracy", "ablation", "cold-start", "missing", "ground-truth")


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = module_command("benchmarks", *words)
    return subprocess.run(command, cwd=folder, env=module_environment(1), capture_output=True, text=True)


def test_help_names_every_measurement(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in (*DOORS, "speed", "pages"))


def test_unknown_data_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "ablation", "nothing")
    assert (done.returncode, done.stderr) == (1, "expected one of tiktok, ml100k; found nothing\n")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("door", DOORS)
def test_a_trial_stores_its_tables_apart_from_the_results(door: str, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()}
    done = run(tmp_path, door, "--quick")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "runs/benchmarks/quick/results").iterdir())
    assert {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()} == before


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "what", ["training", "growth", "many-pairs", "search", "encode", "build", "item-weights", "sampled", "serving"]
)
def test_a_trial_of_speed_prints_its_table(what: str, tmp_path: Path) -> None:
    done = run(tmp_path, "speed", "--quick", what)
    assert done.returncode == 0, done.stderr
    assert "| ---" in done.stdout
