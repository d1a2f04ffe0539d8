"""Runs that version 0.1 wrote, under the setting names of that time, open, evaluate, recommend and resume."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gtcrec import Recommender
from gtcrec.cli.main import execute
from gtcrec.experiments.config import dump_yaml, load_config
from gtcrec.experiments.model_bundle import ModelBundle
from gtcrec.experiments.run import Run
from gtcrec.experiments.run_folder import read_stored_config
from gtcrec.types import Vocabulary

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
    assert {name for name in found if ".directions." not in name} == set(then)  # which content's directions join now
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


def test_a_run_without_a_setting_that_changes_the_model_by_default_keeps_its_model(tmp_path):
    """FREEDOM's item graph has loops today; it is no part of the weights, so the stored configuration says it."""
    today = load_config("data", "freedom")
    assert today.settings["self_neighbor"]
    lines = [line for line in dump_yaml(today).splitlines() if "self_neighbor" not in line]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    assert read_stored_config(tmp_path).settings == {**today.settings, "self_neighbor": False}


def test_a_bundle_without_such_a_setting_builds_its_model(checkerboard):
    split = checkerboard()
    users, items = (Vocabulary(np.arange(40)) for _ in range(2))
    for settings, loops in (({"dim": 8}, 0), ({"dim": 8, "self_neighbor": True}, 40)):
        bundle = ModelBundle("freedom", settings, 0, users, items, split.train, split.features)
        assert (bundle.build().item_graph(torch.eye(40)).diagonal() > 0).sum() == loops
