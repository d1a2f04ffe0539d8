"""The API as a client meets it: lists, filters, errors, health."""

import pyarrow.compute as pc
import pytest

import gtcrec


def ids_of(answer):
    return [row["item"] for row in answer.json()["items"]]


def test_a_list_equals_recommend_and_names_version_and_impression(serve, ease):
    client, model = serve(ease), gtcrec.Recommender.load(ease)
    answer = client.get("/v1/recommend/u0001?n=7")
    expected = model.recommend(k=7).filter(pc.field("user_id") == "u0001")
    assert answer.status_code == 200
    assert ids_of(answer) == expected["item_id"].to_pylist()
    assert [row["score"] for row in answer.json()["items"]] == expected["score"].to_pylist()
    assert [row["rank"] for row in answer.json()["items"]] == list(range(1, 8))
    ready = client.get("/health/ready").json()
    assert answer.json()["version"] == ready["versions"]["a"]
    assert answer.json()["impression"].startswith("a-")
    assert answer.json()["impression"] != client.get("/v1/recommend/u0001?n=7").json()["impression"]


def test_k_is_another_name_of_n_and_pages_join(serve, ease):
    client = serve(ease)
    whole = ids_of(client.get("/v1/recommend/u0001?k=12"))
    pages = [ids_of(client.get(f"/v1/recommend/u0001?n=4&offset={start}")) for start in (0, 4, 8)]
    assert [item for page in pages for item in page] == whole
    assert client.get("/v1/recommend/u0001?n=4&offset=4").json()["items"][0]["rank"] == 5


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("/v1/recommend/nobody", 404, "user 'nobody' is not known"),
        ("/v1/similar/nothing", 404, "item 'nothing' is not known"),
        ("/v1/recommend/u0001?n=0", 422, "query.n: Input should be greater than or equal to 1"),
        ("/v1/recommend/u0001?n=x", 422, "query.n: Input should be a valid integer"),
        ("/v1/recommend/u0001?n=1001", 422, "n must be at most 1,000, found 1,001"),
        ("/v1/recommend/u0001?n=3&k=4", 422, "n and k are one setting, found 3 and 4"),
        ("/v1/nowhere", 404, "Not Found"),
    ],
)
def test_a_wrong_request_is_answered_by_one_message(serve, ease, address, status, message):
    answer = serve(ease).get(address)
    assert answer.status_code == status
    assert list(answer.json()) == ["message"]
    assert message in answer.json()["message"]


def test_a_basket_gets_the_list_of_its_history(serve, ease):
    client, model = serve(ease), gtcrec.Recommender.load(ease)
    answer = client.post("/v1/recommend", json={"history": ["p0003", "p0007"], "n": 5})
    expected = model.recommend(history=["p0003", "p0007"], k=5)["item_id"].to_pylist()
    assert [row["item"] for row in answer.json()["answers"][0]["items"]] == expected
    assert answer.json()["answers"][0]["user"] is None


def test_several_users_are_answered_in_their_order(serve, ease):
    client = serve(ease)
    answers = client.post("/v1/recommend", json={"users": ["u0002", "u0001"], "n": 3}).json()["answers"]
    assert [one["user"] for one in answers] == ["u0002", "u0001"]
    assert [row["item"] for row in answers[1]["items"]] == ids_of(client.get("/v1/recommend/u0001?n=3"))


