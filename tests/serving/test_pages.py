"""Pages of a ranking, filtered and diverse: the whole ranking, filtered and cut by hand."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gtcrec
from gtcrec.errors import ConfigError, DataError
from gtcrec.serving.diversity import POOL, cosines, marginal_order
from gtcrec.serving.list_request import ListRequest
from gtcrec.serving.stored_lists import StoredLists

FAST = {"epochs": 2, "batch_size": 64, "learning_rate": 0.02}
N_ITEMS = 40
MODELS = ("popular", "itemknn", "ease", "l3ae", "ials", "bpr", "lightgcn", "gtc", "freedom")
FILTERS = {
    "price < 20": lambda row: row["price"] < 20,
    "kind in ('mug', 'lamp') or colour = 'red'": lambda row: row["kind"] in ("mug", "lamp") or row["colour"] == "red",
    "not title like '%a%'": lambda row: "a" not in row["title"],
    "item_id > 'p0020'": lambda row: row["item_id"] > "p0020",
    "price < 0": lambda row: False,
}


@cache
def catalog():
    return gtcrec.data.make_catalog(n_users=60, n_items=N_ITEMS, seed=0).dataset


@cache
def fitted(name):
    spec = gtcrec.models.get_spec(name)
    trains = name not in ("popular", "itemknn", "ease", "l3ae", "ials")
    sizes = {"embedding_dim": 8} if "embedding_dim" in spec.config.model_fields else {}
    preset = "embedding" if name == "gtc" else "default"  # whose score is an inner product
    return gtcrec.Recommender(name, preset=preset, seed=1, **sizes).fit(catalog(), **(FAST if trains else {}))


def rows(table):
    return [tuple(row.values()) for row in table.to_pylist()]


PAGES = st.fixed_dictionaries(
    {
        "k": st.integers(1, 45),
        "offset": st.integers(0, 45),
        "exclude_seen": st.booleans(),
        "where": st.sampled_from([None, *FILTERS]),
        "items": st.none() | st.lists(st.integers(0, N_ITEMS - 1), max_size=30),
        "exclude": st.none() | st.lists(st.integers(0, N_ITEMS - 1), max_size=30),
    }
)


def asked_of(page, ids):
    named = {key: None if page[key] is None else [ids[i] for i in page[key]] for key in ("items", "exclude")}
    return {**page, **named}


def by_hand(ranking, page, model):
    """Rows of the page, from the rows (user, item, rank, score) of the whole ranking of one user."""
    columns = {row["item_id"]: row for row in model.item_columns.to_pylist()}
    kept = [
        row
        for row in ranking
        if (page["items"] is None or row[1] in page["items"])
        and row[1] not in (page["exclude"] or ())
        and (page["where"] is None or FILTERS[page["where"]](columns[row[1]]))
    ]
    first, end = page["offset"], page["offset"] + page["k"]
    return [(user, item, first + place + 1, score) for place, (user, item, _, score) in enumerate(kept[first:end])]


@pytest.mark.parametrize("name", MODELS)
@given(page=PAGES, user=st.integers(0, 59))
@settings(max_examples=25, deadline=None)
def test_a_page_is_the_whole_ranking_filtered_by_hand(name, page, user):
    model = fitted(name)
    user, page = model.user_ids[user], asked_of(page, model.item_ids)
    whole = rows(model.recommend(user, k=N_ITEMS, exclude_seen=page["exclude_seen"]))
    assert rows(model.recommend(user, **page)) == by_hand(whole, page, model)


@pytest.mark.parametrize("name", ["popular", "ease", "gtc"])
@given(page=PAGES, history=st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=5, unique=True))
@settings(max_examples=25, deadline=None)
def test_a_page_of_a_history_is_its_whole_ranking_filtered(name, page, history):
    model = fitted(name)
    page, history = asked_of(page, model.item_ids), [model.item_ids[i] for i in history]
    whole = rows(model.recommend(history=history, k=N_ITEMS, exclude_seen=page["exclude_seen"]))
    assert rows(model.recommend(history=history, **page)) == by_hand(whole, page, model)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    names = ("gtc", "bpr", "lightgcn", "freedom")
    return {name: StoredLists.open(fitted(name).save(tmp_path_factory.mktemp("m") / name)) for name in names}


@pytest.mark.parametrize("name", ["gtc", "bpr", "lightgcn", "freedom"])
@given(page=PAGES, users=st.lists(st.integers(0, 59), min_size=1, max_size=3), diversity=st.sampled_from([0.0, 0.4]))
@settings(max_examples=25, deadline=None)
def test_stored_vectors_give_the_pages_of_the_model(stored, name, page, users, diversity):
    model, lists = fitted(name), stored[name]
    users, page = [model.user_ids[user] for user in users], asked_of(page, model.item_ids)
    found = lists.recommend(users, ListRequest(**page, diversity=diversity))
    expected = model.recommend(users, **page, diversity=diversity)
    assert found.schema == expected.schema
    assert [row[:3] for row in rows(found)] == [row[:3] for row in rows(expected)]
    assert found["score"].to_pylist() == pytest.approx(expected["score"].to_pylist(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.9])
def test_pages_join_without_gap_or_double(name, diversity):
    model = fitted(name)
    asked = {"diversity": diversity, "where": "price < 30", "exclude_seen": False}
    whole = rows(model.recommend("u0004", k=N_ITEMS, **asked))
    pages = [
        row for start in range(0, N_ITEMS, 3) for row in rows(model.recommend("u0004", k=3, offset=start, **asked))
    ]
    assert pages == whole
    assert [row[2] for row in whole] == list(range(1, len(whole) + 1))
    assert {row[1] for row in whole} == {
        row[1] for row in rows(model.recommend("u0004", k=N_ITEMS, **asked | {"diversity": 0}))
    }


@pytest.mark.parametrize("name", ["popular", "itemknn", "l3ae", "gtc"])
def test_diversity_makes_lists_less_alike(name):
    """By vectors (gtc), by content (l3ae) and by users (the others), the scores staying the model's."""
    model = fitted(name)
    similarity = model._fitted().cosines_among
    means = []
    for diversity in (0.0, 0.7):
        table = model.recommend("u0004", k=8, diversity=diversity)
        index = catalog().items.index(table["item_id"].to_pylist())
        among = similarity(index)
        means.append(among[~np.eye(8, dtype=bool)].mean())
        scores = model.score("u0004", table["item_id"].to_pylist())[0]
        assert table["score"].to_pylist() == pytest.approx(scores.tolist(), rel=1e-5)
    assert means[1] < means[0]


