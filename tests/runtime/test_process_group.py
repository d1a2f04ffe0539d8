"""Two workers: equal to each other to the last bit, and to one process up to the rounding of sums."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.runtime.process_group import (
    ProcessGroup,
    find_device,
    init_process_group,
    refuse_numbered_gpu,
    tensor_digest,
)
from gtcrec.training.trainer import TrainConfig, Training, fit

HERE = Path(__file__).parent
CONFIG = {"batch_size": 64, "learning_rate": 0.02, "valid_metric": "recall@10", "epochs": 3}


def run_two(out):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(HERE / "workers_process.py"), str(HERE.parent), str(out)]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return run_two(tmp_path_factory.mktemp("two"))


def single(name, split, row_bpr, **settings):
    if name == "rows":
        model = row_bpr(split.train)
    else:
        model = models.build_model(name, split.train, split.features, models.make_config(name, {"embedding_dim": 8}), 0)
    return model, fit(model, split, TrainConfig(**CONFIG | settings))


def without_seconds(found):
    return [{key: epoch[key] for key in ("losses", "valid")} for epoch in found["history"]]


def test_torchrun_s_environment_says_who_is_who(two):
    assert [found["workers"] for found in two] == [[0, 2], [1, 2]]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have names in Linux's /proc")
def test_no_thread_of_the_process_group_outlives_it(two):
    """One that does aborts the process, now and then, as Python shuts down."""
    assert [[name for name in found["threads"] if "gloo" in name] for found in two] == [[], []]
    assert all(found["threads"] for found in two)


def test_gathering_takes_unequal_and_empty_parts(two):
    assert [found["gathered"] for found in two] == [[[], [[0], [1]]]] * 2


def test_gradients_are_summed_with_their_shares_row_by_row(two):
    table = [[0.75 * 8] * 2, [0.25] * 2, [0, 0], [0.25 * 2 + 0.75 * 8] * 2, [0, 0]]
    wanted = {"one": [0.25, 0.5], "none": True, "table": table, "empty": [[0, 0], [0, 0], [0.25, 0.75]]}
    assert [found["combined"] for found in two] == [wanted] * 2


def test_workers_that_differ_are_told_so(two):
    text = "worker 1 and worker 0 differ in their colour: 'blue' and 'red'"
    assert [found["disagreement"] for found in two] == [text] * 2


@pytest.mark.parametrize("name", ["bpr", "lightgcn", "rows", "gtc", "one_pair_left", "few_users"])
def test_weights_and_histories_of_the_workers_are_equal_to_the_last_bit(name, two):
    assert two[0][name] == two[1][name]


@pytest.mark.parametrize("name", ["bpr", "lightgcn", "rows"])
def test_two_workers_do_what_one_process_does_when_the_loss_draws_nothing(name, two, checkerboard, row_bpr):
    model, training = single(name, checkerboard(), row_bpr)
    for found, epoch in zip(two[0][name]["history"], training.history, strict=True):
        assert found["losses"] == pytest.approx(epoch.losses, rel=1e-4)
        assert found["valid"] == pytest.approx(epoch.valid, abs=0.02)  # a rank may turn on the last bit of a score
    for key, value in model.state_dict().items():
        torch.testing.assert_close(torch.tensor(two[0][name]["weights"][key]), value, rtol=1e-2, atol=2e-3)


def test_each_worker_has_a_random_stream_of_its_own(two, checkerboard, row_bpr):
    _, training = single("gtc", checkerboard(), row_bpr)
    alone, shared = training.history[1].losses, two[0]["gtc"]["history"][1]["losses"]
    assert shared["bpr"] == pytest.approx(alone["bpr"], rel=0.02)
    assert shared["history"] != alone["history"]
    assert shared["history"] == pytest.approx(alone["history"], rel=0.2)


def test_a_worker_without_pairs_takes_the_same_step(two, checkerboard, row_bpr):
    split = checkerboard()
    _, training = single("rows", split, row_bpr, batch_size=len(split.train) - 1, epochs=1)
    assert two[0]["one_pair_left"]["history"][0]["losses"] == pytest.approx(training.history[0].losses, rel=1e-4)


def test_validation_works_with_fewer_users_than_workers(two, checkerboard, row_bpr):
    _, training = single("bpr", checkerboard(), row_bpr, valid_users=1, epochs=1)
    assert two[0]["few_users"]["history"][0]["valid"] == pytest.approx(training.history[0].valid)


def test_a_checkpoint_of_two_workers_goes_on_with_two_exactly_and_with_one_up_to_rounding(two):
    assert without_seconds(two[0]["resumed"]) == without_seconds(two[0]["rows"])
    assert two[0]["resumed"]["weights"] == two[1]["rows"]["weights"]
    one, both = two[0]["alone"]["history"], two[0]["rows"]["history"]
    assert len(one) == 3
    assert one[1]["losses"] == both[1]["losses"]
    assert one[2]["losses"] == pytest.approx(both[2]["losses"], rel=1e-4)


def test_parts_cover_a_batch_and_differ_by_one_at_most():
    for n in range(12):
        parts = [list(range(n))[ProcessGroup(rank, 5).shard(n)] for rank in range(5)]
        assert [row for part in parts for row in part] == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_summary_of_weights_sees_one_bit():
    weights = [torch.ones(3, 2), torch.tensor(2.0)]
    before = tensor_digest(weights)
    weights[0].view(torch.int32)[1, 1] += 1
    assert tensor_digest(weights) == before + 1


def test_without_torchrun_a_process_works_alone(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with init_process_group("cpu") as workers:
        assert workers == ProcessGroup(0, 1)


def test_devices_are_refused_by_name(checkerboard, row_bpr):
    with pytest.raises(ConfigError, match=r"there is no device 'tpu'; torch sees cpu"):
        find_device("tpu")
    with pytest.raises(ConfigError, match=r"several workers have a GPU each; expected device cuda .*found 'cuda:1'"):
        refuse_numbered_gpu("cuda:1")
    assert Training(row_bpr(checkerboard().train), TrainConfig(device="cpu")).device.type == "cpu"
