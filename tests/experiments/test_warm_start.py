"""A run that starts from another's weights, on data that have grown since."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import gtcrec
from gtcrec import models
from gtcrec.errors import ConfigError, GtcrecError, RunError
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run
from gtcrec.experiments.run_check import check_run
from gtcrec.training import checkpoint

SETTINGS = ["embedding_dim=8", "batch_size=64", "epochs=2", "split.strategy=leave_one_out"]
CONTENT = {"mug": (1.0, 0.0), "tea": (0.0, 1.0), "cup": (1.0, 0.5), "pot": (0.5, 0.5), "jar": (0.2, 1.0)}


def write_data(folder: Path, users: list[str], items: list[str]) -> Path:
    """Write a data folder in which each user has four of the items, in order of time."""
    folder.mkdir()
    lines = [f"{user},{items[(u + k) % len(items)]},{10 * k}\n" for u, user in enumerate(users) for k in range(4)]
    (folder / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "".join(lines))
    (folder / "items.csv").write_text("item_id,title\n" + "".join(f"{one},{one}\n" for one in items))
    x = np.array([CONTENT.get(one, (0.1, 0.1)) for one in items], dtype=np.float32)
    np.save(folder / "text_feat.npy", x)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    users = [f"u{k}" for k in range(9)]
    return write_data(tmp_path_factory.mktemp("small") / "data", users, ["cup", "jar", "mug", "pot", "tea"])


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same users and items, and new ones whose ids come before, between and after them."""
    users = ["ann", *(f"u{k}" for k in range(9)), "u35", "zoe"]
    items = ["ale", "cup", "jar", "kit", "mug", "pot", "tea"]
    return write_data(tmp_path_factory.mktemp("grown") / "data", users, items)


def start(data: Path, folder: Path, former: Path | None = None, model: str = "bpr", *more: str) -> Run:
    return Run.create(load_config(str(data), model, assignments=[*SETTINGS, *more]), folder, init_from=former)


