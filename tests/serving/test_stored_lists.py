"""Lists from stored vectors: as the model's own, without the model, torch or pandas."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import gtcrec
from gtcrec.errors import ConfigError, DataError, RunError
from gtcrec.experiments.model_bundle import ModelBundle
from gtcrec.ops import topk
from gtcrec.runtime.files import MANIFEST, write_manifest
from gtcrec.serving.list_request import ListRequest
from gtcrec.serving.stored_lists import StoredLists, best_items
from gtcrec.serving.trained_model import TrainedModel

FAST = {"epochs": 2, "batch_size": 64, "learning_rate": 0.02}
VECTORS = ("user_vectors.npy", "item_vectors.npy")


@pytest.fixture(scope="module")
def catalog():
    return gtcrec.data.make_catalog(n_users=60, n_items=40, seed=0).dataset


@pytest.fixture(scope="module")
def saved(catalog, tmp_path_factory):
    """A folder of a saved model, by the model's name."""
    folders = {}

    def save(name: str, data=catalog) -> Path:
        if (name, data) not in folders:
            preset = "embedding" if name == "gtc" else "default"  # whose score is an inner product
            model = gtcrec.Recommender(name, preset=preset, embedding_dim=8, seed=1).fit(data, **FAST)
            folders[name, data] = model.save(tmp_path_factory.mktemp("saved") / name)
        return folders[name, data]

    return save


def without_vectors(folder: Path) -> None:
    """Make of a folder what version 0.2.0 would have written."""
    for name in VECTORS:
        (folder / name).unlink()
    write_manifest(folder, [path.name for path in folder.iterdir() if path.name != MANIFEST])


@pytest.mark.parametrize("name", ["gtc", "bpr", "lightgcn"])
def test_lists_are_those_of_the_model(saved, name):
    folder = saved(name)
    stored, model = StoredLists.open(folder), TrainedModel.load(folder)
    ids = model.bundle.users.ids.tolist()
    found, expected = stored.recommend(ids, ListRequest(7)), model.recommend(np.arange(len(ids)), ListRequest(7))
    assert found.schema == expected.schema
    assert found.num_rows == 7 * 60
    for column in ("user_id", "item_id", "rank"):
        assert found[column].to_pylist() == expected[column].to_pylist()
    assert found["score"].to_pylist() == pytest.approx(expected["score"].to_pylist(), rel=1e-5, abs=1e-6)
    items = found["item_id"].to_pylist()
    assert stored.titles_of(items) == model.titles_of(items)
    assert any(stored.titles_of(items))


@pytest.mark.parametrize("name", ["gtc", "lightgcn", "freedom"])
def test_stored_vectors_are_those_that_the_weights_make(saved, name):
    model = TrainedModel.load(saved(name))
    users = torch.arange(60)
    assert model.scorer(users).numpy() == pytest.approx(model.module.scorer()(users).numpy(), rel=1e-4, abs=1e-6)


def test_a_model_of_other_scores_keeps_no_vectors(catalog, tmp_path):
    folder = gtcrec.Recommender("ease").fit(catalog).save(tmp_path / "ease")
    assert StoredLists.open(folder) is None
    assert not [name for name in VECTORS if (folder / name).exists()]


def test_a_bundle_without_vectors_answers_alike(catalog, tmp_path):
    model = gtcrec.Recommender("lightgcn", embedding_dim=8).fit(catalog, **FAST)
    folder = model.save(tmp_path / "m")
    without_vectors(folder)
    assert StoredLists.open(folder) is None
    assert gtcrec.Recommender.load(folder).recommend(k=5).equals(model.recommend(k=5))


