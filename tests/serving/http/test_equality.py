"""Whatever is asked in whatever order, an answer equals the library's for the events so far."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

import gtcrec
from gtcrec.errors import RunError
from gtcrec.serving.http import ServerConfig, create_app

USERS = [f"u{number:04d}" for number in range(0, 60, 7)]
ITEMS = [f"p{number:04d}" for number in range(40)]
NEW_USERS = ["ann", "bob"]

asked = st.fixed_dictionaries(
    {"n": st.integers(1, 45)},
    optional={
        "offset": st.integers(0, 45),
        "where": st.sampled_from(["price < 25", "kind != 'mug'", "price < 25 and not title like '%a%'"]),
        "items": st.lists(st.sampled_from(ITEMS), min_size=1, max_size=8, unique=True),
        "exclude": st.lists(st.sampled_from(ITEMS), max_size=8, unique=True),
        "exclude_seen": st.booleans(),
        "diversity": st.sampled_from([0.0, 0.3]),
    },
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from([*USERS, *NEW_USERS]), asked),
        st.tuples(st.just("basket"), st.lists(st.sampled_from(ITEMS), min_size=1, max_size=6, unique=True), asked),
        st.tuples(st.sampled_from(["click", "dismiss"]), st.sampled_from([*USERS, *NEW_USERS]), st.sampled_from(ITEMS)),
    ),
    min_size=1,
    max_size=12,
)


def expected_list(model, kind, who, asked, events):
    """The library's list for a user of the training, or for the items of one who came later; None if it has none."""
    options = {name: value for name, value in asked.items() if name != "n"}
    if kind == "basket":
        return model.recommend(history=who, k=asked["n"], **options)
    seen = [item for _, item in events.get(who, [])] if asked.get("exclude_seen", True) else []
    options["exclude"] = [*seen, *asked.get("exclude", [])] or None
    if who in USERS:
        return model.recommend(who, k=asked["n"], **options)
    basket = list(dict.fromkeys(item for kind, item in events.get(who, []) if kind != "dismiss"))
    return model.recommend(history=basket, k=asked["n"], **options) if basket else None


def follow(client, model, steps):
    """Do one step after the other, and compare each answer with the library's."""
    events = {}
    for kind, who, what in steps:
        if kind in ("click", "dismiss"):
            body = {"events": [{"user": who, "item": what, "kind": kind}]}
            assert client.post("/v1/events", json=body).status_code == 200
            events.setdefault(who, []).append((kind, what))
            continue
        whose = {"history": who} if kind == "basket" else {"users": [who]}
        answer = client.post("/v1/recommend", json={**whose, **what})
        try:
            expected = expected_list(model, kind, who, what, events)
        except RunError:  # the model cannot score new users
            expected = None
        if expected is None:
            assert answer.status_code == (422 if kind == "basket" else 404)
            continue
        rows = answer.json()["answers"][0]["items"]
        assert [row["item"] for row in rows] == expected["item_id"].to_pylist()
        assert [row["rank"] for row in rows] == expected["rank"].to_pylist()
        assert [row["score"] for row in rows] == pytest.approx(expected["score"].to_pylist(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", ["ease", "itemknn", "popular", "gtc", "bpr"])
def test_every_answer_equals_recommend_after_the_same_events(save_model, name, tmp_path):
    run = save_model(name, **({"embedding_dim": 8} if name in ("gtc", "bpr") else {}))
    model, number = gtcrec.Recommender.load(run), itertools.count()

    @settings(max_examples=15, deadline=None)
    @given(steps)
    def check(steps):
        config = ServerConfig(run, events=tmp_path / f"{next(number)}.db", ready_items=9, reload_seconds=0)
        with TestClient(create_app(config), base_url="http://127.0.0.1") as client:
            follow(client, model, steps)

    check()
