"""Items and users whom the training did not have: their rows of the graphs, and what GTC makes of them."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from gtcrec import models
from gtcrec.data import write_catalog
from gtcrec.errors import ConfigError, DataError, RunError
from gtcrec.experiments.run import train as train_run
from gtcrec.ops import graph
from gtcrec.ops.fold_in import fold_in_users, history_matrix, new_item_rows, new_user_rows
from gtcrec.serving.list_request import ListRequest
from gtcrec.serving.trained_model import TrainedModel
from gtcrec.training.trainer import TrainConfig, fit
from gtcrec.types import ItemFeatures

SMALL = {"embedding_dim": 8, "hidden_dim": 16, "num_prototypes": 2}


def gtc(split, **settings):
    return models.build_model(
        "gtc", split.train, split.features, models.make_config("gtc", SMALL | settings, "embedding"), 0
    )


def some_content(n, widths, seed=3):
    rng = np.random.default_rng(seed)
    values = {m: rng.normal(size=(n, d)).astype(np.float32) for m, d in widths.items()}
    return ItemFeatures(n, values, {m: np.ones(n, dtype=bool) for m in widths})


def test_lists_become_a_binary_matrix():
    found = history_matrix([np.array([2, 0, 2]), np.array([], dtype=np.int64), np.array([1])], 3)
    assert found.toarray().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_a_liked_item_out_of_range_is_refused_with_its_list():
    with pytest.raises(DataError, match=r"history items must lie in \[0, 3\), found 3 in history 1"):
        history_matrix([np.array([0]), np.array([1, 3])], 3)


def test_the_rows_of_a_user_like_those_of_the_graph(checkerboard):
    train = checkerboard().train
    assert (train.item_counts > 0).all()
    rows = new_user_rows(train.matrix(), train.item_counts)
    np.testing.assert_allclose(rows.toarray(), graph.bipartite(train).toarray(), rtol=1e-6)


def test_an_item_without_training_pairs_has_no_weight_and_does_not_count_in_the_degree():
    liked = history_matrix([np.array([0, 1, 2])], 3)
    rows = new_user_rows(liked, np.array([4, 0, 1])).toarray()
    np.testing.assert_allclose(rows, [[1 / np.sqrt(2 * 4), 0, 1 / np.sqrt(2 * 1)]], rtol=1e-6)


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_a_new_user_has_what_reaches_them_over_the_dense_graph(layers, checkerboard):
    train = checkerboard().train
    rng = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, 3, generator=rng) for n in (train.n_users, train.n_items))
    r = torch.from_numpy(graph.bipartite(train).toarray())
    rows = new_user_rows(history_matrix([np.array([0, 5]), np.array([7])], train.n_items), train.item_counts)
    u, i, wanted = users, items, torch.zeros(2, 3)
    for _ in range(layers):
        wanted = wanted + torch.from_numpy(rows.toarray()) @ i
        u, i = r @ i, r.T @ u
    found = fold_in_users(rows, graph.SparseMatrix(graph.bipartite(train)), users, items, layers)
    torch.testing.assert_close(found, wanted / (layers + 1), atol=1e-6, rtol=1e-5)


def test_a_new_item_is_near_the_known_items_of_like_content_in_the_modalities_that_it_has():
    known = some_content(6, {"a": 4, "b": 3})
    known.present["b"][5] = False
    values = {m: known.values[m][[2, 5]] for m in known.names}
    new = ItemFeatures(2, values, {"a": np.array([True, True]), "b": np.array([True, False])})
    assert new_item_rows(new, known, 1).toarray().tolist() == [[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]]
    two = new_item_rows(new, known, 2).toarray()
    np.testing.assert_allclose(two.sum(axis=1), 1, rtol=1e-6)
    cosine = {m: _unit(values[m]) @ _unit(known.values[m]).T for m in known.names}
    cosine["b"][:, 5] = -np.inf
    wanted = np.zeros((2, 6))
    for m, rows in (("a", (0, 1)), ("b", (0,))):
        for row in rows:
            wanted[row, np.argsort(-cosine[m][row])[:2]] += 0.5
    wanted[0] /= 2
    np.testing.assert_allclose(two, wanted, rtol=1e-6)


def _unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def without_items(split, cold):
    """The split with no training pair of some items."""
    return split.train.where(~np.isin(split.train.items, cold))


@pytest.mark.parametrize("start", ["als", "random"])
def test_an_added_item_scores_as_one_that_was_there_but_never_liked(start, checkerboard):
    # With one neighbour per item, the cold items' content copies that of others, so adding them changes no graph.
    split = checkerboard()
    model = gtc(split, id_dropout=0.3, init=start)
    fit(model, split, TrainConfig(epochs=3, batch_size=64, valid_metric="recall@10"))
    items = model.vectors()[1]
    added = model.add_items(split.features)
    assert added.shape == items.shape
    torch.testing.assert_close(added[:, 8:], items[:, 8:])  # content: the same columns
    with torch.no_grad():
        rows = new_item_rows(split.features, split.features, 10).toarray()
        near = model.config.item_graph_weight * (torch.from_numpy(rows) @ model.views.items)
        wanted = near + stand_ins(model)
        torch.testing.assert_close(added[:, :8], wanted, atol=1e-6, rtol=1e-5)


def stand_ins(model):
    """What content says of every item's identity, [n_items, dim]."""
    if model.config.init == "als":
        return model.content_map.of_items
    parts = [model.content[m].y @ model.stand_ins[key].weight.T for m, key in model.keys.items()]
    return torch.stack(parts).sum(dim=0).detach()


