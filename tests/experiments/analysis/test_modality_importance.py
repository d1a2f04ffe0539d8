"""What a trained model loses when its content is replaced."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gtcrec import models
from gtcrec.cli.main import execute
from gtcrec.data import write_catalog
from gtcrec.errors import DataError, RunError
from gtcrec.experiments.analysis.modality_importance import KINDS, Kind, modality_importance, replace_content
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run
from gtcrec.reporting.run_record import read_run_record
from gtcrec.serving.list_request import ListRequest
from gtcrec.serving.trained_model import TrainedModel
from gtcrec.types import Interactions, ItemFeatures, Scorer

SMALL = ["epochs=2", "embedding_dim=8", "batch_size=512"]


def train(data: Path, model: str, folder: Path, given: list[str] | None = None) -> Run:
    run = Run.create(load_config(str(data), model, assignments=given or []), folder)
    for _ in run.epochs():
        pass
    return run


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalog(tmp_path_factory.mktemp("data") / "shop", n_users=80, n_items=50)


@pytest.fixture(scope="module")
def runs(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    given: dict[str, list[str]] = {"popular": [], "lightgcn": SMALL, "freedom": SMALL, "gtc": SMALL}
    return {name: train(shop, name, folder / name, settings) for name, settings in given.items()}


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users like items of their own colour; those of validation nobody liked in training, and content is the colour."""
    folder = tmp_path_factory.mktemp("data") / "cold"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["userID\titemID\tx_label"]
    for user in range(60):
        own = np.arange(user % 2, 60, 2)
        warm, fresh = own[own < 40], own[own >= 40]
        rows += [f"{user}\t{item}\t0" for item in warm]
        rows += [f"{user}\t{item}\t{label}" for label, item in zip((1, 1, 2), rng.choice(fresh, 3, False), strict=True)]
    (folder / "cold.inter").write_text("\n".join(rows) + "\n")
    colour = np.eye(2)[np.arange(60) % 2] + rng.normal(0, 0.1, (60, 2))
    np.save(folder / "colour_feat.npy", np.hstack([colour, rng.normal(0, 0.1, (60, 4))]).astype(np.float32))
    return folder


def content(n: int = 400, missing: float = 0.3) -> ItemFeatures:
    rng = np.random.default_rng(3)
    present = {m: rng.random(n) >= missing for m in ("image", "text")}
    scale, shift = np.array([0.1, 1.0, 5.0]), np.array([0.0, -2.0, 7.0])
    values = {
        m: np.where(has[:, None], rng.normal(size=(n, 3)) * scale + shift, 0).astype(np.float32)
        for m, has in present.items()
    }
    return ItemFeatures(n, values, present)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_present_rows_of_one_modality_change(kind: Kind) -> None:
    before = content()
    kept = before.values["image"].copy()
    after = replace_content(before, "image", kind, np.random.default_rng(0))
    has = before.present["image"]
    assert np.array_equal(after.present["image"], has)
    assert not after.values["image"][~has].any()
    assert (after.values["image"][has] != kept[has]).any(axis=1).all()
    assert np.array_equal(after.values["text"], before.values["text"])
    assert np.array_equal(before.values["image"], kept)
    again = replace_content(before, "image", kind, np.random.default_rng(0))
    assert np.array_equal(again.values["image"], after.values["image"])


def test_noise_has_the_mean_and_spread_of_each_column_and_nothing_else() -> None:
    before = content(4000)
    has = before.present["text"]
    x, y = (
        before.values["text"][has],
        replace_content(before, "text", "noise", np.random.default_rng(0)).values["text"][has],
    )
    error = x.std(axis=0) / np.sqrt(len(x))
    assert (np.abs(y.mean(axis=0) - x.mean(axis=0)) < 4 * error).all()
    assert y.std(axis=0) == pytest.approx(x.std(axis=0), rel=0.06)
    assert np.abs([np.corrcoef(x[:, k], y[:, k])[0, 1] for k in range(3)]).max() < 4 / np.sqrt(len(x))


def test_constant_is_the_mean_row() -> None:
    before = content()
    has = before.present["image"]
    after = replace_content(before, "image", "constant", np.random.default_rng(0)).values["image"][has]
    assert (after == after[0]).all()
    assert after[0] == pytest.approx(before.values["image"][has].mean(axis=0), abs=1e-5)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_other_hands_each_row_to_another_item(n: int) -> None:
    x = np.arange(n, dtype=np.float32)[:, None] + 1
    before = ItemFeatures(n, {"image": x}, {"image": np.ones(n, dtype=np.bool_)})
    for seed in range(20):
        after = replace_content(before, "image", "other", np.random.default_rng(seed)).values["image"]
        assert sorted(after[:, 0]) == x[:, 0].tolist()
        assert (after != x).all()


def test_one_item_has_none_to_exchange_with() -> None:
    present = {"image": np.array([False, True, False])}
    one = ItemFeatures(3, {"image": np.ones((3, 2), dtype=np.float32) * present["image"][:, None]}, present)
    with pytest.raises(DataError, match="image: expected at least 2 items that have it to exchange, found 1"):
        replace_content(one, "image", "other", np.random.default_rng(0))


@pytest.mark.parametrize("name", ["popular", "lightgcn", "freedom", "gtc"])
def test_the_intact_figures_are_those_of_the_report(runs: Mapping[str, Run], name: str) -> None:
    found = modality_importance(Run.load(runs[name].folder))
    result = read_run_record(runs[name].folder).result
    assert found.intact == result.valid.means
    assert found.users == result.valid.users
    assert result.test is None
    assert not (runs[name].folder / "per_user_test.parquet").exists()