@given(
    st.integers(1, 12).flatmap(lambda p: st.tuples(st.lists(st.floats(-3, 3, width=32), min_size=p, max_size=p),
                               st.lists(st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0]), min_size=3, max_size=3),
                                        min_size=p, max_size=p))),
    st.sampled_from([0.0, 0.25, 0.5, 0.9]),
)  # fmt: skip
def test_marginal_order_is_maximal_marginal_relevance_written_out(drawn, weight):
    scores, vectors = np.sort(np.array(drawn[0]))[::-1], np.array(drawn[1])
    similarity = cosines(vectors)
    low, high = scores.min(), scores.max()
    relevance = [(s - low) / (high - low) if high > low else 1.0 for s in scores]
    expected = []
    for _ in scores:
        left = [i for i in range(len(scores)) if i not in expected]
        gains = [
            (1 - weight) * relevance[i] - weight * max((similarity[i, j] for j in expected), default=0.0) for i in left
        ]
        expected.append(left[int(np.argmax(gains))])
    assert marginal_order(scores, similarity, weight, len(scores)).tolist() == expected


def test_what_comes_after_the_pool_is_ordered_by_score():
    data = gtcrec.data.make_catalog(n_users=30, n_items=POOL + 50, seed=0).dataset
    model = gtcrec.Recommender("itemknn").fit(data)
    plain, diverse = (rows(model.recommend("u0001", k=POOL + 40, exclude_seen=False, diversity=d)) for d in (0, 0.8))
    assert plain[:POOL] != diverse[:POOL]
    assert sorted(row[1] for row in plain[:POOL]) == sorted(row[1] for row in diverse[:POOL])
    assert plain[POOL:] == diverse[POOL:]


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"k": 0}, ConfigError, "k must be at least 1, found 0"),
        ({"offset": -1}, ConfigError, "offset must be at least 0, found -1"),
        ({"diversity": 1}, ConfigError, r"diversity must lie in \[0, 1\), found 1"),
        ({"diversity": float("nan")}, ConfigError, r"diversity must lie in \[0, 1\), found nan"),
        ({"where": "prize < 3"}, ConfigError, r"no column 'prize' \(did you mean 'price'\?\)"),
        ({"exclude": "nothing"}, DataError, "item 'nothing' is not in the data, which has 40 items"),
        ({"items": ["p0001", "nothing"]}, DataError, "item 'nothing' is not in the data, which has 40 items"),
    ],
)
def test_a_page_that_cannot_be_is_refused(asked, error, said):
    with pytest.raises(error, match=said):
        fitted("popular").recommend("u0001", **asked)


