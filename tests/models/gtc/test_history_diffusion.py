"""The history diffusion: its answers by hand, what the loss is of, and what it learns."""

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.models.gtc import history_diffusion
from gtcrec.models.gtc.history_diffusion import HistoryDiffusion
from gtcrec.models.gtc.model import GTC
from gtcrec.testing import random_features
from gtcrec.training.trainer import TrainConfig, fit
from gtcrec.types import Interactions, ItemFeatures, Split

N = 16
SMALL = {"embedding_dim": 6, "history_hidden_dim": 10, "history_content_dim": 3, "history_dropout": 0.0}
ALONE = {"blend": "fixed", "linear_weight": 0.0, "embedding_weight": 0.0, "interest_weight": 0.0}


@pytest.fixture
def pairs() -> Interactions:
    users, items = np.nonzero(np.random.default_rng(5).random((30, N)) < 0.3)
    kept = items != N - 1  # the last item has no interaction
    return Interactions(users[kept], items[kept], 31, N)  # nor has the last user


@pytest.fixture
def features() -> ItemFeatures:
    return random_features(N, {"image": 5, "text": 4}, missing=0.3)


def build(pairs: Interactions, features: ItemFeatures, **settings: float) -> HistoryDiffusion:
    torch.manual_seed(0)
    config = models.make_config("gtc", SMALL | settings)
    return HistoryDiffusion(config, pairs, features, start=None)


def answer_by_hand(model: HistoryDiffusion, history: np.ndarray, share: float) -> torch.Tensor:
    """The network's scores of all items for one history, item by item."""
    item_side = torch.cat([model.items, model.content], dim=1)
    profile = torch.zeros(item_side.shape[1])
    for item in history:
        profile = profile + item_side[item] / np.sqrt(max(len(history), 1))
    inner = torch.tanh(model.hide.weight @ torch.cat([profile, torch.tensor([share])]) + model.hide.bias)
    answer = model.keep.weight @ profile + model.answer.weight @ inner + model.answer.bias
    return torch.cat([model.targets, model.content], dim=1) @ answer + model.bias


def test_the_score_is_one_inner_product_of_the_vectors(pairs, features) -> None:
    model = build(pairs, features)
    users, items = model.vectors()
    assert items.shape[1] == sum(width for _, width in model.blocks())
    x = pairs.matrix()
    expected = torch.stack([answer_by_hand(model, x[[user]].indices, 0.0) for user in range(31)]).detach()
    torch.testing.assert_close(users @ items.T, expected, rtol=1e-4, atol=1e-5)


def test_content_keeps_the_directions_that_training_saw(pairs, features) -> None:
    """Another machine may find other directions of the same content, such as turned ones."""
    model, other = build(pairs, features), build(pairs, features)
    state = model.state_dict()
    basis, spread = "directions.0.basis", "directions.0.spread"
    state[basis], state[spread] = state[basis].flip(1), state[spread].flip(0)
    other.load_state_dict(state)
    width = state[basis].shape[1]
    torch.testing.assert_close(other.content[:, :width], model.content[:, :width].flip(1))
    assert torch.equal(other.content[:, width:], model.content[:, width:])
    torch.testing.assert_close(other.add_items(features)[:, 6:-1], other.content)


def some_hidden() -> history_diffusion._HiddenHistories:
    row, item = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([2, 4, 7, 1, 3])
    return history_diffusion._HiddenHistories(row, item, torch.tensor([True, False, True, False, True]), 2)


def test_the_loss_is_the_cross_entropy_of_the_hidden_items(pairs, features) -> None:
    model = build(pairs, features)
    found = model.cross_entropy(some_hidden(), torch.Generator().manual_seed(0))
    terms, weights = [], []
    for kept, lost, share in (([4], [2, 7], 2 / 3), ([1], [3], 1 / 2)):
        scores = answer_by_hand(model, np.array(kept), share)
        others = [i for i in range(N) if i not in kept]
        for one in lost:
            terms.append(scores[others].logsumexp(0) - scores[one])
            weights.append(len(lost) ** -0.5)
    expected = sum(w * term for w, term in zip(weights, terms, strict=True)) / sum(weights)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    by_hand, of_model = (torch.autograd.grad(one, tuple(model.parameters())) for one in (expected, found))
    torch.testing.assert_close(of_model, by_hand, rtol=1e-4, atol=1e-5)


