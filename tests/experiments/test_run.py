"""A run folder: made, killed, resumed, read back, evaluated, asked for lists."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import gtcrec
from gtcrec.data import write_catalog
from gtcrec.errors import ConfigError, DataError, RunError
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run
from gtcrec.runtime.files import MANIFEST, write_manifest
from gtcrec.serving.list_request import ListRequest
from gtcrec.serving.trained_model import TrainedModel
from gtcrec.training import checkpoint

FAST = ["epochs=3", "embedding_dim=8", "batch_size=256", "seed=5"]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return write_catalog(tmp_path_factory.mktemp("data") / "small", n_users=150, n_items=80, seed=1)


@pytest.fixture(scope="module")
def finished(catalogue, tmp_path_factory):
    run = Run.create(load_config(str(catalogue), "gtc", assignments=FAST), tmp_path_factory.mktemp("run") / "gtc")
    list(run.epochs())
    return run


def test_a_finished_run_holds_what_it_promises(finished):
    assert {file.name for file in finished.folder.iterdir()} >= {
        "config.yaml", "environment.json", "data.json", "history.jsonl", "timings.jsonl", "checkpoint.safetensors",
        "model.safetensors", "report.json", "per_user_valid.parquet", "curves.png", "losses.png", "report.html",
        "manifest.json",
    }  # fmt: skip
    history = [json.loads(line) for line in (finished.folder / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [0, 1, 2, 3]  # 0: as it starts
    logged = {"log.tc_bound_nats", "log.tc_ceiling_nats", "log.tc_scale"}
    assert {"bpr", "reg", "alignment", "history", "interest", "total", *logged} == set(history[1]["losses"])
    assert "test" not in json.loads((finished.folder / "report.json").read_text())


def test_a_finished_run_recommends_without_its_data(finished, tmp_path):
    users = finished.dataset.users.ids[:5].tolist()
    table = TrainedModel.of_run(finished).recommend(np.arange(5), ListRequest(4))
    assert table["user_id"].to_pylist() == [user for user in users for _ in range(4)]
    assert table["rank"].to_pylist() == [1, 2, 3, 4] * 5
    shutil.copytree(finished.folder, tmp_path / "run")
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    write_manifest(tmp_path / "run", [file.name for file in (tmp_path / "run").iterdir() if file.name != MANIFEST])
    assert gtcrec.Recommender.load(tmp_path / "run").recommend(users, k=4).equals(table)
    seen = {(finished.dataset.users.ids[u], finished.dataset.items.ids[i])
            for u, i in zip(finished.split.train.users, finished.split.train.items, strict=True)}  # fmt: skip
    assert not seen & set(zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True))


@pytest.mark.parametrize("model", ["gtc", "ials"])
def test_a_run_with_weights_is_opened_without_solving_for_them_anew(model, catalogue, tmp_path, monkeypatch):
    run = Run.create(load_config(str(catalogue), model, assignments=["embedding_dim=8", "epochs=2"]), tmp_path / "run")
    untrained = Run.load(tmp_path / "run").model.state_dict()
    assert all(untrained[name].equal(weights) for name, weights in run.model.state_dict().items())
    for _ in run.epochs():
        pass
    wanted = run.model.state_dict()

    def refused(*given):
        raise AssertionError("solved")

    monkeypatch.setattr("gtcrec.ops.least_squares._Side", refused)
    found = Run.load(tmp_path / "run").model.state_dict()
    assert all(found[name].equal(weights) for name, weights in wanted.items())
    with pytest.raises(AssertionError, match="solved"):
        Run.create(
            load_config(str(catalogue), model, assignments=["embedding_dim=8", "seed=12345"]), tmp_path / "another"
        )


def test_the_stored_configuration_makes_the_same_run_again(finished, tmp_path):
    again = Run.create(load_config(file=finished.folder / "config.yaml"), tmp_path / "again")
    list(again.epochs())
    for name in ("history.jsonl", "model.safetensors", "config.yaml"):
        assert (again.folder / name).read_bytes() == (finished.folder / name).read_bytes(), name


def test_test_figures_come_from_the_explicit_call_only(catalogue, tmp_path):
    run = Run.create(load_config(str(catalogue), "popular"), tmp_path / "run")
    list(run.epochs())
    assert not (run.folder / "per_user_test.parquet").exists()
    found = run.evaluate()
    stored = json.loads((run.folder / "report.json").read_text())
    assert stored["test"]["means"]["recall@20"] == found["recall@20"]
    assert stored["valid"]["about"]["on"] == "valid"
    assert (run.folder / "per_user_test.parquet").exists()
    assert Run.load(run.folder).finished


def test_a_run_validated_on_few_users_says_so_in_its_report(finished, catalogue, tmp_path):
    run = Run.create(load_config(str(catalogue), "popular", assignments=["valid_users=20"]), tmp_path / "run")
    list(run.epochs())
    reports = [json.loads((one.folder / "report.json").read_text())["valid"] for one in (run, finished)]
    assert [report["users"] for report in reports] == [20, reports[1]["users"]]
    assert [report["about"]["users"] for report in reports] == [f"20 of {reports[1]['users']}", "all"]
    assert run.evaluate().context.users == "all"


def test_an_unfinished_run_does_not_recommend_and_says_how_to_go_on(catalogue, tmp_path):
    run = Run.create(load_config(str(catalogue), "bpr", assignments=FAST), tmp_path / "run")
    next(iter(run.epochs()))
    with pytest.raises(RunError, match=r"run: training has not ended; run `gtcrec resume .*run`"):
        gtcrec.Recommender.load(run.folder)
    with pytest.raises(RunError, match="training has not ended"):
        run.evaluate()


TRAIN = """
import sys
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run
from gtcrec.serving.trained_model import TrainedModel
data, folder, *given = sys.argv[1:]
run = Run.load(folder) if given == ["resume"] else Run.create(load_config(data, "gtc", assignments=given), folder)
print("start", flush=True)
for epoch in run.epochs():
    print(epoch.number, flush=True)