def test_candidates_are_the_only_items_and_excluded_ones_never_come(serve, ease):
    client = serve(ease)
    best = ids_of(client.get("/v1/recommend/u0001?n=6"))
    only = client.post("/v1/recommend", json={"users": ["u0001"], "items": best[2:5], "n": 10}).json()
    assert [row["item"] for row in only["answers"][0]["items"]] == best[2:5]
    rest = client.post("/v1/recommend", json={"users": ["u0001"], "exclude": best[:2], "n": 4}).json()
    assert [row["item"] for row in rest["answers"][0]["items"]] == best[2:6]
    wrong = client.post("/v1/recommend", json={"users": ["u0001"], "exclude": ["nothing"]})
    assert (wrong.status_code, "nothing" in wrong.json()["message"]) == (422, True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "expected either users or history"),
        ({"users": ["u0001"], "history": ["p0003"]}, "expected either users or history"),
        ({"users": ["u0001"], "number": 3}, "body.number: Extra inputs are not permitted"),
        ({"users": ["u0001"], "n": "3"}, "body.n: Input should be a valid integer"),
        ({"users": ["u0001"] * 6}, "users: at most 5 ids, found 6"),
        ({"history": ["p0003"] * 9}, "history: at most 8 ids, found 9"),
        ({"history": ["nothing"]}, "nothing"),
        ({"history": ["p0003"], "explain": True}, "explain needs a user of the training"),
    ],
)
def test_a_wrong_body_is_refused(serve, ease, body, message):
    answer = serve(ease, max_batch=5, max_candidates=8).post("/v1/recommend", json=body)
    assert answer.status_code == 422
    assert message in answer.json()["message"]


def test_a_body_over_the_limit_is_refused_before_it_is_read(serve, ease):
    client = serve(ease, max_body=1000)
    answer = client.post("/v1/recommend", json={"history": ["p0003" * 500]})
    assert answer.status_code == 413
    assert answer.json() == {"message": "the body must have at most 1,000 bytes"}


def test_a_body_without_a_length_is_cut_off_at_the_limit(serve, ease):
    client = serve(ease, max_body=1000)
    parts = iter([b'{"history": ["', b"p" * 2000, b'"]}'])
    answer = client.post("/v1/recommend", content=parts, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()) == (413, {"message": "the body must have at most 1,000 bytes"})


def test_similar_items_equal_those_of_the_library(serve, ease):
    model = gtcrec.Recommender.load(ease)
    answer = serve(ease).get("/v1/similar/p0003?n=4").json()
    assert [row["item"] for row in answer["items"]] == model.similar_items("p0003", k=4)["similar_item_id"].to_pylist()


def test_an_explanation_comes_only_when_asked_for(serve, ease):
    client = serve(ease)
    assert "explanation" not in client.get("/v1/recommend/u0001?n=2").json()["items"][0]
    row = client.get("/v1/recommend/u0001?n=2&explain=true").json()["items"][0]
    assert row["explanation"]["item"] == row["item"]
    assert row["explanation"]["score"] == pytest.approx(row["score"], abs=1e-5)


def test_a_model_without_fold_in_refuses_a_basket_in_words(serve, bpr):
    answer = serve(bpr).post("/v1/recommend", json={"history": ["p0003"]})
    assert answer.status_code == 422
    assert answer.json()["message"] == "bpr cannot score users whom the training did not have"


@pytest.mark.parametrize("user", ["u0001", "u0050"])
@pytest.mark.parametrize(("n", "offset"), [(3, 0), (10, 0), (3, 4)])
def test_lists_beyond_the_ready_ones_are_computed(serve, ease, user, n, offset):
    client, model = serve(ease, ready_items=5, ready_users=3), gtcrec.Recommender.load(ease)
    expected = model.recommend(user, k=n + offset)["item_id"].to_pylist()[offset:]
    assert ids_of(client.get(f"/v1/recommend/{user}?n={n}&offset={offset}")) == expected


def test_health_and_metrics_say_what_answered(serve, ease):
    client = serve(ease)
    version = client.get("/health/ready").json()["versions"]["a"]
    assert client.get("/health/live").json() == {"status": "live"}
    client.get("/v1/recommend/u0001")
    client.get("/v1/recommend/nobody")
    text = client.get("/metrics").text
    assert 'gtcrec_requests_total{route="/v1/recommend/{user:path}",status="200"} 1.0' in text
    assert 'gtcrec_requests_total{route="/v1/recommend/{user:path}",status="404"} 1.0' in text
    assert f'gtcrec_model{{variant="a",version="{version}"}} 1.0' in text


def test_the_description_of_the_api_names_every_address(serve, ease):
    paths = serve(ease).get("/openapi.json").json()["paths"]
    assert {"/v1/recommend", "/v1/recommend/{user}", "/v1/similar/{item}", "/v1/events", "/v1/items"} <= set(paths)
