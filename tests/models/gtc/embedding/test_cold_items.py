"""What content says of the embeddings of items without interactions: kernel ridge regression, and GTC with it."""

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.errors import DataError
from gtcrec.models.gtc.embedding import cold_items as gtc_cold
from gtcrec.models.gtc.embedding.cold_items import ColdItemRegressor
from gtcrec.training.trainer import TrainConfig, fit
from gtcrec.types import ItemFeatures

COLD = [3, 4, 11]
SETTINGS = {"embedding_dim": 8, "hidden_dim": 16, "num_prototypes": 2, "init": "als", "id_dropout": 0.5}


def kernel(features, known, rows, columns):
    """The mean over modalities of exp(-3 (1 - cosine)), item by item."""
    total = np.zeros((len(rows), len(columns)))
    for m in features.names:
        x, has = features.values[m].astype(np.float64), features.present[m]
        x = x - x[known & has].mean(axis=0)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        near = np.exp(-3 * (1 - x[rows] @ x[columns].T))
        total += near * has[rows][:, None] * has[columns]
    return total / len(features.names)


@pytest.fixture
def case(checkerboard):
    features = checkerboard({"image": 6, "text": 5}, 0.3).features
    known = ~np.isin(np.arange(40), COLD)
    embeddings = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    return features, known, embeddings


def test_the_map_is_kernel_ridge_regression(case):
    features, known, embeddings = case
    found = ColdItemRegressor(features, known, 4)
    found.solve(embeddings)
    some = np.flatnonzero(known & np.any([features.present[m] for m in features.names], axis=0))
    k = kernel(features, known, some, some) + 0.3 * np.eye(len(some))
    a = np.linalg.solve(k, embeddings.double().numpy()[some])
    wanted = kernel(features, known, np.arange(40), some) @ a
    torch.testing.assert_close(found.of_items, torch.from_numpy(wanted).float(), atol=1e-4, rtol=1e-4)
    nothing = ~np.any([features.present[m] for m in features.names], axis=0)
    assert nothing.any()
    assert not found.of_items[torch.from_numpy(nothing)].any()


def test_of_many_items_a_drawn_part_carries_the_map(case, monkeypatch):
    features, known, embeddings = case
    monkeypatch.setattr(gtc_cold, "_LANDMARKS", 9)
    monkeypatch.setattr(gtc_cold, "_BLOCK", 7)
    found = ColdItemRegressor(features, known, 4)
    found.solve(embeddings)
    assert found.weights.shape == (9, 4)
    some = np.flatnonzero(known & np.any([features.present[m] for m in features.names], axis=0))
    places = np.sort(np.random.default_rng(0).choice(some, 9, replace=False))
    rows, own = kernel(features, known, some, places), kernel(features, known, places, places)
    a = np.linalg.solve(rows.T @ rows + 0.3 * own, rows.T @ embeddings.double().numpy()[some])
    wanted = kernel(features, known, np.arange(40), places) @ a
    torch.testing.assert_close(found.of_items, torch.from_numpy(wanted).float(), atol=1e-4, rtol=1e-4)


def test_content_of_another_width_is_refused(case):
    features, known, _ = case
    other = ItemFeatures(
        2, {m: np.ones((2, 3), np.float32) for m in features.names}, {m: np.ones(2, bool) for m in features.names}
    )
    with pytest.raises(DataError, match="image: expected content of width 6, found 3"):
        ColdItemRegressor(features, known, 4)(other)


def colours(split):
    """Content that tells an item's colour, with a little of its own."""
    own = np.random.default_rng(1).normal(size=(40, 4)) * 0.3
    sign = np.where(np.arange(40) % 2, 1, -1)[:, None]
    return ItemFeatures(40, {"image": (own + sign).astype(np.float32)}, {"image": np.ones(40, bool)})


def cold_model(split, init_weights=True, **settings):
    features = colours(split)
    train = split.train.where(~np.isin(split.train.items, COLD))
    config = models.make_config("gtc", SETTINGS | settings, "embedding")
    return models.build_model("gtc", train, features, config, 0, init_weights=init_weights), features


def test_new_items_are_liked_by_those_who_like_their_content(checkerboard):
    model, _ = cold_model(checkerboard())
    users, items = model.vectors()
    scores = (users @ items.T)[:, COLD]
    liked = (np.arange(40)[:, None] + np.array(COLD)) % 2 == 0
    assert scores[liked].min() > scores[~liked].max()
    stronger, _ = cold_model(checkerboard(), new_item_weight=3)
    identity, more = (one.content_map.of_items[COLD] for one in (model, stronger))
    torch.testing.assert_close(3 * identity, more)


def test_an_added_item_is_what_it_would_have_been_in_the_catalogue(checkerboard):
    split = checkerboard()
    model, features = cold_model(split, num_item_neighbors=0)
    fit(model, split, TrainConfig(epochs=2, batch_size=64, valid_metric="recall@10"))
    some = ItemFeatures(3, {"image": features.values["image"][COLD]}, {"image": np.ones(3, bool)})
    torch.testing.assert_close(model.add_items(some), model.vectors()[1][COLD])


def test_saved_weights_bring_the_map_with_them(checkerboard):
    model, _ = cold_model(checkerboard())
    other, _ = cold_model(checkerboard(), init_weights=False)
    assert not other.content_map.of_items.any()
    other.load_state_dict(model.state_dict())
    for found, wanted in zip(other.vectors(), model.vectors(), strict=True):
        torch.testing.assert_close(found, wanted)