def test_lists_of_known_users_need_no_model(saved, monkeypatch):
    again = gtcrec.Recommender.load(saved("gtc"))
    expected = TrainedModel.load(saved("gtc")).module.scorer()(torch.tensor([3]))[:, [5]]

    def refuse(bundle):
        raise AssertionError("the model was built")

    with monkeypatch.context() as patched:
        patched.setattr(ModelBundle, "build", refuse)
        assert again.recommend("u0003", k=3).num_rows == 3
        assert again.similar_items("p0003", k=3).num_rows == 3
        assert again.score("u0003", "p0005") == pytest.approx(expected.numpy(), rel=1e-4)
        with pytest.raises(AssertionError, match="the model was built"):
            again.recommend(history=["p0003"])
    assert again.recommend(history=["p0003"]).num_rows == 10


def test_weights_exchanged_after_opening_are_refused(catalog, tmp_path):
    folder = gtcrec.Recommender("lightgcn", embedding_dim=8).fit(catalog, **FAST).save(tmp_path / "m")
    again = gtcrec.Recommender.load(folder)
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(RunError, match=r"model\.safetensors: no longer the weights that were opened"):
        again.recommend(history=["p0003"])


def test_damaged_vectors_are_named(catalog, tmp_path):
    folder = gtcrec.Recommender("bpr", embedding_dim=8).fit(catalog, **FAST).save(tmp_path / "m")
    path = folder / "item_vectors.npy"
    path.write_bytes(path.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(RunError, match=r"item_vectors\.npy: damaged or edited"):
        StoredLists.open(folder)


def test_new_items_are_listed_with_their_titles(catalog, tmp_path):
    model = gtcrec.GTC(embedding_dim=8, seed=1, preset="embedding").fit(catalog, **FAST)
    content = {m: catalog.features.values[m][[4]] for m in catalog.features.names}
    folder = model.add_items("new-mug", content).save(tmp_path / "m")
    found = StoredLists.open(folder).recommend(["u0001"], ListRequest(41))
    expected = model.recommend("u0001", k=41)
    assert found["item_id"].to_pylist() == expected["item_id"].to_pylist()
    assert "new-mug" in found["item_id"].to_pylist()


def test_ids_of_numbers_are_compared_by_their_text(saved):
    pairs = gtcrec.Interactions(np.arange(30) % 12, np.arange(30) % 7, 12, 7)
    stored = StoredLists.open(saved("bpr", pairs))
    assert stored.recommend(["10", "2"], ListRequest(1))["user_id"].to_pylist() == [10, 2]
    for wrong in ("07", "12", "1.0", "x", "99999999999999999999"):
        with pytest.raises(DataError, match=rf"user '{wrong}' is not in the data, which has 12 users"):
            stored.recommend(["3", wrong], ListRequest(1))


@given(
    arrays(np.float32, st.integers(1, 30), elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])),
    st.integers(1, 40),
)
def test_best_items_are_those_of_topk(scores, k):
    items, values = best_items(scores, k)
    expected = topk.recommend(lambda users: torch.from_numpy(scores.copy())[None], np.array([0]), k)
    filled = expected.items[0] >= 0
    assert items.tolist() == expected.items[0][filled].tolist()
    assert values.tolist() == expected.scores[0][filled].tolist()


def test_a_list_has_at_least_one_place():
    with pytest.raises(ConfigError, match="k must be at least 1, found 0"):
        best_items(np.zeros(3, dtype=np.float32), 0)


def test_the_command_filters_without_torch(saved):
    done = run_command(
        saved("gtc"), "('torch', 'scipy')", "--where", "price < 20 and kind = 'mug'", "--diversity", "0.3"
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert len(json.loads(done.stdout)) > 0


def test_the_command_imports_neither_torch_nor_pandas_nor_scipy(saved):
    done = run_command(saved("gtc"), "('torch', 'pandas', 'scipy')")
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert len(json.loads(done.stdout)) == 10


def run_command(folder, modules, *options):
    """Recommend for u0003 in a process of its own, which prints those of some modules that it imported."""
    script = (
        "import sys; from gtcrec.cli.main import execute; code = execute(sys.argv[1:]); "
        f"print([name for name in {modules} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    line = [sys.executable, "-c", script, "recommend", str(folder), "--user", "u0003", "--format", "json", *options]
    return subprocess.run(line, capture_output=True, text=True, timeout=100)
