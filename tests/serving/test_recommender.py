"""The estimator: fit, recommend, score, similar items, new items, saving and loading."""

import io
import json

import numpy as np
import pytest
import torch

import gtcrec
from gtcrec.errors import ConfigError, DataError, RunError
from gtcrec.ops.fold_in import history_matrix
from gtcrec.runtime.files import renew_manifest

FAST = {"epochs": 2, "batch_size": 64, "learning_rate": 0.02}


@pytest.fixture(scope="module")
def catalog():
    return gtcrec.data.make_catalog(n_users=60, n_items=40, seed=0).dataset


@pytest.fixture(scope="module")
def split(catalog):
    return gtcrec.split(catalog, seed=0)


@pytest.fixture(scope="module")
def fitted(split):
    return gtcrec.GTC(embedding_dim=8, seed=1, preset="embedding").fit(split, **FAST)


def rows(table):
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def test_an_id_and_a_list_of_one_give_the_same_table(fitted):
    assert rows(fitted.recommend("u0010", k=3)) == rows(fitted.recommend(["u0010"], k=3))
    assert set(fitted.recommend("u0010", k=3)["user_id"].to_pylist()) == {"u0010"}


def test_ids_of_digits_are_one_id_not_letters(split):
    pairs = gtcrec.Interactions(np.array([0, 1, 10]), np.array([0, 1, 2]), 11, 3)
    table = gtcrec.Recommender("popular").fit(pairs).recommend("10", k=3)
    assert table["user_id"].to_pylist() == ["10", "10"]


def test_lists_are_the_best_unseen_items_by_score(fitted, split):
    (user,) = split.train.user_ids.index(["u0007"])
    scores = fitted.score("u0007", fitted.item_ids)[0]
    scores[split.train.items_of(user)] = -np.inf
    best = np.argsort(-scores, kind="stable")[:5]
    table = fitted.recommend("u0007", k=5)
    assert table["item_id"].to_pylist() == [fitted.item_ids[place] for place in best]
    assert table["score"].to_pylist() == pytest.approx(scores[best].tolist())


def test_seen_items_are_listed_if_asked_for(fitted):
    table = fitted.recommend("u0003", k=40, exclude_seen=False)
    assert sorted(table["item_id"].to_pylist()) == fitted.item_ids


def test_candidates_are_the_only_items_listed(fitted):
    some = fitted.item_ids[5:9]
    found = fitted.recommend("u0003", k=10, exclude_seen=False, items=some)["item_id"].to_pylist()
    assert sorted(found) == some


def test_a_history_gets_a_table_of_the_same_columns_without_its_items(fitted):
    one = fitted.recommend(history=["p0001", "p0002"], k=5)
    two = fitted.recommend(history=[["p0001", "p0002"], ["p0003"]], k=5)
    assert one.column_names == fitted.recommend("u0000").column_names
    assert one["item_id"].to_pylist() == two["item_id"].to_pylist()[:5]
    assert not {"p0001", "p0002"} & set(one["item_id"].to_pylist())
    assert set(two["user_id"].to_pylist()) == {"1", "2"}


@pytest.mark.parametrize("rerank", [0, 5])
def test_scores_of_histories_are_those_of_fold_in_with_the_vectors_of_items_kept(split, monkeypatch, rerank):
    trains_it = {"filter": "trained", "pair_diffusion_weight": 0.1}
    model = gtcrec.GTC(embedding_dim=8, seed=1, preset="embedding", rerank_top_n=rerank, **trains_it).fit(split, **FAST)
    trained = model._fitted()
    histories = [["p0001", "p0002"], ["p0003"]]
    expected = trained.module.fold_in(history_matrix([np.array([1, 2]), np.array([3])], 40))
    assert model.recommend("u0003", k=3).num_rows == 3  # which makes the vectors
    monkeypatch.setattr(type(trained.module), "vectors", None)
    scores, seen = trained.score_histories(histories)
    assert scores.numpy() == pytest.approx(expected.numpy(), rel=1e-6)
    assert seen.items.tolist() == [1, 2, 3]


def test_a_model_without_new_users_refuses_a_history(split):
    with pytest.raises(RunError, match="bpr cannot score users whom the training did not have"):
        gtcrec.Recommender("bpr", embedding_dim=4).fit(split, **FAST).recommend(history=["p0001"])


def test_similar_items_are_nearest_by_cosine_and_not_the_item_itself(fitted):
    vectors = fitted.item_vectors / np.linalg.norm(fitted.item_vectors, axis=1, keepdims=True)
    near = vectors @ vectors[3]
    near[3] = -np.inf
    table = fitted.similar_items("p0003", k=4)
    assert table["similar_item_id"].to_pylist() == [fitted.item_ids[place] for place in np.argsort(-near)[:4]]
    assert set(table["item_id"].to_pylist()) == {"p0003"}


def test_vectors_multiply_to_the_scores(fitted):
    scores = fitted.score(fitted.user_ids[:4], fitted.item_ids)
    assert fitted.user_vectors[:4] @ fitted.item_vectors.T == pytest.approx(scores, rel=1e-4, abs=1e-5)