@pytest.mark.parametrize("start", ["als", "random"])
def test_with_identity_dropout_an_item_without_training_pairs_is_what_its_neighbours_and_content_say(
    start, checkerboard
):
    split = checkerboard()
    train = without_items(split, [3, 4])
    config = models.make_config("gtc", SMALL | {"id_dropout": 0.5, "init": start}, "embedding")
    model = models.build_model("gtc", train, split.features, config, 0)
    identity = model.vectors()[1][:, :8]
    with torch.no_grad():
        given = model.views.item_graph(model.views.items) + stand_ins(model)
    torch.testing.assert_close(identity[[3, 4]], given[[3, 4]])
    assert not torch.allclose(identity[[5, 6]], given[[5, 6]])


def test_identity_dropout_takes_the_identity_of_its_share_of_a_steps_items(checkerboard):
    split = checkerboard()
    model = gtc(split, id_dropout=0.5)
    items = torch.arange(40)
    near = model.views.item_graph(model.views.items).detach()
    gone = []
    for seed in range(50):
        sides = model.views.encode_step(torch.arange(2), items, torch.Generator().manual_seed(seed))
        gone.append((sides.items.detach() - near).abs().amax(dim=1) < 1e-7)
        assert torch.equal(sides.conditions.abs().sum(dim=1) == 0, gone[-1])
    assert 0.45 < torch.stack(gone).float().mean() < 0.55


def test_fold_in_gives_a_training_user_the_content_scores_that_they_have(checkerboard):
    split = checkerboard({"image": 6, "text": 5}, 0.3)
    model = gtc(split)
    fit(model, split, TrainConfig(epochs=3, batch_size=64, valid_metric="recall@10"))
    with torch.no_grad():
        model.weights.copy_(model.weights.mean(dim=0, keepdim=True).expand_as(model.weights))
    users = model.vectors()[0]
    folded = model.new_users(split.train.matrix())
    torch.testing.assert_close(folded[:, 8:], users[:, 8:], atol=1e-5, rtol=1e-4)


def test_fold_in_recommends_the_colour_of_what_is_liked(checkerboard):
    split = checkerboard()
    model = gtc(split)
    fit(model, split, TrainConfig(epochs=60, batch_size=64, learning_rate=0.02, valid_metric="recall@10"))
    scores = model.fold_in(history_matrix([np.array([0, 2, 8]), np.array([1, 5])], 40))
    even, odd = scores[:, ::2].mean(dim=1), scores[:, 1::2].mean(dim=1)
    assert even[0] > odd[0]
    assert odd[1] > even[1]


@pytest.mark.parametrize("name", ["popular", "itemknn", "rp3beta", "ease", "contentknn", "mmgf"])
def test_fold_in_of_a_training_users_items_gives_that_users_scores(name, checkerboard):
    split = checkerboard()
    model = models.build_model(name, split.train, split.features, models.make_config(name, {}), 0)
    found = model.fold_in(split.train.matrix())
    torch.testing.assert_close(found, model.scorer()(torch.arange(40)), atol=1e-5, rtol=1e-4)


def test_new_items_without_the_models_modalities_are_refused(checkerboard):
    with pytest.raises(DataError, match=r"new items need the modalities \['image', 'text'\], found \['text'\]"):
        gtc(checkerboard()).add_items(some_content(3, {"text": 5}))


@pytest.mark.parametrize(("settings", "found"), [({"condition": "item_id"}, "condition=item_id")])
def test_adding_items_and_folding_in_need_the_filter_by_liked_contents(settings, found, checkerboard):
    model = gtc(checkerboard(), **settings)
    with pytest.raises(
        ConfigError,
        match=f"needs a gtc with content, condition=user_history and attention_refinement=False, found {found}",
    ):
        model.add_items(checkerboard().features)
    with pytest.raises(ConfigError, match=f"fold_in needs a gtc with condition=user_history, found {found}"):
        model.fold_in(csr_array((1, 40), dtype=np.float32))


def test_items_are_not_added_to_a_gtc_that_refines_their_identity(checkerboard):
    with pytest.raises(ConfigError, match="found condition=user_history, attention_refinement=True"):
        gtc(checkerboard(), attention_refinement=True).add_items(checkerboard().features)


def test_a_gtc_without_content_has_nothing_to_add_items_by(checkerboard):
    with pytest.raises(ConfigError, match="attention_refinement=False, found no content"):
        gtc(checkerboard({})).add_items(ItemFeatures(2))


def test_a_run_ranks_items_by_a_list_of_liked_ones_which_it_leaves_out(tmp_path):
    data = write_catalog(tmp_path / "shop", n_users=60, n_items=40, per_user=6)
    run = train_run(data, "itemknn", tmp_path / "run")
    ids = run.dataset.items.ids.tolist()
    found = TrainedModel.of_run(run).recommend_for_histories([[ids[3], ids[5]], [ids[0]]], ListRequest(4)).to_pylist()
    assert [row["user_id"] for row in found] == ["1"] * 4 + ["2"] * 4
    assert [row["rank"] for row in found] == [1, 2, 3, 4] * 2
    for number, own in ((1, [3, 5]), (2, [0])):
        scores = run.model.fold_in(history_matrix([np.array(own)], 40))[0].numpy()
        scores[own] = -np.inf
        wanted = [ids[item] for item in np.argsort(-scores, kind="stable")[:4]]
        assert [row["item_id"] for row in found if row["user_id"] == str(number)] == wanted


def test_a_model_that_cannot_score_new_users_says_so(tmp_path):
    data = write_catalog(tmp_path / "shop", n_users=60, n_items=40, per_user=6)
    run = train_run(data, "bpr", tmp_path / "run", epochs=1)
    with pytest.raises(RunError, match="bpr cannot score users whom the training did not have"):
        TrainedModel.of_run(run).recommend_for_histories([["x"]], ListRequest(1))
