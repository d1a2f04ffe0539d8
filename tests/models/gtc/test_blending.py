"""A blend's standard scores, its inner products, and how its weights are chosen."""

import numpy as np
import torch

from gtcrec.models.gtc.blending import Blend, InnerPart, choose_weights, mean_ndcg, standard_scores
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


def test_mean_ndcg_is_that_of_unseen_items() -> None:
    train, valid, good = choices()
    assert mean_ndcg(of(good), train, valid) == 1.0  # what was seen scores more, and does not count
    assert mean_ndcg(of(-good), train, valid) == 0.0
