"""MaskDiff: its parts by hand, what the loss is of, and what takes part in the scores."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from gtcrec import models
from gtcrec.models.multimodal.maskdiff import MaskDiff
from gtcrec.testing import random_features
from gtcrec.training.trainer import TrainConfig, fit
from gtcrec.types import Batch, Interactions, ItemFeatures, Split

N = 16
SMALL = {"embedding_dim": 6, "hidden_dim": 10, "content_dim": 3, "content_weight": 2.0, "num_candidates": 8}


@pytest.fixture
def pairs() -> Interactions:
    users, items = np.nonzero(np.random.default_rng(5).random((30, N)) < 0.3)
    kept = items != N - 1  # the last item has no interaction
    return Interactions(users[kept], items[kept], 31, N)  # nor has the last user


@pytest.fixture
def features() -> ItemFeatures:
    return random_features(N, {"image": 5, "text": 4}, missing=0.3)


def build(pairs: Interactions, features: ItemFeatures, **settings: float) -> MaskDiff:
    config = models.make_config("maskdiff", SMALL | settings)
    model = models.build_model("maskdiff", pairs, features, config, 0)
    assert isinstance(model, MaskDiff)
    return model


def standardize(scores: torch.Tensor) -> torch.Tensor:
    return (scores - scores.mean(1, keepdim=True)) / scores.std(1, correction=0, keepdim=True).clamp(min=1e-12)


def answer_by_hand(model: MaskDiff, history: np.ndarray, share: float) -> torch.Tensor:
    """The network's scores of all items for one history, item by item."""
    item_side = torch.cat([model.items, model.content], dim=1)
    profile = torch.zeros(item_side.shape[1])
    for item in history:
        profile = profile + item_side[item] / np.sqrt(max(len(history), 1))
    inner = torch.tanh(model.hide.weight @ torch.cat([profile, torch.tensor([share])]) + model.hide.bias)
    answer = model.keep.weight @ profile + model.answer.weight @ inner + model.answer.bias
    return torch.cat([model.targets, model.content], dim=1) @ answer + model.bias


def test_the_score_is_the_linear_part_and_the_network_each_standardised(pairs, features) -> None:
    model = build(pairs, features, diffusion_weight=1.5)
    everyone = torch.arange(31)
    linear = model.linear.scorer()(everyone)
    x = pairs.matrix()
    network = torch.stack([answer_by_hand(model, x[[user]].indices, 0.0) for user in range(31)]).detach()
    expected = standardize(linear) + 1.5 * standardize(network)
    torch.testing.assert_close(model.scorer()(everyone), expected, rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_cross_entropy_of_the_hidden_items(pairs, features) -> None:
    model = build(pairs, features, dropout=0.0)
    row, item = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([2, 4, 7, 1, 3])
    hidden = torch.tensor([True, False, True, False, True])
    found = model._cross_entropy(row, item, hidden, 2, 0)
    terms, weights = [], []
    for kept, lost, share in (([4], [2, 7], 2 / 3), ([1], [3], 1 / 2)):
        scores = answer_by_hand(model, np.array(kept), share)
        others = [i for i in range(N) if i not in kept]
        for one in lost:
            terms.append(scores[others].logsumexp(0) - scores[one])
            weights.append(len(lost) ** -0.5)
    expected = sum(w * term for w, term in zip(weights, terms, strict=True)) / sum(weights)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_step_looks_at_some_users_of_its_batch(pairs, features, monkeypatch) -> None:
    model, seen = build(pairs, features, diffusion_users=5), []

    def record(row, item, hidden, n, seed):
        seen.append((n, hidden.float(), row))
        return torch.zeros(())

    monkeypatch.setattr(model, "_cross_entropy", record)
    users = torch.from_numpy(pairs.users)
    model.loss(Batch(users, torch.from_numpy(pairs.items), torch.zeros_like(users)), torch.Generator().manual_seed(1))
    (n, hidden, row) = seen[0]
    assert n == 5
    assert all(hidden[row == user].any() for user in range(5))  # something is hidden of each history
    assert not hidden.all()


def test_the_network_takes_part_in_the_scores_by_its_weight(pairs, features) -> None:
    everyone = torch.arange(31)
    model, off = build(pairs, features), build(pairs, features, diffusion_weight=0.0)
    before = [one.scorer()(everyone) for one in (model, off)]
    for one in (model, off):
        for layer in (one.hide, one.answer, one.keep):
            torch.nn.init.normal_(layer.weight)
    after = [one.scorer()(everyone) for one in (model, off)]
    assert not torch.allclose(before[0], after[0], atol=0.1)
    assert torch.equal(before[1], after[1])
    torch.testing.assert_close(after[1], standardize(off.linear.scorer()(everyone)))


def test_an_added_item_without_content_has_the_least_bias_alone(pairs, features) -> None:
    model = build(pairs, features)
    history = pairs.matrix()[:4]
    empty = ItemFeatures(
        1,
        {m: np.zeros((1, x.shape[1]), np.float32) for m, x in features.values.items()},
        {m: np.zeros(1, bool) for m in features.names},
    )
    x = pairs.matrix()
    network = torch.stack([answer_by_hand(model, x[[user]].indices, 0.0) for user in range(4)]).detach()
    linear = model.linear.fold_in(history)
    spread = network.std(1, correction=0), linear.std(1, correction=0)
    expected = 2.0 * (model.bias.min().detach() - network.mean(1)) / spread[0] - linear.mean(1) / spread[1]
    torch.testing.assert_close(model.score_new_items(history, empty)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_new_users_score_as_known_ones_with_their_history(pairs, features) -> None:
    model = build(pairs, features)
    torch.testing.assert_close(model.fold_in(pairs.matrix()[:9]), model.scorer()(torch.arange(9)))
    nobody = csr_array((1, N), dtype=np.float32)
    assert torch.isfinite(model.fold_in(nobody)).all()


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
    model = build(train, ItemFeatures(6), dropout=0.0, hidden_dim=32)
    fit(model, split, TrainConfig(epochs=150, learning_rate=1e-2, patience=150, valid_metric="hit@1"))
    scores = model.scorer()(torch.arange(200))[:, 4:]
    linear = model.linear.scorer()(torch.arange(200))[:, 4:]
    right = torch.from_numpy(items[test] - 4)
    assert (scores.argmax(1) == right).float().mean() > 0.95
    assert (linear.argmax(1) == right).float().mean() < 0.8
