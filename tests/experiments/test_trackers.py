"""Trackers are told of each epoch once, across a resumption too, and never end a training."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import gtcrec
from gtcrec.errors import ConfigError
from gtcrec.experiments import trackers
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run

FAST = ["epochs=4", "embedding_dim=8", "batch_size=256"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(gtcrec.data.write_catalog(tmp_path_factory.mktemp("data") / "shop", n_users=60, n_items=40))


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows of a run: name -> epoch -> value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {name: {one.step: one.value for one in events.Scalars(name)} for name in events.Tags()["scalars"]}


def test_no_tracker_is_told_by_default(data: str, tmp_path: Path) -> None:
    run = Run.create(load_config(data, "popular"), tmp_path / "run")
    list(run.epochs())
    assert run.config.train.trackers == ()
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_tensorboard_shows_what_the_history_says(data: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = Run.create(load_config(data, "bpr", assignments=[*FAST, "trackers=tensorboard"]), tmp_path / "run")
    history = list(run.epochs())
    shown = scalars(run.folder)
    assert {"loss/bpr", "valid/ndcg@20", "cost/train_seconds"} <= set(shown)
    for name, part, key in (("loss/bpr", "losses", "bpr"), ("valid/ndcg@20", "valid", "ndcg@20")):
        assert shown[name] == pytest.approx({epoch.number: getattr(epoch, part)[key] for epoch in history})
    assert Run.load(run.folder).finished  # the manifest holds


def test_tensorboard_goes_on_after_a_resumption_without_doubles(data: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    settings = [*FAST, "trackers=tensorboard", "checkpoint_every=2"]
    run = Run.create(load_config(data, "bpr", assignments=settings), tmp_path / "run")
    epochs = run.epochs()
    for _ in range(3):  # the third is after the checkpoint, so it is trained once more
        next(epochs)
    epochs.close()
    history = list(Run.load(run.folder).epochs())
    assert [epoch.number for epoch in history] == [3, 4]
    shown = scalars(run.folder)["loss/bpr"]
    assert list(shown) == [1, 2, 3, 4]
    assert [shown[epoch.number] for epoch in history] == pytest.approx([epoch.losses["bpr"] for epoch in history])


def test_a_tracker_changes_no_result(data: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    texts = []
    for name, more in (("with", ["trackers=tensorboard"]), ("without", [])):
        run = Run.create(load_config(data, "bpr", assignments=[*FAST, *more]), tmp_path / name)
        list(run.epochs())
        texts.append((run.folder / "history.jsonl").read_text())
    assert texts[0] == texts[1]


def test_a_tracker_that_is_not_installed_is_named_before_the_work(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'trackers: mlflow is not installed; pip install "gtcrec\[mlflow\]"'):
        load_config(data, "bpr", assignments=["trackers=mlflow,tensorboard"])


class _Fails:
    """A tracker whose server goes away after the first epoch."""

    def __init__(self, *given: object) -> None:
        self.seen: list[int] = []

    def on_epoch_end(self, epoch: SimpleNamespace) -> None:
        if self.seen:
            raise ConnectionError("gone")
        self.seen.append(epoch.number)

    def close(self, finished: bool) -> None:
        raise AssertionError("it was left out")


def test_a_tracker_that_fails_ends_no_training(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers._KINDS, "tensorboard", _Fails)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: name)
    run = Run.create(load_config(data, "bpr", assignments=[*FAST, "trackers=tensorboard"]), tmp_path / "run")
    with pytest.warns(UserWarning, match="tensorboard is told no more of this run: ConnectionError: gone"):
        assert len(list(run.epochs())) == 4
    assert run.finished


class _Recorded:
    """A stand-in for `trackio`, which notes what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def init(self, project: str, name: str, **given: object) -> "_Recorded":
        self.calls.append(("init", project, name, given["resume"]))
        sys.stdout.write("trackio speaks\n")
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append(("log", step))

    def finish(self) -> None:
        self.calls.append(("finish",))


def test_trackio_is_told_of_each_epoch_and_kept_off_stdout(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = _Recorded()
    monkeypatch.setitem(sys.modules, "trackio", recorded)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: name)
    config = load_config(data, "bpr", values={"trackers": ["trackio"], "epochs": 2})
    list(Run.create(config, tmp_path / "night").epochs())
    logs = [("log", 1), ("log", 2)]
    assert recorded.calls == [("init", "gtcrec", "night", "never"), *logs, ("finish",)]
    assert capsys.readouterr() == ("", "trackio speaks\n")


def test_mlflow_keeps_settings_and_every_epoch_across_a_resumption(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "tracked").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database wants more than mlflow-skinny
    settings = [*FAST, "trackers=mlflow", "checkpoint_every=2"]
    run = Run.create(load_config(data, "bpr", assignments=settings), tmp_path / "run")
    epochs = run.epochs()
    first = [next(epochs) for _ in range(2)]
    epochs.close()
    history = first + list(Run.load(run.folder).epochs())
    client = mlflow.MlflowClient()
    (tracked,) = client.search_runs([client.get_experiment_by_name("gtcrec").experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["gtcrec.folder"] == str(run.folder.resolve())
    assert tracked.data.params["settings.embedding_dim"] == "8"
    for name, part, key in (("loss/bpr", "losses", "bpr"), ("valid/ndcg_at_20", "valid", "ndcg@20")):
        shown = {one.step: one.value for one in client.get_metric_history(tracked.info.run_id, name)}
        assert shown == pytest.approx({epoch.number: getattr(epoch, part)[key] for epoch in history})
