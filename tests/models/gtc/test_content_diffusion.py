"""The content diffusion: its score and its loss by hand, and the planted interests that the loss alone finds."""

import numpy as np
import pytest
import torch

from benchmarks.accuracy.ground_truth import mask_auc
from gtcrec import data, models
from gtcrec.data.synthetic.ground_truth import disjoint_interests
from gtcrec.models.gtc import content_diffusion
from gtcrec.models.gtc.content_diffusion import ContentDiffusion
from gtcrec.models.gtc.model import GTC
from gtcrec.testing import random_features
from gtcrec.training.trainer import TrainConfig, fit
from gtcrec.types import Interactions, ItemFeatures

N = 16
ALONE = {"linear_weight": 0.0, "embedding_weight": 0.0, "history_weight": 0.0}


@pytest.fixture
def pairs() -> Interactions:
    users, items = np.nonzero(np.random.default_rng(5).random((30, N)) < 0.3)
    return Interactions(users, items, 31, N)  # the last user has no interaction


@pytest.fixture
def features() -> ItemFeatures:
    return random_features(N, {"image": 5, "text": 4}, missing=0.3)


def build(pairs: Interactions, features: ItemFeatures, **settings: float) -> ContentDiffusion:
    torch.manual_seed(0)
    return ContentDiffusion(models.make_config("gtc", settings), pairs, features)


def score_by_hand(model: ContentDiffusion, user: int, left_out: int | None = None) -> torch.Tensor:
    """The log density ratios of all items' noisy content, item by item, with the weights of the modalities."""
    total = torch.zeros(N)
    for m in model.keys:
        one = model[m]
        hidden = None if left_out is None else torch.tensor([left_out])
        mean, spread, _ = (side[0] for side in one.interest(torch.tensor([user]), hidden))
        level = model.config.filter_level
        a, b = one.schedule.signal[level], one.schedule.noise[level]
        guided = torch.distributions.Normal(a * mean, (a**2 * spread + b**2).sqrt())
        for item in range(N):
            if one.present[item]:
                noisy = a * one.y[item]
                ratio = guided.log_prob(noisy) - torch.distributions.Normal(0.0, 1.0).log_prob(noisy)
                total[item] += one.strength.exp() / one.y.shape[1] ** 0.5 * ratio.sum()
    return total.detach()


def test_the_score_is_the_log_density_ratio_of_each_modality(pairs, features) -> None:
    model = build(pairs, features)
    users, items = model.vectors()
    assert items.shape[1] == sum(width for _, width in model.blocks())
    expected = torch.stack([score_by_hand(model, user) for user in range(31)])
    torch.testing.assert_close((users @ items.T).detach(), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model.new_users(pairs.matrix()), users)
    torch.testing.assert_close(model.add_items(features), items)


def test_the_loss_is_the_cross_entropy_of_an_item_left_out_of_its_history(pairs, features) -> None:
    model = build(pairs, features)
    users, items = (torch.from_numpy(side[:6]) for side in (pairs.users, pairs.items))
    found = model.loss(users, items, torch.Generator())
    terms = []
    for user, item in zip(users.tolist(), items.tolist(), strict=True):
        scores = score_by_hand(model, user, item)
        terms.append(scores.logsumexp(0) - scores[item])
    torch.testing.assert_close(found.detach(), torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)


def test_a_step_of_a_large_catalogue_draws_items(pairs, features, monkeypatch) -> None:
    model = build(pairs, features, history_users=3)
    users, items = torch.from_numpy(pairs.users[:3]), torch.from_numpy(pairs.items[:3])
    whole = model.loss(users, items, torch.Generator()).detach()
    monkeypatch.setattr(content_diffusion, "_MOST_ITEMS", 10)
    rng = torch.Generator().manual_seed(1)
    values = torch.stack([model.loss(users, items, rng).detach() for _ in range(300)])
    assert values.std() > 0
    assert abs(float(values.mean() - whole)) < 4 * float(values.std()) / 300**0.5 + 0.05


def test_content_keeps_the_directions_that_training_saw(pairs, features) -> None:
    model, other = build(pairs, features), build(pairs, features)
    state = model.state_dict()
    for name in ("basis", "spread"):
        key = f"filters.{model.keys['image']}.directions.{name}"
        state[key] = state[key].flip(-1)
    other.load_state_dict(state)
    for name in ("y", "total", "squares"):
        torch.testing.assert_close(getattr(other["image"], name), getattr(model["image"], name).flip(1))
        assert torch.equal(getattr(other["text"], name), getattr(model["text"], name))


@pytest.mark.slow
def test_the_diffusion_loss_finds_which_content_matters_to_whom() -> None:
    plant = disjoint_interests(0)
    split = data.split(plant.dataset)
    chances, values = {}, {}
    for name, weight in (("trained", 0.7), ("untrained", 0.0)):
        settings = {**ALONE, "content_dim": 256, "num_prototypes": 16, "diffusion_weight": weight}
        model = models.build_model(
            "gtc", split.train, split.features, models.make_config("gtc", settings, "default"), 0
        )
        assert isinstance(model, GTC)
        assert model.interest
        training = fit(model, split, TrainConfig(epochs=20, learning_rate=2e-3, valid_metric="ndcg@20"))
        values[name] = training.best.valid["ndcg@20"] if training.best else 0.0
        chances[name] = mask_auc(model, plant)
    assert chances["untrained"] < 0.6
    assert chances["trained"] > 0.9
    assert values["trained"] > 1.1 * values["untrained"]
