"""Ranked lists against a full sort by (score, item), whatever ties, masks, blocks and sizes there are."""

import numpy as np
import pytest
import torch

from gtcrec.errors import ConfigError, DataError
from gtcrec.ops import topk as ranking
from gtcrec.ops.scorers import dot_scorer
from gtcrec.ops.topk import WritingScorer, block_users, recommend
from gtcrec.types import Interactions


def pairs(users, items, n_users, n_items):
    return Interactions(np.array(users, dtype=np.int64), np.array(items, dtype=np.int64), n_users, n_items)


def random_pairs(rng, n_users, n_items, n):
    return pairs(*np.divmod(rng.choice(n_users * n_items, n, replace=False), n_items), n_users, n_items)


def scorer_of(scores):
    return lambda users: scores[users]


def by_sorting(scores, users, k, exclude):
    """The lists by a full sort of each row: best score first, then lowest item; -1 for places left over."""
    lists = np.full((len(users), k), -1)
    for row, user in enumerate(users):
        gone = {item for held in exclude for item in held.items_of(user).tolist()}
        left = [i for i in range(scores.shape[1]) if i not in gone and scores[user, i] > -np.inf]
        best = sorted(left, key=lambda item: (-scores[user, item], item))[:k]
        lists[row, : len(best)] = best
    return lists


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
@pytest.mark.parametrize("k", [1, 3, 10, 30, 31, 45])
@pytest.mark.parametrize("block", [0, 1, 7])
def test_lists_equal_a_full_sort_by_score_then_item(levels, k, block):
    rng = np.random.default_rng([levels, k])
    scores = rng.integers(0, levels, size=(40, 30)).astype(np.float32) - 2
    exclude = (random_pairs(rng, 40, 30, 300), random_pairs(rng, 40, 30, 80))
    users = rng.permutation(40)[:32]
    found = recommend(scorer_of(torch.tensor(scores)), users, k, exclude, block)
    assert found.k == k
    assert found.users.tolist() == users.tolist()
    assert found.items.tolist() == by_sorting(scores, users, k, exclude).tolist()
    expected = np.where(found.items >= 0, scores[users[:, None], found.items], -np.inf)
    assert found.scores.dtype == np.float32
    assert found.scores.tolist() == expected.tolist()


def test_a_scorer_of_one_shared_row_is_ranked_and_left_unchanged():
    counts = torch.tensor([3.0, 1.0, 3.0, 0.0, 1.0])
    train = pairs([0, 1], [0, 2], 3, 5)
    found = recommend(lambda users: counts.expand(len(users), -1), np.arange(3), 4, (train,))
    assert found.items.tolist() == [[2, 1, 4, 3], [0, 1, 4, 3], [0, 2, 1, 4]]
    assert counts.tolist() == [3, 1, 3, 0, 1]


def test_the_tensor_that_a_scorer_gives_is_not_written_to():
    kept = torch.zeros(2, 3)
    recommend(lambda users: kept, np.array([0, 1]), 2, (pairs([0, 1], [0, 2], 2, 3),), block=2)
    assert kept.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_user_with_everything_masked_gets_an_empty_list():
    train = pairs([0, 0, 0], [0, 1, 2], 2, 3)
    found = recommend(scorer_of(torch.zeros(2, 3)), np.array([0, 1]), 2, (train,))
    assert found.items.tolist() == [[-1, -1], [0, 1]]
    assert found.scores.tolist() == [[-np.inf, -np.inf], [0, 0]]


