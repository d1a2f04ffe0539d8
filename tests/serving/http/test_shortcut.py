"""The short way gives the answers of the application, and leaves the rest to it."""

import pytest

from gtcrec.serving.http.answers import Answering


def without_impression(answer):
    body = answer.json()
    assert body.pop("impression").startswith("a-")
    return answer.status_code, answer.headers["content-type"], list(body.items())


def asked(client, address, monkeypatch, short):
    """Return the answer to an address, and whether a ready list gave it."""
    given, known = [], Answering.ready_answer
    with monkeypatch.context() as patch:
        patch.setattr(
            Answering, "ready_answer", lambda *words: given.append(known(*words) if short else None) or given[-1]
        )
        answer = client.get(address)
    return answer, bool(given and given[0])


@pytest.mark.parametrize("query", ["", "?n=3", "?k=7", "?n=9"])
def test_the_short_way_gives_the_answer_of_the_application(serve, ease, monkeypatch, query):
    client = serve(ease, ready_items=20)
    client.post("/v1/events", json={"events": [{"user": "u0002", "item": "p0003", "kind": "dismiss"}]})
    for user in ("u0001", "u0002"):
        short, was_short = asked(client, f"/v1/recommend/{user}{query}", monkeypatch, short=True)
        long, was_long = asked(client, f"/v1/recommend/{user}{query}", monkeypatch, short=False)
        assert (was_short, was_long) == (True, False)
        assert without_impression(short) == without_impression(long)


@pytest.mark.parametrize(
    "address",
    [
        "u0001?n=0",
        "u0001?n=2&offset=1",
        "u0001?n=2&n=3",
        "u0001?n=1001",
        "u0001?where=price<50",
        "nobody",
        "u0001?n=30",
    ],
)
def test_all_else_is_left_to_the_application(serve, ease, monkeypatch, address):
    _, was_short = asked(serve(ease, ready_items=20), f"/v1/recommend/{address}", monkeypatch, short=True)
    assert not was_short


def test_lists_of_the_short_way_are_counted_and_measured(serve, ease):
    client = serve(ease)
    client.get("/v1/recommend/u0001")
    (variant,) = client.get("/v1/experiments").json()["variants"]
    assert variant["lists"] == 1
    line = 'gtcrec_requests_total{route="/v1/recommend/{user:path}",status="200"} 1.0'
    assert line in client.get("/metrics").text