def test_drawn_items_stand_for_all_of_a_larger_catalogue(pairs, features) -> None:
    whole = build(pairs, features).cross_entropy(some_hidden(), torch.Generator())
    drawn = build(pairs, features, history_items=12)
    rng = torch.Generator().manual_seed(1)
    values = torch.stack([drawn.cross_entropy(some_hidden(), rng).detach() for _ in range(400)])
    assert values.std() > 0  # an estimate, a little low as the log of a mean is
    assert abs(float(values.mean() - whole.detach())) < 4 * float(values.std()) / 20 + 0.05


def test_items_left_in_a_history_are_masked_wherever_they_were_drawn() -> None:
    items = torch.tensor([4, 1, 4, 9, 2])
    found = history_diffusion._entry_places(some_hidden(), items)
    assert found.tolist() == [0, 2, 5 + 1]  # of two rows of five


def test_a_step_hides_something_of_each_of_some_users(pairs, features, monkeypatch) -> None:
    model, seen = build(pairs, features, history_users=5), []

    def record(batch: history_diffusion._HiddenHistories, rng: torch.Generator) -> torch.Tensor:
        seen.append(batch)
        return torch.zeros(())

    monkeypatch.setattr(model, "cross_entropy", record)
    model.loss(torch.from_numpy(pairs.users), torch.Generator().manual_seed(1))
    (row, _, hidden, n) = seen[0]
    assert n == 5
    assert all(hidden[row == user].any() for user in range(5))
    assert not hidden.all()


def test_an_added_item_without_content_has_the_least_bias_alone(pairs, features) -> None:
    model = build(pairs, features)
    empty = ItemFeatures(
        1,
        {m: np.zeros((1, x.shape[1]), np.float32) for m, x in features.values.items()},
        {m: np.zeros(1, bool) for m in features.names},
    )
    (vector,) = model.add_items(empty)
    assert float(vector[-1]) == float(model.bias.detach().min())
    assert not vector[:-1].any()


def test_the_network_learns_what_no_item_to_item_weight_can_say() -> None:
    """Who liked one of two genres' signs likes its item; who liked both likes neither: XOR of the history."""
    rng, rows = np.random.default_rng(0), []
    for user in range(600):
        signs = rng.integers(0, 2, 2)
        rows += [(user, 0 if signs[0] else 1), (user, 2 if signs[1] else 3), (user, 4 + (signs[0] ^ signs[1]))]
    users, items = np.array(rows).T
    shown = np.arange(len(rows)) % 3 != 2
    test = ~shown & (users < 200)
    train = Interactions(users[~test], items[~test], 600, 6)
    split = Split(train, *(Interactions(users[test], items[test], 600, 6) for _ in range(2)), ItemFeatures(6), {})
    config = models.make_config("gtc", SMALL | ALONE | {"history_hidden_dim": 32, "history_rate": 1.0})
    model = models.build_model("gtc", train, ItemFeatures(6), config, 0)
    assert isinstance(model, GTC)
    fit(model, split, TrainConfig(epochs=150, learning_rate=1e-2, patience=150, valid_metric="hit@1"))
    right = torch.from_numpy(items[test] - 4)
    scores = model.scorer()(torch.arange(200))[:, 4:]
    assert (scores.argmax(1) == right).float().mean() > 0.95
    linear = models.build_model("gtc", train, ItemFeatures(6), config.model_copy(update=LINEAR_ALONE), 0)
    assert (linear.scorer()(torch.arange(200))[:, 4:].argmax(1) == right).float().mean() < 0.8


LINEAR_ALONE = {"linear_weight": 1.0, "embedding_weight": 0.0, "history_weight": 0.0, "linear_content_weight": 2.0}