@pytest.mark.parametrize("name", ["popular", "lightgcn"])
def test_a_model_that_looks_at_no_content_loses_exactly_nothing(runs: Mapping[str, Run], name: str) -> None:
    found = modality_importance(runs[name], ["recall@20", "ndcg@5"])
    assert [(one.modality, one.kind) for one in found.losses] == [
        (modality, kind) for _ in range(2) for modality in ("image", "text") for kind in KINDS
    ]
    for one in found.losses:
        assert one.mean == found.intact[one.test.metric]
        assert (one.test.difference, one.test.interval, one.test.p) == (0, (0, 0), 1)
        assert (one.relative, one.interval, one.significant) == (0, (0, 0), False)


def test_a_model_that_has_content_alone_to_go_by_loses_much(cold: Path, tmp_path: Path) -> None:
    # Neither the item graph nor the alignment may teach the items' embeddings their colour in training.
    given = ["preset=embedding", "epochs=40", "dim=8", "batch_size=128", "learning_rate=0.02"]
    given += ["item_neighbours=0", "alignment=none"]
    given.append("valid_metric=recall@20")  # at the best ndcg@20 noise finds nothing at all: no interval to see
    found = modality_importance(train(cold, "gtc", tmp_path / "run", given), ["recall@10"])
    # All 20 warm items of the user's colour are training's: the ten cold ones are left, and ten of the other colour.
    assert found.intact["recall@10"] > 0.9
    assert [(one.modality, one.kind) for one in found.losses] == [("colour", kind) for kind in KINDS]
    for one in found.losses:
        assert one.relative is not None
        assert one.interval is not None
        assert one.relative < -0.3
        assert one.interval[0] < one.relative < one.interval[1] < 0
        assert one.significant
        assert one.mean == pytest.approx(found.intact["recall@10"] * (1 + one.relative))


def test_knocking_out_leaves_the_run_as_it_was(runs: Mapping[str, Run]) -> None:
    run = Run.load(runs["gtc"].folder)
    users = np.arange(5)
    before = TrainedModel.of_run(run).recommend(users, ListRequest(5))
    first, second = modality_importance(run, ["ndcg@20"], seed=1), modality_importance(run, ["ndcg@20"], seed=1)
    assert first == second
    assert modality_importance(run, ["ndcg@20"], seed=2).losses != first.losses
    for one in (Run.load(run.folder), run):
        assert TrainedModel.of_run(one).recommend(users, ListRequest(5)) == before


def test_a_run_without_content_is_refused(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(shop, "popular", tmp_path / "bare", ["data.modalities=[]"])
    assert execute(["analyze", "importance", str(tmp_path / "bare")]) == 1
    wanted = f"error: {tmp_path / 'bare'}: its data have no content, so there is none to replace\n"
    assert capsys.readouterr().err == wanted


def test_an_unfinished_run_is_refused(shop: Path, tmp_path: Path) -> None:
    run = Run.create(load_config(str(shop), "bpr", assignments=SMALL), tmp_path / "run")
    with pytest.raises(RunError, match="run: training has not ended"):
        modality_importance(run)


class Hoarder(nn.Module):
    """A model that saves the sum of each item's content with its weights."""

    def __init__(self, config: object, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.register_buffer("sums", torch.from_numpy(features.values["text"].sum(axis=1)))

    def scorer(self) -> Scorer:
        return lambda users: self.sums.expand(len(users), -1)  # type: ignore[operator]


def test_a_model_that_saves_its_content_is_refused(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(models.get_spec("popular"), model=Hoarder)
    monkeypatch.setattr("gtcrec.models.baselines.popular.SPEC", spec)
    run = train(shop, "popular", tmp_path / "run")
    with pytest.raises(
        RunError, match="popular: its saved weights contain content: 'sums' changes with text; expected"
    ):
        modality_importance(run)


def test_the_command_prints_one_table_or_json(runs: Mapping[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(runs["gtc"].folder)
    assert execute(["analyze", "importance", folder, "--json", "--metric", "ndcg@20", "--seed", "3"]) == 0
    facts = json.loads(capsys.readouterr().out)
    expected = modality_importance(runs["gtc"], ["ndcg@20"], seed=3)
    assert facts["on"] == "valid"
    assert facts["intact"] == expected.intact
    assert [one["relative"] for one in facts["losses"]] == [one.relative for one in expected.losses]
    assert execute(["analyze", "importance", folder, "--metric", "ndcg@20", "--seed", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"validation, \d+ users, 95 % interval", lines[0])
    assert lines[1].split() == ["content", "replaced", "by", "ndcg@20", "against", "intact"]
    assert lines[2].split() == ["intact", f"{expected.intact['ndcg@20']:.4f}"]
    for line, one in zip(lines[3:], expected.losses, strict=True):
        low, high = one.interval or (0.0, 0.0)
        share = f"{one.relative:+.1%} [{low:+.1%}, {high:+.1%}]{'*' if one.significant else ''}"
        assert line.split() == [one.modality, one.kind, f"{one.mean:.4f}", *share.split()]
    assert execute(["analyze", "importance", folder, "--metric", "ndcg@20", "--seed", "3", "--format", "markdown"]) == 0
    assert (
        "| content | replaced by | ndcg@20 | against intact |\n| --- | --- | ---: | ---: |" in capsys.readouterr().out
    )
    assert execute(["analyze", "importance", folder, "--metric", "ndcg@7"]) == 1
    assert "error: 'ndcg@7' is not measured" in capsys.readouterr().err
