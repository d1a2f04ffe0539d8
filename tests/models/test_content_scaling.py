"""Content as it is given or standardised: one choice of every model that takes it as it is."""

from pathlib import Path

import numpy as np
import pytest
import torch

import gtcrec
from gtcrec import data, models
from gtcrec.data import write_catalog
from gtcrec.ops.feature_transforms import standardize_features
from gtcrec.types import Batch, Interactions, ItemFeatures, TrainableModel

MODELS = [name for name in models.list_models() if "content_scaling" in models.get_spec(name).config.model_fields]


@pytest.fixture
def train() -> Interactions:
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((30, 20)) < 0.3)
    return Interactions(users, items, 30, 20)


@pytest.fixture
def content() -> ItemFeatures:
    """Columns of different means and spreads, one of them constant; two items lack the text."""
    rng = np.random.default_rng(1)
    present = {"image": np.ones(20, dtype=bool), "text": np.arange(20) >= 2}
    values = {m: (rng.normal(size=(20, 6)) * np.arange(6) + 5).astype(np.float32) for m in present}
    return ItemFeatures(20, {m: np.where(present[m][:, None], x, np.float32(0)) for m, x in values.items()}, present)


def by_hand(content: ItemFeatures) -> ItemFeatures:
    values = {}
    for m, x in content.values.items():
        has = content.present[m]
        spread = x[has].std(axis=0)
        y = (x - x[has].mean(axis=0)) / np.where(spread > 1e-6, spread, np.inf)
        values[m] = np.where(has[:, None], y, 0).astype(np.float32)
    return ItemFeatures(content.n_items, values, content.present)


def test_standardized_content_has_mean_0_and_variance_1_over_the_items_that_have_it(content: ItemFeatures) -> None:
    before = {m: x.copy() for m, x in content.values.items()}
    found, expected = standardize_features(content), by_hand(content)
    for m in content.names:
        np.testing.assert_allclose(found.values[m], expected.values[m], atol=1e-5)
        assert not found.values[m][:, 0].any()  # the constant column
        np.testing.assert_array_equal(content.values[m], before[m])
    assert not found.values["text"][:2].any()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_scores_by_the_content_that_its_setting_asks_for(
    name: str, train: Interactions, content: ItemFeatures
) -> None:
    """Scores, and the loss, as BM3 has content in nothing else."""

    def outputs(scaling: str, features: ItemFeatures) -> torch.Tensor:
        few = {"num_item_neighbors": 4} if name == "mmgf" else {}
        config = models.make_config(name, {**models.get_spec(name).small, **few, "content_scaling": scaling})
        model = models.build_model(name, train, features, config, 0)
        scores = model.scorer()(torch.arange(30)).flatten()
        if not isinstance(model, TrainableModel):
            return scores
        users, items = torch.from_numpy(train.users)[::5], torch.from_numpy(train.items)[::5]
        model.refresh()
        terms = model.loss(Batch(users, items, (items + 1) % 20), torch.Generator().manual_seed(0))
        return torch.cat([scores, torch.stack([*terms.values()]).detach()])

    standardized = outputs("standardized", content)
    torch.testing.assert_close(standardized, outputs("raw", by_hand(content)), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(standardized, outputs("raw", content), rtol=1e-3, atol=1e-4)


def test_all_models_with_content_have_the_choice_but_those_whose_method_standardises_it() -> None:
    with_content = {name for name in models.list_models() if models.get_spec(name).uses_content}
    assert with_content - set(MODELS) == {"gtc", "l3ae"}


@pytest.mark.parametrize(("name", "scaling"), [("vbpr", "raw"), ("contentknn", "standardized")])
def test_content_stays_as_it_was_unless_asked_for(name: str, scaling: str) -> None:
    assert models.make_config(name, {}).content_scaling == scaling


def test_a_saved_model_standardises_as_the_fitted_one(tmp_path: Path) -> None:
    shop = write_catalog(tmp_path / "shop", n_users=60, n_items=40)
    split = data.split(data.load(shop))
    fitted = gtcrec.Recommender("vbpr", content_scaling="standardized", embedding_dim=8).fit(split, epochs=2)
    users = list(data.load(shop).users.ids[:5])
    before = fitted.recommend(users, k=5)
    fitted.save(tmp_path / "model")
    assert gtcrec.Recommender.load(tmp_path / "model").recommend(users, k=5).equals(before)
