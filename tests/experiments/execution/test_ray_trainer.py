"""Training by Ray: the same loop, restarted when a worker is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gtcrec.data import write_catalog
from gtcrec.errors import ConfigError, DataError, RunError
from gtcrec.experiments.config import load_config
from gtcrec.experiments.execution import ray_trainer as engine
from gtcrec.experiments.execution.ray_trainer import Cluster
from gtcrec.experiments.run import Run, train
from gtcrec.training import checkpoint

SMALL = ["epochs=4", "embedding_dim=8", "batch_size=128", "seed=2"]
QUIET = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return write_catalog(tmp_path_factory.mktemp("data") / "small", n_users=150, n_items=80, seed=1)


def train_line(catalogue, out, given=SMALL):
    settings = [word for one in given for word in ("--set", one)]
    return [sys.executable, "-m", "gtcrec", "train", "--data", catalogue, "--model", "bpr", "--out", out, *settings]


def two_processes(catalogue, out, given=SMALL):
    """The same training as Ray's two workers, by torchrun's environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    line = list(map(str, train_line(catalogue, out, given)))
    processes = [
        subprocess.Popen(
            line,
            env={**QUIET, **shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return said


@pytest.fixture(scope="module")
def shared(catalogue, tmp_path_factory):
    """A run that two processes made, and what each printed."""
    folder = tmp_path_factory.mktemp("two") / "run"
    return folder, two_processes(catalogue, folder)


def same_weights(a, b):
    one, other = (checkpoint.load(folder / "checkpoint.safetensors")[0] for folder in (a, b))
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


def test_torchrun_s_processes_make_one_run_and_the_first_alone_talks(shared):
    folder, ((shown, said), (other_shown, other_said)) = shared
    assert Run.load(folder).finished
    assert [json.loads(line)["epoch"] for line in (folder / "history.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    assert "epoch 4/4" in said
    assert shown.startswith("bpr, best epoch")
    assert (other_shown, other_said) == ("", "")
    assert json.loads((folder / "environment.json").read_text())["workers"] == 2


@pytest.mark.timeout(600)
def test_ray_trains_with_two_workers_as_torchrun_does(catalogue, shared, tmp_path, loopback):
    line = [*loopback, *train_line(catalogue, "run"), "--engine", "ray", "--workers", "2"]
    done = subprocess.run(list(map(str, line)), env=QUIET, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0].startswith("epoch 1/4  bpr 0.")
    assert [word in done.stderr for word in ("epoch 4/4", "training ended: all 4 epochs done")] == [True, True]
    assert done.stdout == shared[1][0][0]
    for name in ("history.jsonl", "model.safetensors", "data.json"):
        assert (tmp_path / "run" / name).read_bytes() == (shared[0] / name).read_bytes(), name
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def workers_of(process):
    """Process ids of the Ray workers below a process, in order."""
    parents, workers = {}, []
    for folder in Path("/proc").iterdir():
        try:
            pid = int(folder.name)
            parents[pid] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if (folder / "cmdline").read_bytes().startswith(b"ray::RayTrainWorker"):
                workers.append(pid)
        except (ValueError, OSError):  # no process, or one that has ended
            continue

    def below(pid):
        return pid == process.pid or (pid in parents and below(parents[pid]))

    return sorted(filter(below, workers))


def wait_for(condition, seconds=250):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def epochs_in(folder):
    path = folder / "history.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_killed_in_an_epoch_are_replaced_and_the_run_ends_as_if_nothing_had_happened(
    catalogue, tmp_path, loopback
):
    given = ["epochs=8", "patience=8", "embedding_dim=8", "batch_size=3", "seed=2"]  # an epoch of a second
    two_processes(catalogue, tmp_path / "unbroken", given)
    line = [*loopback, *train_line(catalogue, tmp_path / "run", given), "--engine", "ray", "--workers", "2"]
    with subprocess.Popen(list(map(str, line)), env=QUIET, stderr=subprocess.PIPE, text=True) as process:
        for victim, epochs in ((1, 1), (0, 4)):
            wait_for(lambda epochs=epochs: epochs_in(tmp_path / "run") >= epochs)
            time.sleep(0.3)
            os.kill(workers_of(process)[victim], signal.SIGKILL)
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert said.count("lost worker") == 2
    assert "starting again from epoch" in said
    assert "restart 2 of 3" in said
    assert (tmp_path / "run/history.jsonl").read_bytes() == (tmp_path / "unbroken/history.jsonl").read_bytes()
    assert same_weights(tmp_path / "run", tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_begun_by_one_process_goes_on_with_two_and_an_interrupted_one_says_how(catalogue, tmp_path, loopback):
    run = Run.create(load_config(str(catalogue), "bpr", assignments=["epochs=400", "patience=400"]), tmp_path / "run")
    epochs = run.epochs()
    assert [next(epochs).number for _ in range(2)] == [1, 2]
    before = (tmp_path / "run/history.jsonl").read_text()
    command = [*loopback, sys.executable, "-m", "gtcrec", "resume", str(tmp_path / "run")]
    line = [*command, "--engine", "ray", "--workers", "2"]
    with subprocess.Popen(line, env=QUIET, stderr=subprocess.PIPE, text=True) as process:
        said = process.stderr.readline()  # it is at work, and has been seen to be
        process.send_signal(signal.SIGTERM)
        said += process.stderr.read()
    assert process.returncode == 143
    assert said.startswith("epoch 3/400")
    assert said.endswith(f"stopped; resume with: gtcrec resume {tmp_path / 'run'}\n")
    assert (tmp_path / "run/history.jsonl").read_text().startswith(before)
    assert not workers_of(process)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert subprocess.run([*command[len(loopback) :]], env=QUIET, capture_output=True, timeout=200).returncode == 0
    assert epochs_in(tmp_path / "run") == 400


SEEDS = """
import sys
from pathlib import Path
from gtcrec.experiments.config import load_config
from gtcrec.experiments.execution.ray_trainer import Cluster, epochs
from gtcrec.runtime.ray_session import ray_session
data, out, *given = sys.argv[1:]
with ray_session(None, 2):
    for seed in range(3):
        config = load_config(data, "gtc", assignments=[*given, f"seed={seed}"])
        list(epochs(config, Path(out) / str(seed), Cluster(2)))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_reach_the_validation_metric_of_one_process_within_noise(tmp_path, loopback):
    data = write_catalog(tmp_path / "data", n_users=300, n_items=150, seed=3)
    given = ["epochs=25", "embedding_dim=16", "batch_size=256", "learning_rate=0.003", "valid_metric=ndcg@20"]
    line = [*loopback, sys.executable, "-c", SEEDS, data, tmp_path / "ray", *given]
    done = subprocess.run(list(map(str, line)), env=QUIET, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = []
    for seed in range(3):
        alone = Run.create(
            load_config(str(data), "gtc", assignments=[*given, f"seed={seed}"]), tmp_path / f"alone{seed}"
        )
        list(alone.epochs())
        found.append([valid_ndcg(alone.folder), valid_ndcg(tmp_path / f"ray/{seed}")])
    popular = train(data, "popular", tmp_path / "popular", valid_metric="ndcg@20")
    means = np.mean([[mean for mean, _ in seed] for seed in found], axis=0)
    low, high = np.mean([seed[0][1] for seed in found], axis=0)
    assert min(means) > 1.3 * valid_ndcg(popular.folder)[0]
    assert abs(means[0] - means[1]) < (high - low) / 2


def valid_ndcg(folder):
    """Mean and 95 % interval of a run's validation."""
    found = json.loads((folder / "report.json").read_text())["valid"]
    return found["means"]["ndcg@20"], found["intervals"]["ndcg@20"]


def failure(**errors):
    found = RuntimeError("Training failed due to worker errors:\nmany lines")
    found.worker_failures = {int(rank[1:]): error for rank, error in errors.items()}
    return found


def test_what_a_worker_raised_on_purpose_is_raised():
    with pytest.raises(DataError, match="x: no such file"):
        engine._reason(failure(w1=RuntimeError("reset by peer"), w0=DataError("x: no such file")))


def test_the_reason_for_a_restart_is_one_line():
    lost = type("WorkerHealthCheckFailedError", (Exception,), {})("A worker health check failed.\nWorker info: …")
    assert engine._reason(failure(w0=RuntimeError("reset by peer"), w1=lost)) == "lost worker 1"
    broken = failure(w0=RuntimeError("reset by peer"), w1=OSError("no space left\non device"))
    assert engine._reason(broken) == "worker 1 failed: OSError: no space left"
    assert engine._reason(ValueError("bad\nthing")) == "the workers failed: ValueError: bad"


class Fails:
    """A stand-in for the workers' group, which ends as the list says."""

    ends: list

    def __init__(self, config, folder, scratch, cluster):
        self.error = self.ends[int(scratch.name)]

    def running(self):
        return False


@pytest.fixture
def fails(monkeypatch):
    from contextlib import nullcontext

    monkeypatch.setattr(engine, "_Attempt", Fails)
    monkeypatch.setattr(engine, "_session", lambda cluster: nullcontext())
    return Fails


def test_workers_lost_too_often_are_given_up(fails, catalogue, tmp_path):
    fails.ends = [failure(w0=OSError("no space"))] * 3
    said = []
    with pytest.raises(RunError, match=r"run: given up after 2 restarts: worker 0 failed: OSError: no space"):
        list(engine.epochs(load_config(str(catalogue), "bpr"), tmp_path / "run", Cluster(2, "", 2), said.append))
    assert said == [
        f"worker 0 failed: OSError: no space; starting again from epoch 0, restart {n} of 2" for n in (1, 2)
    ]


def test_results_that_are_not_to_be_seen_here_are_asked_for(fails, catalogue, tmp_path):
    fails.ends = [None]
    with pytest.raises(
        RunError, match=r"run: the workers have ended, but their results are not here; expected a shared"
    ):
        list(engine.epochs(load_config(str(catalogue), "bpr"), tmp_path / "run", Cluster(2)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for GPUs that are not there")
def test_gpus_that_are_not_there_are_counted(catalogue, tmp_path):
    config = load_config(str(catalogue), "bpr", assignments=["device=cuda"])
    with pytest.raises(ConfigError, match="2 workers want 2 GPUs, torch sees 0"):
        list(engine.epochs(config, tmp_path / "run", Cluster(2)))
    config = load_config(str(catalogue), "bpr", assignments=["device=cuda:0"])
    with pytest.raises(ConfigError, match="several workers have a GPU each"):
        list(engine.epochs(config, tmp_path / "run", Cluster(2)))