def test_an_item_scored_minus_infinity_is_not_recommended_and_plus_infinity_comes_first():
    scores = torch.tensor([[0.0, -torch.inf, torch.inf, 1.0]])
    assert recommend(scorer_of(scores), np.array([0]), 4).items.tolist() == [[2, 3, 0, -1]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_scores_of_any_floating_type_are_ranked_in_their_own_precision(dtype):
    scores = torch.tensor([[0.5, 0.25, 1.0, 0.25]], dtype=dtype)
    found = recommend(scorer_of(scores), np.array([0]), 3, block=1)
    assert found.items.tolist() == [[2, 0, 1]]
    assert found.scores.tolist() == [[1.0, 0.5, 0.25]]


def test_a_user_may_be_asked_for_twice_and_nobody_gives_no_lists():
    scorer = scorer_of(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    assert recommend(scorer, np.array([1, 0, 1]), 1).items.tolist() == [[0], [1], [0]]
    assert recommend(scorer, np.array([], dtype=np.int64), 3).items.shape == (0, 3)


def test_scoring_makes_no_gradients_even_for_trained_weights():
    weights = torch.nn.Parameter(torch.tensor([[1.0, 2.0]]))
    seen = []

    def scorer(users):
        scores = weights[users] * 2
        seen.append(scores.requires_grad)
        return scores

    assert recommend(scorer, np.array([0]), 1, block=1).items.tolist() == [[1]]
    assert seen == [False]


@pytest.mark.parametrize("levels", [1, 3, 10**6])
@pytest.mark.parametrize("k", [1, 7, 50])
@pytest.mark.parametrize("n_items", [511, 512, 813, 1200])
@pytest.mark.parametrize("numpy", [True, False])
def test_lists_of_large_catalogues_equal_a_full_sort(levels, k, n_items, numpy, monkeypatch):
    monkeypatch.setattr(ranking, "_on_cpu", lambda scores: numpy)  # without it, as on an accelerator
    rng = np.random.default_rng([levels, k, n_items])
    scores = rng.integers(0, levels, size=(9, n_items)).astype(np.float32)
    scores[1, rng.random(n_items) < 0.98] = -np.inf
    scores[2] = -np.inf
    exclude = (random_pairs(rng, 9, n_items, 1000),)
    found = recommend(scorer_of(torch.tensor(scores)), np.arange(9), k, exclude, block=4)
    assert found.items.tolist() == by_sorting(scores, np.arange(9), k, exclude).tolist()


def test_the_best_items_are_found_wherever_they_lie():
    for places in (range(20), range(0, 2000, 100), range(1980, 2000)):  # together, or in few parts, or left over
        scores = torch.rand(1, 2000, generator=torch.Generator().manual_seed(0))
        scores[0, list(places)] += torch.arange(20.0).flip(0) + 1
        assert recommend(scorer_of(scores), np.array([0]), 20).items.tolist() == [list(places)]


def test_a_scorer_that_writes_to_given_memory_gives_the_lists_of_one_that_does_not():
    rng = torch.Generator().manual_seed(0)
    users = torch.randint(-3, 4, (30, 5), generator=rng).float()
    items = torch.randint(-3, 4, (700, 5), generator=rng).float()
    writing, kept = dot_scorer(users, items), users.clone()
    assert isinstance(writing, WritingScorer)
    users += 1  # the scorer keeps its own copies
    exclude = (random_pairs(np.random.default_rng(0), 30, 700, 2000),)
    for block in (0, 1, 8):
        found = recommend(writing, np.arange(30), 20, exclude, block)
        plain = recommend(lambda index: kept[index] @ items.T, np.arange(30), 20, exclude, block)
        assert found.items.tolist() == plain.items.tolist()
        assert found.scores.tolist() == plain.scores.tolist()


def test_scores_are_written_to_memory_after_the_first_block():
    calls = []

    class Scorer:
        def __call__(self, users):
            calls.append(("call", users.tolist()))
            return torch.zeros(len(users), 3)

        def into(self, users, out):
            calls.append(("into", users.tolist()))
            out.fill_(1.0)

    found = recommend(Scorer(), np.arange(5), 1, block=2)
    assert calls == [("call", [0, 1]), ("into", [2, 3]), ("into", [4])]
    assert found.scores.ravel().tolist() == [0, 0, 1, 1, 1]


def test_inner_products_of_low_precision_are_ranked_too():
    vectors = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.bfloat16)
    assert recommend(dot_scorer(vectors, vectors), np.array([0, 1, 1]), 2, block=1).items.tolist() == [
        [0, 1],
        [1, 0],
        [1, 0],
    ]


def test_the_block_is_chosen_by_the_number_of_items(monkeypatch):
    monkeypatch.setattr(ranking, "_CACHED", 35)
    monkeypatch.setattr(ranking, "_USERS", 2)
    sizes = []

    def scorer(users):
        sizes.append(len(users))
        return torch.zeros(len(users), 10)

    recommend(scorer, np.arange(8), 2, (pairs([0], [0], 8, 10),))
    assert sizes == [3, 3, 2]
    sizes.clear()
    recommend(scorer, np.arange(8), 2)  # the first user shows how many items there are
    assert sizes == [1, 3, 3, 1]


def test_a_block_holds_two_mebibytes_or_64_users_and_never_more_than_128_mebibytes():
    assert [block_users(n) for n in (1, 1024, 7050, 10**5, 10**6, 10**9)] == [2**19, 512, 74, 64, 33, 1]
    assert [block_users(n, "cuda") for n in (7050, 10**6)] == [4759, 33]


def test_a_nan_score_is_refused_with_its_user_and_item():
    scores = torch.zeros(6, 4)
    scores[4, 2] = torch.nan
    scores[5, 0] = torch.nan
    scores[3] = torch.tensor([torch.inf, -torch.inf, 0, 0])  # adds up to NaN, holds none
    with pytest.raises(DataError, match=r"the score of user 4 for item 2 is NaN"):
        recommend(scorer_of(scores), np.array([3, 4, 5]), 2)
    assert recommend(scorer_of(scores), np.array([3]), 2).items.tolist() == [[0, 2]]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(2, 5), r"expected scores \[2, 4\] for 2 users from user 1 on, found \[2, 5\]"),
        (torch.zeros(3, 4), r"expected scores \[2, 4\] for 2 users from user 1 on, found \[3, 4\]"),
        (torch.zeros(4), r"expected scores \[2, 4\] for 2 users from user 1 on, found \[4\]"),
        (torch.zeros(2, 4, dtype=torch.int64), r"expected floating-point scores for user 1, found torch.int64"),
    ],
)
def test_scores_of_a_wrong_shape_or_kind_are_refused(scores, message):
    with pytest.raises(DataError, match=message):
        recommend(lambda users: scores, np.array([1, 2]), 2, (pairs([0], [0], 3, 4),))


def test_scores_without_items_are_refused():
    with pytest.raises(DataError, match=r"expected scores \[1, n_items\] for 1 users from user 0 on, found \[1, 0\]"):
        recommend(lambda users: torch.zeros(len(users), 0), np.array([0]), 2)


def test_a_bad_k_and_users_out_of_range_are_refused():
    scorer, train = scorer_of(torch.zeros(3, 4)), pairs([0], [0], 3, 4)
    with pytest.raises(DataError, match="excluded pairs must be over the same items, found 4, 5"):
        recommend(scorer, np.array([0]), 1, (train, pairs([0], [0], 3, 5)))
    with pytest.raises(ConfigError, match="k must be at least 1, found 0"):
        recommend(scorer, np.array([0]), 0)
    for wrong in (3, -1):
        with pytest.raises(DataError, match=rf"users must lie in \[0, 3\), found {wrong}"):
            recommend(scorer, np.array([0, wrong]), 1, (train,))