def test_no_candidate_gives_no_row():
    table = fitted("gtc").recommend(["u0001", "u0002"], items=[])
    assert (table.num_rows, table.column_names) == (0, ["user_id", "item_id", "rank", "score"])


@pytest.mark.parametrize("view", ["image", "text"])
def test_similar_items_of_a_view_are_nearest_in_its_content(view):
    model, features = fitted("gtc"), catalog().features
    content = features.values[view].astype(np.float64)
    item = int(np.flatnonzero(features.present[view])[3])
    lengths = np.linalg.norm(content, axis=1)
    near = content @ content[item] / np.where(lengths > 0, lengths * lengths[item], 1)
    others = set(np.flatnonzero(features.present[view]).tolist()) - {item}
    table = model.similar_items(model.item_ids[item], k=N_ITEMS, view=view)
    found = catalog().items.index(table["similar_item_id"].to_pylist())
    assert set(found.tolist()) == others
    assert table["score"].to_pylist() == pytest.approx(near[found].tolist(), rel=1e-4, abs=1e-6)
    assert table["score"].to_pylist() == sorted(table["score"].to_pylist(), reverse=True)


def test_similar_items_match_their_filter():
    model = fitted("gtc")
    prices = dict(zip(model.item_ids, model.item_columns["price"].to_pylist(), strict=True))
    whole = rows(model.similar_items("p0003", k=N_ITEMS))
    found = rows(model.similar_items("p0003", k=5, where="price < 20"))
    assert [row[1] for row in found] == [row[1] for row in whole if prices[row[1]] < 20][:5]


def test_a_view_that_is_not_there_is_refused():
    (without,) = np.flatnonzero(~catalog().features.present["image"])[:1]
    with pytest.raises(DataError, match=rf"item '{fitted('gtc').item_ids[without]}' has no content image"):
        fitted("gtc").similar_items(fitted("gtc").item_ids[without], view="image")
    with pytest.raises(ConfigError, match=r"unknown view 'imge' \(did you mean 'image'\?\); .*: image, text"):
        fitted("gtc").similar_items("p0003", view="imge")
    with pytest.raises(
        ConfigError, match="unknown view 'image'; the model's modalities: none, since its model uses no"
    ):
        fitted("bpr").similar_items("p0003", view="image")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_users_for_an_item_have_its_largest_scores(name, exclude_seen):
    model, pairs = fitted(name), catalog().interactions
    scores = model.score(model.user_ids, ["p0003", "p0010"])
    table = model.users_for(["p0003", "p0010"], k=7, exclude_seen=exclude_seen)
    expected = []
    for place, item in enumerate((3, 10)):
        ranked = scores[:, place].astype(np.float64)
        if exclude_seen:
            ranked[pairs.users[pairs.items == item]] = -np.inf
        best = np.argsort(-ranked, kind="stable")[:7]
        expected += [(f"p{item:04}", model.user_ids[user], rank + 1) for rank, user in enumerate(best)]
    assert [row[:3] for row in rows(table)] == expected
