"""Events: kept before they are acknowledged, kept once, and counted at once."""

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import gtcrec
from gtcrec.errors import ConfigError, WriteError
from gtcrec.serving.http.events import Event, EventLog, KeyInUseError, NewItem, VariantCounts


@pytest.fixture
def log(tmp_path):
    with EventLog(tmp_path / "events.db") as opened:
        yield opened


def ids_of(answer):
    return [row["item"] for row in answer.json()["items"]]


def click(user, item, impression=""):
    return {"user": user, "item": item, "kind": "click", "impression": impression}


def test_events_of_many_threads_get_distinct_ids_and_are_all_kept(log):
    found = []

    def write(name):
        for number in range(20):
            found.extend(log.append([Event(name, f"p{number}", "click"), Event(name, f"q{number}", "like")]))

    threads = [threading.Thread(target=write, args=(f"u{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 321))
    assert len(log.user_items("u3")) == 40


def test_events_under_a_known_key_are_kept_once(log):
    first = log.append([Event("ann", "p1", "click"), Event("ann", "p2", "click")], key="one")
    assert log.append([Event("ann", "p1", "click"), Event("ann", "p2", "click")], key="one") == first
    assert log.append([Event("bob", "p1", "click")]) == [3]
    with pytest.raises(KeyInUseError, match="'one' came with other events"):
        log.append([Event("ann", "p9", "click")], key="one")


def test_what_was_kept_is_there_after_a_restart(tmp_path):
    with EventLog(tmp_path / "events.db") as log:
        log.append([Event("ann", "p2", "click"), Event("ann", "p1", "dismiss")])
        log.append_items([NewItem("new", {"text": [1.0, 0.5]})])
        log.count_shown("a", "ann")
    with EventLog(tmp_path / "events.db") as log:
        assert log.user_items("ann") == ["p2", "p1"]
        assert log.user_items("ann", basket=True) == ["p2"]
        assert log.items() == [NewItem("new", {"text": [1.0, 0.5]})]
        assert log.click_through() == {"a": VariantCounts(1, 1, 0, (1, 0, 0))}


def test_each_list_counts_its_first_click_alone(log):
    for user, lists in (("ann", 3), ("bob", 1)):
        for _ in range(lists):
            log.count_shown("a", user)
    log.append([Event("ann", "p1", "click", "a-1"), Event("ann", "p2", "click", "a-1"), Event("ann", "p1", "like")])
    log.append([Event("ann", "p3", "click", "a-2"), Event("bob", "p3", "purchase", "a-3")])
    assert log.click_through() == {"a": VariantCounts(2, 4, 2, (10, 6, 4))}


def test_a_file_of_another_kind_is_refused_by_name(tmp_path):
    (tmp_path / "events.db").write_bytes(b"not a database, but long enough to be looked at" * 40)
    with pytest.raises(ConfigError, match=r"events\.db: file is not a database"):
        EventLog(tmp_path / "events.db")


def test_events_that_the_disk_refuses_are_not_acknowledged_and_later_ones_are(log):
    log._writer.execute("PRAGMA max_page_count = 1")
    with pytest.raises(WriteError, match="full"):
        log.append([Event("ann", "p" * 1000, "click") for _ in range(100)])
    log._writer.execute("PRAGMA max_page_count = 1000000")
    assert len(log.append([Event("ann", "p1", "click")])) == 1
    assert log.user_items("ann") == ["p1"]


def test_a_clicked_item_leaves_the_list_at_once(serve, ease):
    client = serve(ease)
    before = client.get("/v1/recommend/u0001?n=6").json()
    first = before["items"][0]["item"]
    answer = client.post("/v1/events", json={"events": [click("u0001", first, before["impression"])]})
    assert answer.json() == {"ids": [1]}
    assert ids_of(client.get("/v1/recommend/u0001?n=5")) == [row["item"] for row in before["items"][1:]]


def test_a_new_user_is_answered_by_the_items_of_their_events(serve, ease):
    client, model = serve(ease), gtcrec.Recommender.load(ease)
    assert client.get("/v1/recommend/ann").status_code == 404
    client.post(
        "/v1/events", json={"events": [click("ann", "p0003"), click("ann", "unheard of"), click("ann", "p0007")]}
    )
    expected = model.recommend(history=["p0003", "p0007"], k=5)["item_id"].to_pylist()
    assert ids_of(client.get("/v1/recommend/ann?n=5")) == expected


def test_a_new_user_of_a_model_without_fold_in_is_not_found(serve, bpr):
    client = serve(bpr)
    client.post("/v1/events", json={"events": [click("ann", "p0003")]})
    answer = client.get("/v1/recommend/ann")
    assert answer.status_code == 404
    assert "bpr cannot score users whom the training did not have" in answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"events": []}, 422),
        ({"events": [{"user": "ann", "item": "p1"}]}, 422),
        ({"events": [{"user": "ann", "item": "p1", "kind": "stare"}]}, 422),
        ({"events": [click("ann", "p1", "b-or-not-b")]}, 422),
        ({"events": [{**click("ann", "p1"), "time": -1}]}, 422),
        ({"events": [click("ann", "p1")] * 4}, 422),
    ],
)
def test_wrong_events_are_refused_and_none_is_kept(serve, ease, body, status):
    client = serve(ease, max_batch=3)
    assert client.post("/v1/events", json=body).status_code == status
    assert client.app.state.events.user_items("ann") == []


