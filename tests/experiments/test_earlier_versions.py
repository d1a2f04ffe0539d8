"""Runs that version 0.1 wrote, under the setting names of that time, open, evaluate, recommend and resume."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gtcrec import Recommender
from gtcrec.cli.main import execute
from gtcrec.experiments.run import Run

FIXTURES = Path(__file__).parents[1] / "fixtures" / "version_0_1"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())


@pytest.fixture
def old(tmp_path):
    shutil.copytree(FIXTURES, tmp_path / "old")
    return tmp_path / "old"


@pytest.mark.parametrize("name", ["gtc", "lightgcn"])
def test_a_finished_run_evaluates_and_recommends_as_then(old, name):
    run = Run.load(old / name, str(old / "data"))
    assert run.finished
    found = run.evaluate().means
    assert {metric: found[metric] for metric in EXPECTED[name]["test"]} == pytest.approx(EXPECTED[name]["test"])
    table = Recommender.load(old / name, data=str(old / "data")).recommend([0, 1, 2, 29], k=5)
    for column, place in (("user_id", 0), ("item_id", 1), ("rank", 2)):
        expected = [row[place] for row in EXPECTED[name]["lists"]]
        assert table[column].to_pylist() == (list(map(str, expected)) if column != "rank" else expected)
    assert table["score"].to_pylist() == pytest.approx([row[3] for row in EXPECTED[name]["lists"]], rel=1e-4)


def test_an_interrupted_run_resumes_to_the_weights_of_then(old):
    assert execute(["resume", str(old / "interrupted"), "--data", str(old / "data")]) == 0
    history = [json.loads(line) for line in (old / "interrupted" / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [1, 2, 3, 4]
    for line, then in zip(history, EXPECTED["interrupted"]["history"], strict=True):
        assert line["losses"] == pytest.approx(then["losses"], rel=1e-4)
    found = load_file(old / "interrupted" / "model.safetensors")
    then = load_file(old / "interrupted_ends_as.safetensors")
    assert set(found) == set(then)
    for name, tensor in then.items():
        assert found[name].numpy() == pytest.approx(tensor.numpy(), rel=1e-3, abs=1e-5), name


def test_a_search_of_then_goes_on(old):
    line = ["tune", "--data", str(old / "data"), "--model", "lightgcn", "--out", str(old / "study"), "--trials", "4"]
    settings = [f"--set={one}" for one in ("epochs=2", "batch_size=64", "evaluate.resamples=50")]
    before = (old / "study" / "trials.csv").read_text().splitlines()
    assert execute([*line, *settings]) == 0
    after = (old / "study" / "trials.csv").read_text().splitlines()
    assert len(before) == 4
    assert len(after) == 5