def test_a_second_fit_starts_anew(split):
    model = gtcrec.Recommender("lightgcn", embedding_dim=8, seed=3)
    first = model.fit(split, **FAST).score("u0001", "p0001")
    assert model.fit(split, **FAST).score("u0001", "p0001") == first


@pytest.mark.parametrize("name", ["gtc", "lightgcn", "itemknn", "ease", "freedom", "diffmm", "ials"])
def test_a_saved_recommender_answers_alike_without_data_or_checkpoint(split, tmp_path, name):
    training = {} if name in ("itemknn", "ease", "ials") else FAST
    model = gtcrec.Recommender(name, seed=2).fit(split, **training)
    folder = model.save(tmp_path / name)
    again = gtcrec.Recommender.load(folder)
    assert again.recommend(k=5).equals(model.recommend(k=5))
    assert again.get_params() == model.get_params()
    assert not (folder / "checkpoint.safetensors").exists()


def test_a_damaged_file_of_a_saved_recommender_is_named(fitted, tmp_path):
    folder = fitted.save(tmp_path / "m")
    (folder / "seen.npz").write_bytes(b"\0" + (folder / "seen.npz").read_bytes()[1:])
    with pytest.raises(RunError, match=r"seen\.npz: damaged or edited"):
        gtcrec.Recommender.load(folder)


def _forge(folder, name, content):
    """Write a file of a saved model anew, with its sum in the manifest."""
    (folder / name).write_bytes(content)
    renew_manifest(folder, [name])


def _npz(compressed=False, **arrays):
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        ({"config": 1.5}, "expected config of type dict, found 1.5"),
        ({"model": []}, r"expected model of type str, found \[\]"),
        ({"n_users": 1e308}, r"expected n_users of type int, found 1e\+308"),
        ({"n_items": 2**40}, "items, as there are ids, found others"),
        ({"config": {"model": "gtc"}}, "config: 'model' is no setting of a model"),
    ],
)
def test_forged_facts_of_a_saved_recommender_are_refused_in_words(fitted, tmp_path, fact, message):
    folder = fitted.save(tmp_path / "m")
    facts = json.loads((folder / "model.json").read_bytes())
    _forge(folder, "model.json", json.dumps(facts | fact).encode())
    with pytest.raises(RunError, match=rf"m: cannot be read as a saved model: .*{message}"):
        gtcrec.Recommender.load(folder)


def test_forged_arrays_of_a_saved_recommender_are_refused_in_words(fitted, tmp_path):
    n = len(fitted.user_ids)
    rows, ends = np.zeros(3, np.int32), np.full(n, 3)
    forged = {
        "seen.npz": [
            b"PK\x05\x06 no zip",
            _npz(indptr=np.zeros(2, np.int64), items=rows),
            _npz(indptr=np.array([0, 2**60, *ends[1:]]), items=rows),
            _npz(indptr=np.array([0, 4, *ends[1:]]), items=rows),
            _npz(compressed=True, indptr=np.array([0, *ends]), items=np.zeros(1 << 20, np.int32)),
        ],
        "user_vectors.npy": [b"\x93NUMPY\x01\x00v\x00{'descr': (/,v", _npz(a=rows)],
        "item_vectors.npy": [b"\x93NUMPY\x01\x00\x10\x00{'shape': [[[[    "],
    }
    for name, contents in forged.items():
        for place, content in enumerate(contents):
            folder = fitted.save(tmp_path / f"{name}-{place}")
            _forge(folder, name, content)
            with pytest.raises(RunError, match="cannot be read as a saved model: "):
                gtcrec.Recommender.load(folder)