@pytest.fixture(scope="module")
def former(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = start(small, tmp_path_factory.mktemp("former") / "run")
    list(run.epochs())
    return run.folder


def test_weights_go_to_the_users_and_items_that_have_them(former: Path, grown: Path, tmp_path: Path) -> None:
    run = start(grown, tmp_path / "run", former)
    then, _ = checkpoint.load(former / "model.safetensors")
    config = models.make_config("bpr", run.config.settings)
    fresh = models.build_model("bpr", run.split.train, run.split.features, config, run.config.train.seed)
    old = {"users": [f"u{k}" for k in range(9)], "items": ["cup", "jar", "mug", "pot", "tea"]}
    for side, ids in old.items():
        now = getattr(run.model, side).detach()
        vocabulary = getattr(run.dataset, side)
        known = vocabulary.index(ids)
        assert torch.equal(now[known], then[side])
        new = np.setdiff1d(np.arange(len(vocabulary)), known)
        assert len(new) > 1
        assert torch.equal(now[new], getattr(fresh, side).detach()[new])


@pytest.mark.parametrize("model", ["bpr", "lightgcn", "vbpr", "diffmm"])
def test_every_parameter_is_taken_over(small: Path, grown: Path, tmp_path: Path, model: str) -> None:
    """Of `diffmm` the items are columns of one weight and rows of another."""
    more = [] if model == "bpr" else ["num_layers=1"] if model == "lightgcn" else []
    first = start(small, tmp_path / "first", None, model, *more)
    list(first.epochs())
    run = start(grown, tmp_path / "run", tmp_path / "first", model, *more)
    users, items = (torch.from_numpy(run.dataset.users.index(first.dataset.users.ids)),
                    torch.from_numpy(run.dataset.items.index(first.dataset.items.ids)))  # fmt: skip
    for name, then in first.model.named_parameters():
        now = dict(run.model.named_parameters())[name].detach()
        for axis, size in enumerate(now.shape):
            now = now.index_select(axis, users) if size == 12 else now
            now = now.index_select(axis, items) if size == 7 else now
        assert torch.equal(now, then.detach()), name


def test_the_data_of_the_former_run_need_not_be_there(small: Path, grown: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "data")
    list(start(tmp_path / "data", tmp_path / "first").epochs())
    shutil.rmtree(tmp_path / "data")
    shutil.copytree(grown, tmp_path / "data")
    with pytest.raises(RunError, match="not the data of this run"):
        Run.load(tmp_path / "first")
    run = start(tmp_path / "data", tmp_path / "run", tmp_path / "first")
    list(run.epochs())
    assert run.finished
    assert json.loads((run.folder / "data.json").read_text())["started_from"] == {
        "run": "first",
        "users": {"known": 9, "new": 3},
        "items": {"known": 5, "new": 2},
        "validation": {"interactions": 12, "trained_on": run.started_from["validation"]["trained_on"]},
    }


def test_a_run_that_was_killed_before_its_first_epoch_keeps_the_start(
    former: Path, grown: Path, tmp_path: Path
) -> None:
    unbroken, killed = (start(grown, tmp_path / name, former) for name in ("unbroken", "killed"))
    assert [one for one in check_run(killed.folder) if one.harmful] == []
    resumed = Run.load(killed.folder)
    assert resumed.epochs_done == 0
    for run in (unbroken, resumed):
        list(run.epochs())
    texts = [(run.folder / "model.safetensors").read_bytes() for run in (unbroken, resumed)]
    assert texts[0] == texts[1]


def test_a_start_from_a_trained_run_begins_with_a_lower_loss(small: Path, tmp_path: Path) -> None:
    first = gtcrec.train(small, "bpr", tmp_path / "first", embedding_dim=8, epochs=40, learning_rate=0.05)
    cold, warm = (
        gtcrec.train(small, "bpr", tmp_path / name, embedding_dim=8, epochs=1, init_from=former)
        for name, former in (("cold", None), ("warm", first.folder))
    )
    assert warm.training.history[0].losses["bpr"] < 0.9 * cold.training.history[0].losses["bpr"]


def test_items_that_were_added_after_the_training_are_new(small: Path, grown: Path, tmp_path: Path) -> None:
    model = gtcrec.Recommender("gtc", embedding_dim=8, init="random")
    model.fit(gtcrec.load_dataset(small), epochs=1, batch_size=64)
    model.add_items("kit", {"text": [[0.1, 0.1]]}).save(tmp_path / "saved")
    run = start(grown, tmp_path / "run", tmp_path / "saved", "gtc", "init=random")
    assert run.started_from["items"] == {"known": 5, "new": 2}


@pytest.mark.parametrize(("strategy", "trained_on"), [("leave_one_out", False), ("random", True)])
def test_interactions_that_the_former_run_was_trained_on_are_counted(
    small: Path, grown: Path, tmp_path: Path, strategy: str, trained_on: bool
) -> None:
    """By time the validation of a later day comes after the training of the former; at random it is anywhere."""
    items = ["cup", "jar", "mug", "pot", "tea"]
    lines = (small / "interactions.csv").read_text()
    lines += "".join(f"u{k},{items[(k + 4) % 5]},{100 + k}\n" for k in range(0, 9, 2))
    shutil.copytree(small, tmp_path / "later")
    (tmp_path / "later" / "interactions.csv").write_text(lines)
    split = f"split.strategy={strategy}"
    list(start(small, tmp_path / "first", None, "bpr", split).epochs())
    run = start(tmp_path / "later", tmp_path / "run", tmp_path / "first", "bpr", split)
    assert bool(run.started_from["validation"]["trained_on"]) == trained_on


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("ease", [], "init_from: ease is computed anew from the data"),
        ("gtc", [], "init=als solves the first weights from all data of today"),
        ("bpr", ["train.embedding_sharding=row_wise"], "expected train.embedding_sharding=none, found row_wise"),
        ("lightgcn", [], "holds the model bpr, expected lightgcn"),
        ("bpr", ["embedding_dim=4"], r"its weights users have the shape \[9, 8\], expected \[12, 4\]"),
    ],
)
def test_what_cannot_start_is_refused_and_leaves_no_folder(
    former: Path, grown: Path, tmp_path: Path, model: str, more: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Run.create(load_config(str(grown), model, assignments=more), tmp_path / "run", init_from=former)
    assert not (tmp_path / "run").exists()


def test_only_a_finished_run_or_a_saved_recommender_is_a_start(small: Path, tmp_path: Path) -> None:
    unfinished = start(small, tmp_path / "unfinished").folder
    for place in (unfinished, small, tmp_path / "none"):
        with pytest.raises(RunError, match="expected a finished run or a saved recommender to start from"):
            start(small, tmp_path / "run", place)


def test_damaged_weights_are_refused(former: Path, grown: Path, tmp_path: Path) -> None:
    shutil.copytree(former, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(GtcrecError, match=r"model.safetensors: damaged or edited"):
        start(grown, tmp_path / "run", tmp_path / "damaged")


def test_as_many_users_but_others_are_refused(former: Path, tmp_path: Path) -> None:
    users = [f"v{k}" for k in range(9)]
    others = write_data(tmp_path / "others", users, ["cup", "jar", "mug", "pot", "tea"])
    with pytest.raises(ConfigError, match="has 9 users, as many as the data, but others"):
        start(others, tmp_path / "run", former)


def test_as_many_users_as_items_are_refused_where_both_have_grown(tmp_path: Path) -> None:
    data = [write_data(tmp_path / f"data{n}", [f"u{k}" for k in range(n)], [f"i{k}" for k in range(n)]) for n in (6, 8)]
    list(start(data[0], tmp_path / "first").epochs())
    with pytest.raises(ConfigError, match="has as many users as items, and the data too"):
        start(data[1], tmp_path / "run", tmp_path / "first")