def test_another_body_under_a_known_key_is_a_conflict(serve, ease):
    client = serve(ease)
    body = {"events": [click("ann", "p0001")], "idempotency_key": "one"}
    assert [client.post("/v1/events", json=body).json() for _ in range(2)] == [{"ids": [1]}] * 2
    assert client.post("/v1/events", json={**body, "events": [click("ann", "p0002")]}).status_code == 409


def test_an_added_item_is_listed_and_stays_after_a_restart(serve, save_model, catalog):
    run = save_model("gtc", embedding_dim=8)
    content = {m: np.ones(x.shape[1]).tolist() for m, x in catalog.features.values.items()}
    for _ in range(2):
        client = serve(run)
        if "new" not in client.app.state.variants[0].live.current().lists.items:
            answer = client.post("/v1/items", json={"items": [{"item": "new", "content": content}]})
            assert answer.json()["versions"]["a"].endswith("+1")
        listed = client.post("/v1/recommend", json={"users": ["u0001"], "items": ["new"]}).json()["answers"][0]
        assert [row["item"] for row in listed["items"]] == ["new"]
        assert listed["version"].endswith("+1")
    again = client.post("/v1/items", json={"items": [{"item": "new", "content": content}]})
    assert (again.status_code, "known already" in again.json()["message"]) == (422, True)


def test_a_model_that_cannot_score_new_items_says_so(serve, ease):
    answer = serve(ease).post("/v1/items", json={"items": [{"item": "new", "content": {}}]})
    assert answer.status_code == 422
    assert answer.json()["message"] == "ease cannot score items that came after training"


def acknowledged_through_kills(folder: Path, kills: int) -> tuple[set[str], set[str]]:
    """Post from a process that is killed at random moments; return the items acknowledged, and those kept."""
    rng, told = random.Random(0), set()
    for number in range(kills):
        command = [sys.executable, str(Path(__file__).with_name("posting_process.py")), str(folder), str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            lines = iter(process.stdout.readline, "")
            assert next(lines) == "ready\n"
            timer = threading.Timer(rng.uniform(0.0, 0.3), process.kill)
            timer.start()
            told.update(line.rstrip("\n") for line in lines if line.endswith("\n"))
            timer.join()
    with EventLog(folder / "events.db") as log:
        return told, set(log.user_items("ann"))


def test_every_acknowledged_event_is_there_after_three_kills(tmp_path):
    told, kept = acknowledged_through_kills(tmp_path, 3)
    assert told
    assert told <= kept


@pytest.mark.slow
def test_every_acknowledged_event_is_there_after_100_kills(tmp_path):
    told, kept = acknowledged_through_kills(tmp_path, 100)
    assert len(told) > 1000
    assert told <= kept


def test_events_of_one_server_count_at_once_in_another_with_the_same_file(serve, ease):
    """So do those of one worker in the others: they share nothing but the file."""
    one, other = serve(ease), serve(ease)
    for user in ("u0001", "u0002", "ann"):
        for name in ("p0003", "p0004"):
            other.get(f"/v1/recommend/{user}")
            body = {"events": [{"user": user, "item": name, "kind": "click"}], "idempotency_key": f"{user}{name}"}
            assert one.post("/v1/events", json=body).json() == other.post("/v1/events", json=body).json()
            lists = [client.get(f"/v1/recommend/{user}?n=40").json() for client in (one, other)]
            items = [[row["item"] for row in answer["items"]] for answer in lists]
            assert name not in items[0]
            assert items[0] == items[1]


def test_items_added_to_one_server_are_followed_by_another(serve, save_model, catalog):
    run = save_model("gtc", embedding_dim=8, seed=3)
    one, other = serve(run), serve(run, reload_seconds=0.05)
    content = {m: catalog.features.values[m][3].tolist() for m in catalog.features.names}
    added = one.post("/v1/items", json={"items": [{"item": "new", "content": content}]}).json()["versions"]
    while other.get("/health/ready").json()["versions"] != added:
        time.sleep(0.02)
    lists = [client.get("/v1/recommend/u0001?n=41").json()["items"] for client in (one, other)]
    assert "new" in [row["item"] for row in lists[1]]
    assert [row["item"] for row in lists[0]] == [row["item"] for row in lists[1]]