"""


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, *map(str, arguments)], stdout=subprocess.PIPE, env=environment
    )


def test_a_run_killed_at_random_moments_ends_as_the_unbroken_one_bit_for_bit(catalogue, tmp_path):
    given = ["epochs=12", "embedding_dim=8", "batch_size=64", "patience=12", "seed=9"]
    with start(catalogue, tmp_path / "a", *given) as unbroken:
        unbroken.stdout.read()
    assert unbroken.returncode == 0
    kills, moments = 0, random.Random()
    arguments = [catalogue, tmp_path / "b", *given]
    for _ in range(60):
        with start(*arguments) as process:
            process.stdout.readline()  # training starts now
            time.sleep(moments.uniform(0.02, 0.6))
            if process.poll() is None and kills < 5:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.stdout.read()
        if process.returncode == 0:
            break
        if (tmp_path / "b" / "config.yaml").exists():
            arguments = [catalogue, tmp_path / "b", "resume"]
    assert kills == 5
    for name in ("history.jsonl", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    a, b = (checkpoint.load(tmp_path / name / "checkpoint.safetensors")[0] for name in "ab")
    assert a.keys() == b.keys()
    assert all(a[key].equal(b[key]) for key in a)


def test_a_run_killed_while_its_results_are_written_is_finished_by_resuming(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished.folder, copy)
    for name in ("manifest.json", "report.json", "model.safetensors"):
        (copy / name).unlink()
    run = Run.load(copy)
    assert not run.finished
    assert list(run.epochs()) == []
    assert run.finished
    assert (copy / "model.safetensors").read_bytes() == (finished.folder / "model.safetensors").read_bytes()


def test_a_folder_in_use_is_refused(finished, catalogue):
    with pytest.raises(
        RunError,
        match=r"gtc: expected a new or empty folder, found one in use; name another, or go on with `gtcrec resume`",
    ):
        Run.create(load_config(str(catalogue), "popular"), finished.folder)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"not a run folder: config\.yaml is missing"):
        Run.load(tmp_path)


def test_an_edited_model_is_refused(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished.folder, copy)
    with (copy / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x01")
    with pytest.raises(RunError, match=r"model\.safetensors: damaged or edited"):
        Run.load(copy)


def test_weights_of_other_settings_are_refused(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    (folder / "manifest.json").unlink()
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(re.sub(r"(?m)^  embedding_dim: \d+$", "  embedding_dim: 5", config))
    with pytest.raises(RunError, match=r"checkpoint\.safetensors: weights of another model, or of another version's"):
        Run.load(folder)


def test_other_data_than_the_run_was_trained_on_is_refused(finished, tmp_path):
    other = write_catalog(tmp_path / "other", n_users=150, n_items=80, seed=2)
    with pytest.raises(RunError, match=r"other: not the data of this run: its fingerprint differs"):
        Run.load(finished.folder, str(other))


def test_data_that_have_moved_are_asked_for(finished, catalogue):
    with pytest.raises(RunError, match=r"gtc: its data, .*elsewhere, are not there; say where with --data"):
        Run.load(finished.folder, str(catalogue / "elsewhere"))


def test_a_user_who_is_not_in_the_data_is_named(finished):
    with pytest.raises(DataError, match="user 'nobody' is not in the data, which has 150 users"):
        gtcrec.Recommender.load(finished.folder).recommend("nobody")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["embeding_dim=3"],
            r"unknown key 'embeding_dim' \(did you mean 'embedding_dim'\?\); gtc has: embedding_dim, ",
        ),
        (["train.epoch=3"], r"unknown key 'train.epoch' \(did you mean 'epochs'\?\)"),
        (["dim"], "expected key=value, found 'dim'"),
        (["epochs=0"], "train.epochs: Input should be greater than or equal to 1, found 0"),
        (["valid_metric=recal@20"], "recal"),
        (["embedding_dim=[1"], "not YAML"),
    ],
)
def test_wrong_settings_are_named(given, message, catalogue):
    with pytest.raises(ConfigError, match=message):
        load_config(str(catalogue), "gtc", assignments=given)


def test_off_is_a_word_and_1e_4_a_number(catalogue):
    config = load_config(
        str(catalogue), "gtc", assignments=["filter=off", "learning_rate=1e-4", "attention_refinement=true"]
    )
    assert config.settings["filter"] == "off"
    assert config.settings["attention_refinement"] is True
    assert config.train.learning_rate == 1e-4


def test_a_preset_brings_its_settings_and_given_ones_win(catalogue):
    config = load_config(str(catalogue), "gtc", assignments=["preset=released", "reg=0.5"])
    assert config.settings["attention_refinement"] is True
    assert config.settings["reg"] == 0.5
    assert config.train.learning_rate == 1e-4


def test_a_configuration_file_with_an_unknown_key_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("modle: gtc\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: unknown key 'modle' \(did you mean 'model'\?\)"):
        load_config("data", file=tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"d\.yaml: cannot be read"):
        load_config("data", file=tmp_path / "d.yaml")
    (tmp_path / "e.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"e\.yaml: expected keys and values, found list"):
        load_config("data", file=tmp_path / "e.yaml")
    with pytest.raises(ConfigError, match="no data named"):
        load_config(model="gtc")
