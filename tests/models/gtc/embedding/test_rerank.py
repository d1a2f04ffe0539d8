"""Re-ranking pair by pair: which scores may change places, and what orders them."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.models.gtc.embedding.inference import conditioned_scores
from gtcrec.ops.graph import SparseMatrix
from gtcrec.ops.scorers import DotScorer, RerankingScorer
from gtcrec.training.trainer import TrainConfig, fit

SMALL = {"embedding_dim": 8, "hidden_dim": 16, "pair_diffusion_weight": 0.5}
SIDES = {"liked": {}, "audience": {"condition": "audience"}, "identity": {"condition": "identity"}}


def make(split, seed=0, **given):
    return models.build_model(
        "gtc", split.train, split.features, models.make_config("gtc", SMALL | given, "plain"), seed
    )


def quick(model, split, epochs=2):
    return fit(model, split, TrainConfig(epochs=epochs, batch_size=64, learning_rate=0.02, valid_metric="recall@10"))


def invented(n_users=90, n_items=13):
    """Vectors, another score and what users have seen, all at random; user 0 has seen all items, user 1 all but two."""
    rng = torch.Generator().manual_seed(0)
    folded = DotScorer(torch.randn(n_users, 3, generator=rng), torch.randn(n_items, 3, generator=rng))
    other = torch.randn(n_users, n_items, generator=rng)
    seen = torch.rand(n_users, n_items, generator=rng) < 0.3
    seen[0] = True
    seen[1] = torch.arange(n_items) > 1
    return folded, other, seen


def csr(seen):
    return SparseMatrix(csr_array(seen.float().numpy())).sides()[0]


def by_loops(scores, other, seen, n):
    """The same a user and an item at a time, in numpy."""
    wanted = scores.copy()
    for user in range(len(scores)):
        new = [item for item in np.argsort(-scores[user], kind="stable") if not seen[user, item]][:n]
        order = sorted(new, key=lambda item, user=user: -other[user, item])
        for place, item in enumerate(order):
            wanted[user, item] = scores[user, new[place]]
    return wanted


@pytest.mark.parametrize("n", [1, 2, 5, 13, 50])
def test_reranked_scores_are_those_of_a_loop_over_users_and_items(n):
    folded, other, seen = invented()
    reranked = RerankingScorer(folded, lambda users, items: other[users[:, None], items], csr(seen), n)
    for users in (torch.arange(90), torch.tensor([5, 1, 1, 0])):  # more than are held at once, and some twice
        wanted = by_loops(*(one[users].numpy() for one in (folded(torch.arange(90)), other, seen)), n)
        np.testing.assert_array_equal(reranked(users), wanted)


def test_the_same_items_stay_the_best_with_the_same_scores_and_met_ones_keep_theirs():
    folded, other, seen = invented()
    reranked = RerankingScorer(folded, lambda users, items: other[users[:, None], items], csr(seen), 4)
    users = torch.arange(90)
    before, after = folded(users), reranked(users)
    assert torch.equal(before[seen], after[seen])
    best = [scores.masked_fill(seen, -torch.inf).topk(4) for scores in (before, after)]
    assert torch.equal(best[0].values, best[1].values)
    some = best[0].values.isfinite().all(dim=1)
    assert torch.equal(*(one.indices[some].sort(dim=1).values for one in best))
    assert not torch.equal(before, after)


@pytest.mark.parametrize("side", SIDES)
def test_the_better_item_for_a_user_alone_comes_first(side, checkerboard):
    """After training, the best of each user are in the order of `conditioned_scores`; nothing else has moved."""
    split = checkerboard(missing=0.3)
    model = make(split, rerank_top_n=6, **SIDES[side])
    quick(model, split)
    users, seen = torch.arange(40), torch.from_numpy(split.train.matrix().toarray() > 0)
    scores = make(split, **SIDES[side])
    scores.load_state_dict(model.state_dict())
    folded, told = scores.scorer()(users), conditioned_scores(model)(users, torch.arange(40).repeat(40, 1))
    wanted = by_loops(folded.numpy(), told.numpy(), seen.numpy(), 6)
    np.testing.assert_allclose(model.scorer()(users), wanted, atol=1e-6)
    assert (told - folded).abs().max() > 1e-4


@pytest.mark.parametrize("side", SIDES)
def test_a_run_is_validated_by_what_is_reranked(side, checkerboard):
    split, given = checkerboard(), SIDES[side]
    plain, reranked = (quick(make(split, rerank_top_n=n, **given), split, 3) for n in (0, 15))
    assert [e.losses for e in plain.history] == [e.losses for e in reranked.history]
    assert "pair" in plain.history[0].losses
    assert [e.valid for e in plain.history] != [e.valid for e in reranked.history]


@pytest.mark.parametrize("side", SIDES)
def test_a_reranking_scorer_is_a_snapshot(side, checkerboard):
    split = checkerboard()
    model = make(split, rerank_top_n=10, **SIDES[side])
    snapshot, users = model.scorer(), torch.arange(40)
    before = snapshot(users)
    quick(model, split)
    assert torch.equal(before, snapshot(users))
    assert not torch.equal(before, model.scorer()(users))


def test_without_pairs_in_training_a_rerank_is_refused():
    with pytest.raises(ConfigError) as error:
        models.make_config("gtc", {"rerank_top_n": 10}, "embedding")
    needs = "filter=trained and pair_diffusion_weight > 0, which trains what it asks"
    assert str(error.value) == f"gtc: rerank_top_n needs {needs}"


def test_told_a_user_whom_the_network_ignores_a_score_is_the_folded_one(checkerboard):
    split = checkerboard(missing=0.3)
    model = make(split, rerank_top_n=10)
    quick(model, split)
    users, items = torch.arange(40), torch.arange(40).repeat(40, 1)
    assert (conditioned_scores(model)(users, items) - model.scorer().base(users)).abs().max() > 1e-4
    with torch.no_grad():
        for m in ("image", "text"):
            for weight in model.content[m].denoiser.modulate[-1][-1].parameters():
                weight.zero_()
    torch.testing.assert_close(
        conditioned_scores(model)(users, items), model.scorer().base(users), atol=1e-5, rtol=1e-5
    )