def test_saving_refuses_a_folder_in_use(fitted, tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(RunError, match="expected a new or empty folder"):
        fitted.save(tmp_path)


def test_new_items_are_scored_by_their_content_and_survive_saving(split, tmp_path):
    model = gtcrec.GTC(embedding_dim=8, seed=1, preset="embedding").fit(split, **FAST)
    before = model.score(model.user_ids, model.item_ids)
    twin = {m: split.features.values[m][[4]] for m in split.features.names}
    model.add_items("new-mug", twin)
    assert model.item_ids[-1] == "new-mug"
    assert model.score(model.user_ids, model.item_ids)[:, :-1] == pytest.approx(before)
    again = gtcrec.Recommender.load(model.save(tmp_path / "m"))
    assert again.score("u0001", "new-mug") == model.score("u0001", "new-mug")
    assert "new-mug" in again.recommend("u0001", k=41)["item_id"].to_pylist()
    assert "new-mug" not in again.recommend(history=["new-mug", "p0001"], k=41)["item_id"].to_pylist()


@pytest.mark.parametrize("settings", [{}, {"candidates": "local", "num_candidates": 8}])
def test_a_linear_model_scores_new_items_too(split, tmp_path, settings):
    model = gtcrec.Recommender("l3ae", content_weight=2.0, **settings).fit(split)
    before = model.score(model.user_ids, model.item_ids)
    model.add_items("new-mug", {m: split.features.values[m][[4]] for m in split.features.names})
    scores = model.score(model.user_ids, model.item_ids)
    assert scores[:, :-1] == pytest.approx(before)
    fans = np.isin(np.arange(len(scores)), split.train.users[split.train.items == 4])
    assert scores[fans, -1].min() > scores[~fans, -1].mean()  # those who have its twin
    again = gtcrec.Recommender.load(model.save(tmp_path / "m"))
    assert again.score("u0001", "new-mug") == pytest.approx(model.score("u0001", "new-mug"))
    lists = again.recommend(history=["new-mug", "p0001"], k=41)["item_id"].to_pylist()
    assert "new-mug" not in lists
    assert len(lists) == 39


def test_new_items_must_be_new_and_complete(fitted, split):
    content = {m: split.features.values[m][[4]] for m in split.features.names}
    with pytest.raises(DataError, match="item 'p0001' is known already"):
        fitted.add_items("p0001", content)
    with pytest.raises(DataError, match="expected content of image, text, found image"):
        fitted.add_items("new", {"image": content["image"]})
    with pytest.raises(DataError, match=r"text: expected finite numbers \[1, "):
        fitted.add_items("new", {**content, "text": np.ones((1, 3))})


def test_unknown_ids_and_settings_are_refused_by_name(fitted):
    with pytest.raises(DataError, match="user 'nobody' is not in the data"):
        fitted.recommend("nobody")
    with pytest.raises(ConfigError, match=r"embeding_dim.*did you mean 'embedding_dim'\?"):
        gtcrec.GTC(embeding_dim=8)
    with pytest.raises(RunError, match="is not fitted: call fit first"):
        gtcrec.GTC().recommend("u0001")
    with pytest.raises(ConfigError, match="users or history"):
        fitted.recommend("u0001", history=["p0001"])


def test_fit_without_validation_needs_epochs_and_keeps_the_last_weights(catalog):
    with pytest.raises(ConfigError, match="needs epochs=N"):
        gtcrec.Recommender("bpr").fit(catalog)
    model = gtcrec.Recommender("bpr", embedding_dim=8).fit(catalog, epochs=3)
    assert [epoch.number for epoch in model.history] == [1, 2, 3]
    assert model.history[-1].stop == "all 3 epochs done"


def test_callbacks_see_every_epoch_and_the_global_random_state_is_left_alone(split):
    seen = []
    torch.manual_seed(5)
    before = torch.get_rng_state()
    gtcrec.Recommender("bpr", embedding_dim=8).fit(split, callbacks=[lambda epoch: seen.append(epoch.number)], **FAST)
    assert seen == [1, 2]
    assert torch.equal(torch.get_rng_state(), before)


def test_params_make_an_equal_recommender():
    model = gtcrec.GTC(embedding_dim=np.int64(16), num_layers=1, seed=4)
    assert gtcrec.GTC.from_params(model.get_params()).get_params() == model.get_params()
    assert repr(model) == "GTC(seed=4, embedding_dim=16, num_layers=1)"


def test_html_shows_state_and_hyperparameters(fitted):
    page = fitted._repr_html_()
    assert "of 60 users and 40 items" in page
    assert "<td>embedding_dim</td><td>8</td>" in page


def test_data_from_a_table_trains_by_its_ids():
    table = {"user": ["ann", "ann", "bob", "bob"], "item": ["mug", "tea", "mug", "pot"]}
    model = gtcrec.Recommender("itemknn").fit(gtcrec.load_dataset(table))
    assert model.recommend("ann", k=1)["item_id"].to_pylist() == ["pot"]


@pytest.mark.parametrize("ids", [["7", "8", "9"], ["a", "b", "c"], ["07", "8", "9"]])
def test_ids_in_answers_are_text_whatever_they_look_like(ids):
    table = {"user": [one for one in ids for _ in range(2)], "item": [ids[k] for k in (0, 1, 1, 2, 2, 0)]}
    model = gtcrec.Recommender("itemknn").fit(gtcrec.load_dataset(table))
    for found in (model.recommend(ids[0], k=1), model.recommend(history=[ids[0]], k=1), model.similar_items(ids, k=1)):
        assert [str(found[name].type) for name in found.column_names if name.endswith("_id")] == ["string"] * 2
    assert model.user_ids == model.item_ids == ids


@pytest.mark.parametrize(
    ("written", "close"), [("7", "007"), ("ANN", "ann"), ("12.0", "12"), (" bob", "bob"), ("anm", "ann")]
)
def test_an_unknown_id_gets_the_nearest_known_one(written, close):
    ids = gtcrec.types.Vocabulary(np.array(["007", "12", "ann", "bob"]), "user")
    with pytest.raises(gtcrec.errors.DataError) as caught:
        ids.index([written])
    assert str(caught.value).endswith(
        f"user {written!r} is not in the data, which has 4 users (did you mean {close!r}?)"
    )
