"""A blend's standard scores, its inner products, and how its weights are chosen."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from gtcrec.models.gtc.blending import Blend, InnerPart, choose_weights, mean_ndcg, standard_scores
from gtcrec.ops.scorers import SparseScorer
from gtcrec.types import Interactions, Scorer

RNG = np.random.default_rng(2)


def draw(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.normal(size=shape)).float()


def test_standard_scores_have_mean_zero_and_deviation_one() -> None:
    found = standard_scores(draw(3, 50) * 7 + 4)
    torch.testing.assert_close(found.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(1, correction=0), torch.ones(3))
    assert torch.equal(standard_scores(torch.ones(1, 4)), torch.zeros(1, 4))


def test_scores_are_standardised_as_the_known_ones() -> None:
    known = torch.tensor([[0.0, 4.0]])  # mean 2, deviation 2
    assert standard_scores(torch.tensor([[8.0]]), known).tolist() == [[3.0]]


def test_an_inner_part_is_standardised_without_its_scores() -> None:
    users, items = draw(6, 4), draw(40, 4)
    users[5] = 0
    part = InnerPart.standardized(users, items, [("a", 1), ("b", 3)])
    torch.testing.assert_close(part.scorer(torch.arange(6)), standard_scores(users @ items.T), atol=1e-4, rtol=1e-4)
    assert (part.blocks, part.widths) == (("a", "b"), [1, 3])


def test_a_blend_is_the_weighted_sum_of_its_parts() -> None:
    parts = {name: InnerPart.standardized(draw(5, 3), draw(20, 3), [(name, 3)]) for name in ("embedding", "history")}
    linear = draw(5, 20)
    weights = {"linear": 0.5, "embedding": 0.2, "history": 0.3}
    blend = Blend.join(parts, weights, lambda users: linear[users])
    index = torch.tensor([4, 0])
    expected = sum(weights[name] * part.scorer(index) for name, part in parts.items())
    torch.testing.assert_close(blend(index), expected + 0.5 * standard_scores(linear[index]), atol=1e-5, rtol=1e-4)
    alone = Blend.join({}, weights, lambda users: linear[users])(index)
    torch.testing.assert_close(alone, 0.5 * standard_scores(linear[index]))


def test_sparse_scores_are_added_as_dense_ones_are() -> None:
    history, weights = np.zeros((4, 6), np.float32), RNG.normal(size=(6, 30)).astype(np.float32)
    history[0, [1, 4]] = history[1, 2] = history[2] = 1  # the last user has no history
    weights[RNG.random(weights.shape) < 0.8] = 0
    sparse, dense = SparseScorer(csr_array(history), csr_array(weights)), torch.from_numpy(history @ weights)
    parts = {"history": InnerPart.standardized(draw(4, 3), draw(30, 3), [("history", 3)])}
    found = Blend.join(parts, {"history": 0.4, "linear": 0.6}, sparse)
    expected = 0.4 * parts["history"].scorer(torch.arange(4)) + 0.6 * standard_scores(dense)
    torch.testing.assert_close(found(torch.arange(4)), expected)
    found.into(torch.tensor([2, 0]), out := torch.full((2, 30), torch.nan))
    torch.testing.assert_close(out, expected[[2, 0]])


def choices(n_users: int = 40, n_items: int = 60) -> tuple[Interactions, Interactions, torch.Tensor]:
    """Training and held-out pairs, one item each, and scores that put the held-out one first."""
    users = np.arange(n_users)
    seen, held = RNG.integers(0, n_items // 2, n_users), RNG.integers(n_items // 2, n_items, n_users)
    good = torch.zeros(n_users, n_items)
    good[users, held] = 5.0
    good[users, seen] = 9.0
    pairs = (Interactions(users, side, n_users, n_items) for side in (seen, held))
    return (*pairs, good)


def of(scores: torch.Tensor) -> Scorer:
    return lambda users: standard_scores(scores[users])


def test_the_part_that_knows_gets_the_weight() -> None:
    train, valid, good = choices()
    noise = draw(*good.shape)
    assert choose_weights({"noise": of(noise), "good": of(-good)}, train, valid)["noise"] > 0.5
    assert choose_weights({"noise": of(noise), "good": of(good)}, train, valid)["good"] >= 0.5


def test_two_halves_of_the_truth_share_the_weight() -> None:
    train, valid, good = choices()
    first = torch.arange(len(good)) < len(good) // 2
    halves = [torch.where(one[:, None], good, 0.01 * draw(*good.shape)) for one in (first, ~first)]
    weights = choose_weights({"a": of(halves[0]), "b": of(halves[1])}, train, valid)
    assert weights == {"a": 0.5, "b": 0.5}  # the most even of equals


def test_a_fourth_part_takes_its_share_from_the_others_alike() -> None:
    train, valid, good = choices()
    noise = {name: of(draw(*good.shape)) for name in ("a", "b", "c")}
    weights = choose_weights({**noise, "last": of(good)}, train, valid)
    assert weights["last"] >= 0.5
    assert sum(weights.values()) == pytest.approx(1.0)
    without = choose_weights({"a": of(good), "b": noise["b"], "c": noise["c"], "last": of(-good)}, train, valid)
    assert without["last"] == 0.0  # of equals the smallest share


def test_mean_ndcg_is_that_of_unseen_items() -> None:
    train, valid, good = choices()
    assert mean_ndcg(of(good), train, valid) == 1.0  # what was seen scores more, and does not count
    assert mean_ndcg(of(-good), train, valid) == 0.0


def test_the_chosen_weights_are_those_of_whole_sorted_lists() -> None:
    """The oracle sorts all items of each blend of the grid, user by user."""
    users, items = np.divmod(RNG.permutation(30 * 40)[:400], 40)
    train = Interactions(users[:200], items[:200], 30, 40)
    valid = Interactions(users[200:], items[200:], 30, 40)
    scores = {name: standard_scores(draw(30, 40)) for name in ("a", "b", "c")}

    def ndcg(weights: tuple[float, ...]) -> float:
        found = []
        for user in np.flatnonzero((valid.user_counts > 0) & (train.user_counts > 0)):
            blend = sum(w * one[user].double() for w, one in zip(weights, scores.values(), strict=True))
            ranked = [i for i in blend.argsort(descending=True).tolist() if i not in train.items_of(user)][:20]
            held = set(valid.items_of(user).tolist())
            gain = sum(1 / np.log2(place + 2) for place, item in enumerate(ranked) if item in held)
            found.append(gain / sum(1 / np.log2(place + 2) for place in range(min(len(held), 20))))
        return float(np.mean(found))

    grid = [(a / 10, b / 10, (10 - a - b) / 10) for a in range(11) for b in range(11 - a)]
    chosen = choose_weights({name: lambda users, one=one: one[users] for name, one in scores.items()}, train, valid)
    np.testing.assert_allclose(ndcg(tuple(chosen.values())), max(map(ndcg, grid)), rtol=1e-9)
    np.testing.assert_allclose(mean_ndcg(lambda users: scores["a"][users], train, valid), ndcg((1, 0, 0)), rtol=1e-9)
