"""The smallest data: one training pair a user, so that matrices of what goes together are empty."""

from pathlib import Path

import numpy as np
import pytest

import gtcrec
from gtcrec import models
from gtcrec.types import Interactions, ItemFeatures

N = 7


@pytest.mark.parametrize("name", models.list_models())
def test_a_model_of_one_pair_a_user_is_fitted_saved_and_read(name: str, tmp_path: Path) -> None:
    spec = models.get_spec(name)
    x = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
    features = ItemFeatures(N, {"text": x}, {"text": np.ones(N, dtype=np.bool_)})
    pairs = Interactions(np.arange(N), np.arange(N), N, N)
    model = gtcrec.Recommender(name, **spec.small)
    limit = {} if name in ("popular", "ease") else {"epochs": 1}
    model.fit(pairs, item_features=features, **limit)
    read = gtcrec.Recommender.load(model.save(tmp_path / "model"))
    scores = read.score(range(N), range(N))
    assert scores.shape == (N, N)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores, model.score(range(N), range(N)), rtol=1e-5, atol=1e-6)
    lists = read.recommend(["3"], k=N)
    assert "3" not in lists["item_id"].to_pylist()
    if name in ("itemknn", "userknn", "rp3beta"):  # nothing goes together: all scores 0, listed by item
        assert lists["item_id"].to_pylist() == [str(item) for item in range(N) if item != 3]
