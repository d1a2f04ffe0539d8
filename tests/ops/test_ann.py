"""The approximate index against exact ranking: what it finds, what it leaves out, what it refuses."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch

from gtcrec.errors import ConfigError, DataError
from gtcrec.ops import ann
from gtcrec.ops.ann import Index, IndexConfig, approximate_neighbors, build, estimate_index, recall_against_exact
from gtcrec.ops.topk import recommend
from gtcrec.runtime import memory
from gtcrec.types import Interactions, TopK

KINDS = ("ivf", "hnsw")


def vectors(n, d=16, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((n, d), dtype=np.float32))


def seen_of(n_users, n_items, n, seed=0):
    cells = np.random.default_rng(seed).choice(n_users * n_items, n, replace=False)
    return Interactions(*np.divmod(cells, n_items), n_users, n_items)


def exact(users, items, k, exclude=()):
    return recommend(lambda index: users[index] @ items.T, np.arange(len(users)), k, exclude)


def lists(items, scores=None):
    items = np.array(items)
    return TopK(np.arange(len(items)), items, np.zeros(items.shape, dtype=np.float32) if scores is None else scores)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shares", [(), (0.02,), (0.3, 0.1)])
def test_an_index_that_looks_at_everything_gives_the_exact_lists(kind, shares):
    users, items = vectors(60), vectors(300, seed=1) * torch.linspace(0.1, 3, 300)[:, None]
    exclude = [seen_of(60, 300, int(share * 60 * 300), seed) for seed, share in enumerate(shares)]
    built = build(items, IndexConfig(kind=kind, probes=300, search_width=300, build_width=300))
    found, wanted = built.search(users, np.arange(60), 10, exclude), exact(users, items, 10, exclude)
    assert found.items.tolist() == wanted.items.tolist()
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-5, atol=1e-5)
    assert (found.items.dtype, found.scores.dtype) == (np.int64, np.float32)
    assert recall_against_exact(found, wanted) == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_that_looks_at_a_part_finds_most_and_never_an_excluded_item(kind):
    users, items = vectors(200), vectors(4000, seed=1)
    exclude = [seen_of(200, 4000, 2000)]
    built = build(items, IndexConfig(kind=kind, probes=100, links=8, search_width=20))
    found, wanted = built.search(users, np.arange(200), 20, exclude), exact(users, items, 20, exclude)
    assert 0.8 < recall_against_exact(found, wanted) < 1
    seen = exclude[0].matrix().toarray()
    assert not seen[np.arange(200)[:, None], found.items].any()
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_users_are_searched_in_the_order_asked_for_and_may_repeat():
    users, items = vectors(9), vectors(50, seed=1)
    exclude = [seen_of(9, 50, 100)]
    built, wanted = build(items, IndexConfig(probes=50)), exact(users, items, 5, exclude)
    asked = np.array([7, 2, 7, 0])
    found = built.search(users, asked, 5, exclude)
    assert found.users.tolist() == asked.tolist()
    assert found.items.tolist() == wanted.items[asked].tolist()
    assert built.search(users, asked[:0], 5).items.shape == (0, 5)


@pytest.mark.parametrize(("kind", "width"), [("ivf", "probes"), ("hnsw", "search_width")])
def test_an_index_searches_as_wide_as_its_config_says(kind, width):
    users, items = vectors(200), vectors(2000, seed=1)
    wanted, narrow = exact(users, items, 5), build(items, IndexConfig(kind=kind, **{width: 5}))
    wide = replace(narrow, config=IndexConfig(kind=kind, **{width: 100}))
    recalls = [recall_against_exact(one.search(users, np.arange(200), 5), wanted) for one in (narrow, wide, narrow)]
    assert recalls[0] == recalls[2] < recalls[1] - 0.05


def test_equal_scores_are_ordered_by_item():
    built = build(torch.ones(20, 3), IndexConfig(cells=1))
    assert built.search(torch.ones(1, 3), np.array([0]), 20).items.tolist() == [list(range(20))]


def test_places_that_the_index_cannot_fill_stay_empty():
    users, items = vectors(5), vectors(30, seed=1)
    exclude = [Interactions(np.zeros(28, dtype=np.int64), np.arange(28), 5, 30)]
    found = build(items, IndexConfig(probes=30, cells=3)).search(users, np.arange(5), 40, exclude)
    assert sorted(found.items[0, :2].tolist()) == [28, 29]
    assert found.items[0, 2:].tolist() == [-1] * 38
    assert (found.scores[0, 2:] == -np.inf).all()
    assert sorted(found.items[1, :30].tolist()) == list(range(30))
    one = build(items, IndexConfig(probes=1, cells=10)).search(users, np.arange(5), 30)
    assert ((one.items >= 0).sum(axis=1) < 30).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_lists_and_another_seed_others(kind):
    users, items = vectors(300), vectors(3000, seed=1)
    thrifty = {"kind": kind, "probes": 4, "search_width": 10, "links": 4}
    one, two, other = (
        build(items, IndexConfig(seed=seed, **thrifty)).search(users, np.arange(300), 10).items for seed in (1, 1, 2)
    )
    assert one.tolist() == two.tolist()
    assert one.tolist() != other.tolist()


def test_long_vectors_do_not_hide_from_their_cells():
    users, items = vectors(200) + 1, vectors(2000, seed=1) + 1
    items[:100] *= 3  # popular items
    built = build(items, IndexConfig(probes=20))
    assert recall_against_exact(built.search(users, np.arange(200), 20), exact(users, items, 20)) > 0.95


def test_vectors_of_any_floating_type_are_searched():
    users, items = vectors(4), vectors(40, seed=1)
    built = build(items.double().requires_grad_(), IndexConfig(probes=40))
    assert built.search(users.double(), np.arange(4), 3).items.tolist() == exact(users, items, 3).items.tolist()


def unit(n, d=12, seed=0):
    return torch.nn.functional.normalize(vectors(n, d, seed), dim=1).numpy()


def nearest(x, k):
    products = x @ x.T
    np.fill_diagonal(products, -np.inf)
    return np.argsort(-products, axis=1)[:, :k]


def test_neighbours_are_exact_when_all_cells_are_searched():
    x = unit(500)
    found = approximate_neighbors(x, 7, IndexConfig(probes=500))
    assert found.dtype == np.int64
    assert found.tolist() == nearest(x, 7).tolist()


def test_neighbours_from_some_cells_are_mostly_the_nearest_never_the_row_itself_and_repeat():
    x = unit(2000)
    found = approximate_neighbors(x, 10, IndexConfig(probes=60))
    wanted = nearest(x, 10)
    shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]
    assert np.mean(shared) > 9
    assert found.tolist() != wanted.tolist()
    assert (found != np.arange(2000)[:, None]).all()
    assert all(len(set(row)) == 10 for row in found.tolist())
    assert found.tolist() == approximate_neighbors(x, 10, IndexConfig(probes=60)).tolist()


def test_rows_whose_cells_hold_too_little_still_get_all_their_neighbours():
    x = unit(60)
    found = approximate_neighbors(x, 59, IndexConfig(cells=20, probes=1))
    assert [sorted(row) for row in found.tolist()] == [[j for j in range(60) if j != i] for i in range(60)]


def test_equal_rows_are_neighbours_of_each_other_but_not_of_themselves():
    x = np.repeat(unit(2, d=3), 10, axis=0)
    found = approximate_neighbors(x, 4, IndexConfig(cells=1))
    assert (found // 10 == np.arange(20)[:, None] // 10).all()
    assert (found != np.arange(20)[:, None]).all()


def test_recall_is_the_mean_share_of_the_exact_lists_and_skips_empty_ones():
    found = lists([[1, 2, 3], [4, 5, -1], [7, 8, 9]])
    wanted = lists([[3, 2, 9], [4, -1, -1], [-1, -1, -1]])
    assert recall_against_exact(found, wanted) == pytest.approx((2 / 3 + 1) / 2)
    with pytest.raises(DataError, match="the lists are of different users: 3 and 2"):
        recall_against_exact(found, lists([[1], [2]]))
    with pytest.raises(DataError, match="all 1 exact lists are empty"):
        recall_against_exact(lists([[1]]), lists([[-1]]))


def test_bad_vectors_users_and_sizes_are_refused():
    items = vectors(10, d=4)
    built = build(items)
    assert isinstance(built, Index)
    assert (built.n_items, built.dim) == (10, 4)
    with pytest.raises(DataError, match=r"expected item vectors \[n_items, d\], found \[0, 4\]"):
        build(items[:0])
    with pytest.raises(DataError, match=r"expected item vectors \[n_items, d\], found \[4\]"):
        build(items[0])
    with pytest.raises(DataError, match="item vectors must be finite, found NaN or infinity in row 3"):
        build(items.index_fill(0, torch.tensor([3]), torch.nan))
    with pytest.raises(DataError, match=r"expected user vectors \[n_users, 4\], found \[2, 5\]"):
        built.search(torch.zeros(2, 5), np.array([0]), 1)
    with pytest.raises(DataError, match="user vectors must be finite, found NaN or infinity in row 1"):
        built.search(torch.tensor([[0.0] * 4, [torch.inf] * 4]), np.array([0, 1]), 1)
    with pytest.raises(DataError, match=r"users must lie in \[0, 10\), found 10"):
        built.search(items, np.array([0, 10]), 1)
    with pytest.raises(DataError, match="excluded pairs must be over 10 users and 10 items, found 10 and 9"):
        built.search(items, np.array([0]), 1, [seen_of(10, 9, 5)])
    with pytest.raises(ConfigError, match="k must be at least 1, found 0"):
        built.search(items, np.array([0]), 0)
    for k in (0, 10):
        with pytest.raises(ConfigError, match=rf"k must lie in \[1, 10\), the number of rows, found {k}"):
            approximate_neighbors(unit(10), k)
    with pytest.raises(DataError, match="item vectors must be finite, found NaN or infinity in row 0"):
        approximate_neighbors(np.full((3, 2), np.nan, dtype=np.float32), 1)
    with pytest.raises(pydantic.ValidationError, match="Input should be 'ivf' or 'hnsw'"):
        IndexConfig(kind="flat")


def test_without_faiss_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    for call in (lambda: build(vectors(10)), lambda: approximate_neighbors(unit(10), 2)):
        with pytest.raises(ConfigError, match=r'faiss is not installed; pip install "gtcrec\[index\]"'):
            call()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_printed(kind, capfd):
    build(vectors(100), IndexConfig(kind=kind, cells=50)).search(vectors(3), np.arange(3), 5)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_index_is_built_only_where_its_memory_is_free(kind, monkeypatch):
    items, config = torch.ones(50, 64), IndexConfig(kind=kind)
    least = estimate_index(50, 64, config)
    assert 50 * 64 * 4 < least < 5 * 50 * 64 * 4
    monkeypatch.setattr(memory, "free_memory", lambda: least)
    build(items, config)
    monkeypatch.setattr(memory, "free_memory", lambda: least - 1)
    monkeypatch.setattr(ann, "_make_index", lambda *_: pytest.fail("was built"))
    with pytest.raises(ConfigError, match="an index of 50 vectors of 64 numbers: needs at least"):
        build(items, config)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell peaks of memory")
@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_the_estimate_of_an_index_is_within_a_factor_of_two_of_its_peak(kind):
    line = [sys.executable, str(Path(__file__).parent / "index_memory_process.py"), kind]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    estimated, measured = json.loads(done.stdout)
    assert measured / 2 < estimated < measured * 2, (estimated, measured)
