"""Tables spread over two and three workers: equal to whole ones, with fewer rows in each worker."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gtcrec import models
from gtcrec.data import write_catalog
from gtcrec.errors import ConfigError, RunError
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run
from gtcrec.ops.sharded import join_rows, local_rows, shard_rows, xavier_rows
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.serving.list_request import ListRequest
from gtcrec.serving.trained_model import TrainedModel
from gtcrec.training import checkpoint
from gtcrec.training.trainer import TrainConfig, fit

HERE = Path(__file__).parent
CONFIG = {"batch_size": 128, "learning_rate": 0.02, "valid_metric": "recall@10", "epochs": 2}
GIVEN = ["sparse=true", "embedding_dim=8", "batch_size=128", "learning_rate=0.01", "seed=2", "epochs=4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_catalog(tmp_path_factory.mktemp("data") / "small", n_users=151, n_items=80, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data):
    """Where two workers and then three have left what they found, and their runs."""
    out = tmp_path_factory.mktemp("sharded")
    command = [sys.executable, *map(str, (HERE / "sharded_process.py", HERE.parent, out, data))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module", params=[2, 3])
def workers(request, folder):
    return [json.loads((folder / f"{request.param}.{rank}.json").read_text()) for rank in range(request.param)]


@pytest.fixture(scope="module")
def alone(folder, data):
    """The same run by one process with whole tables."""
    run = Run.create(load_config(str(data), "bpr", assignments=GIVEN), folder / "alone")
    list(run.epochs())
    return run


def test_rows_looked_up_are_those_of_the_whole_table(workers):
    for found in workers:
        one = found["looked_up"]
        for asked, rows in ((one["asked"], one["rows"]), ([6, 6, 2], one["fetched"])):
            assert rows == [pytest.approx([r, r + 0.1, r + 0.2]) for r in asked]


def test_each_worker_holds_every_size_th_row_and_adam_s_moments_of_those(workers):
    size = len(workers)
    assert [found["looked_up"]["own"] for found in workers] == {2: [4, 4], 3: [3, 3, 2]}[size]
    rows = {2: [20, 20], 3: [14, 13, 13]}[size]  # of 40 users and 40 items
    for name, tables in (("bpr", 2), ("gtc", 3)):
        assert [found[name][0]["held"] for found in workers] == [[n] * 3 * tables for n in rows]
        assert [found[name][1]["held"] for found in workers] == [[40] * 3 * tables] * size


def test_gradients_go_to_the_owners_and_are_summed_with_their_shares(workers):
    size = len(workers)
    whole = torch.zeros(8)
    for rank, found in enumerate(workers):
        whole[rank::size] = torch.tensor(found["gradients"]["rows"])
    assert whole.tolist() == [6 * 0.25, 0, 0, 0, 0, 4 * 0.25 + 8 * 0.75, 0, 0]
    assert [found["gradients"]["other"] for found in workers] == [True] * size


def test_lists_merged_from_the_workers_items_are_those_of_all_items(workers):
    assert [found["ranked"] for found in workers] == [{"scores": True, "4": True, "11": True}] * len(workers)


@pytest.mark.parametrize("name", ["bpr", "gtc"])
def test_training_and_its_checkpoint_equal_those_with_whole_tables_on_as_many_workers(name, workers):
    for found in workers:
        sharded, whole = found[name]
        assert sharded["reloaded"]
        for a, b in zip(*([*one["weights"], one["scores"]] for one in (sharded, whole)), strict=True):
            torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=1e-3, atol=1e-4)
        for a, b in zip(sharded["history"], whole["history"], strict=True):
            assert a["losses"] == pytest.approx(b["losses"], rel=1e-4)
            assert a["valid"] == pytest.approx(b["valid"], abs=0.02)  # a rank may turn on a last bit


def single(split, **settings):
    model = models.build_model(
        "bpr", split.train, split.features, models.make_config("bpr", {"embedding_dim": 8, "sparse": True}), 0
    )
    return model, fit(model, split, TrainConfig(**CONFIG | settings))


def test_training_equals_that_of_one_process(workers, checkerboard):
    model, training = single(checkerboard())
    for found, epoch in zip(workers[0]["bpr"][0]["history"], training.history, strict=True):
        assert found["losses"] == pytest.approx(epoch.losses, rel=1e-4)
        assert found["valid"] == pytest.approx(epoch.valid, abs=0.02)
    for found, p in zip(workers[0]["bpr"][0]["weights"], model.parameters(), strict=True):
        torch.testing.assert_close(torch.tensor(found), p.detach(), rtol=1e-2, atol=2e-3)


def test_a_worker_without_pairs_gives_the_others_its_rows(workers, checkerboard):
    split = checkerboard()
    model, training = single(split, batch_size=len(split.train) - 1, epochs=1)
    for found in workers:
        assert found["one_pair_left"]["history"][0]["losses"] == pytest.approx(training.history[0].losses, rel=1e-4)
        for rows, p in zip(found["one_pair_left"]["weights"], model.parameters(), strict=True):
            torch.testing.assert_close(torch.tensor(rows), p.detach(), rtol=1e-3, atol=1e-4)


def result(run):
    return json.loads((run / "report.json").read_text())


def test_a_run_of_two_workers_ends_as_that_of_one(alone, folder):
    found, wanted = (result(run) for run in (folder / "run", alone.folder))
    assert [one["parameters"] for one in (found, wanted)] == [(151 + 80) * 8] * 2
    assert found["valid"]["means"] == pytest.approx(wanted["valid"]["means"], abs=0.01)
    loaded = Run.load(folder / "run")
    assert loaded.finished
    for key, p in alone.model.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[key], p, rtol=1e-3, atol=1e-4)
    assert len(TrainedModel.of_run(loaded).recommend(np.arange(5), ListRequest(3))) == 15
    names = sorted(path.name for path in (folder / "run").glob("*safetensors"))
    best = found["best_epoch"]
    assert best
    assert names == [
        "checkpoint.4.0-of-2.safetensors", "checkpoint.4.1-of-2.safetensors", "checkpoint.safetensors",
        "model.4.0-of-2.safetensors", "model.4.1-of-2.safetensors", "model.safetensors",
    ]  # fmt: skip
    with (folder / "run/manifest.json").open() as stream:
        assert set(names) <= set(json.load(stream)["files"])


def test_a_run_goes_on_from_two_workers_with_three_and_then_with_one(alone, folder):
    names = sorted(path.name for path in (folder / "broken").glob("checkpoint*"))
    assert names == [*(f"checkpoint.3.{rank}-of-3.safetensors" for rank in range(3)), "checkpoint.safetensors"]
    run = Run.load(folder / "broken")
    assert run.epochs_done == 3
    assert [epoch.number for epoch in run.epochs()] == [4]
    for found, epoch in zip(run.training.history, alone.training.history, strict=True):
        assert found.losses == pytest.approx(epoch.losses, rel=1e-4)
    for key, p in alone.model.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[key], p, rtol=1e-3, atol=1e-4)
    assert [path.name for path in (folder / "broken").glob("checkpoint*")] == ["checkpoint.safetensors"]


def test_a_shard_that_is_missing_or_of_another_checkpoint_is_named(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    path = tmp_path / "run/checkpoint.safetensors"
    shards = [path.with_name(f"checkpoint.4.{rank}-of-2.safetensors") for rank in range(2)]
    shutil.copy(shards[0], shards[1])
    with pytest.raises(RunError, match=r"1-of-2\.safetensors: not of checkpoint\.safetensors: its sha256 sum is"):
        checkpoint.load_shards(path, lambda name: True, ProcessGroup())
    shards[1].unlink()
    with pytest.raises(RunError, match=r"checkpoint\.4\.1-of-2\.safetensors: cannot be read"):
        checkpoint.load_shards(path, lambda name: True, ProcessGroup())


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_rows_drawn_in_parts_are_those_that_torch_draws_at_once(size, monkeypatch):
    monkeypatch.setattr("gtcrec.ops.sharded._BLOCK", 4)
    torch.manual_seed(3)
    whole = nn.init.xavier_uniform_(torch.empty(23, 5))
    after = torch.rand(1)
    for rank in range(size):
        torch.manual_seed(3)
        assert xavier_rows(23, 5, ProcessGroup(rank, size)).equal(whole[rank::size])
        assert torch.rand(1).equal(after)


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 4), (4, 4)])
def test_shards_of_any_number_of_workers_become_those_of_another(before, after):
    whole = torch.arange(26).view(13, 2)
    shards = [whole[rank::before] for rank in range(before)]
    for rank in range(after):
        pieces = [shard_rows(shard, number, before, ProcessGroup(rank, after)) for number, shard in enumerate(shards)]
        assert join_rows(pieces).equal(whole[rank::after])


def test_what_cannot_be_sharded_is_refused_with_its_reason(checkerboard):
    split = checkerboard()
    with pytest.raises(ConfigError, match=r"a table of 2 rows cannot be spread over 3 workers; expected a row"):
        local_rows(2, ProcessGroup(0, 3))
    with pytest.raises(
        ConfigError, match=r"embedding_sharding=row_wise needs a model that can be sharded, one of .*; found lightgcn"
    ):
        models.build_model(
            "lightgcn", split.train, split.features, models.make_config("lightgcn", {}), 0, ProcessGroup()
        )
    for key, wanted, given in (
        ("propagation", "sampled", None),
        ("init", "random", {}),
        ("condition", "user_history", {"init": "random", "condition": "item_id"}),
    ):
        config = models.make_config("gtc", given or {}, "embedding" if given is None else "sampled")
        with pytest.raises(
            ConfigError, match=rf"gtc: train\.embedding_sharding=row_wise needs {key}={wanted}, found {key}="
        ):
            models.build_model("gtc", split.train, split.features, config, 0, ProcessGroup())
    with pytest.raises(
        ConfigError, match=r"bpr: train\.embedding_sharding=row_wise needs sparse=true, found sparse=false"
    ):
        models.build_model("bpr", split.train, split.features, models.make_config("bpr", {}), 0, ProcessGroup())
