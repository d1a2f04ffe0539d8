"""The pages as HTML: what they show, what they count, what they refuse, and what they may load."""

import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import gtcrec
from gtcrec.serving.http.experiments import assign
from gtcrec.types import ItemMetadata


def ids_of(page: str, part: str = "list") -> list[str]:
    """Return the items of one list of a page."""
    (listed,) = re.findall(rf'<ol class="\w+" id="{part}">(.*?)</ol>', page, re.DOTALL)
    return re.findall(r'data-id="([^"]+)"', listed)


@pytest.fixture
def client(serve: Any, shop: Path) -> Any:
    return serve(shop / "runs" / "gtc")


def test_the_list_of_a_page_is_that_of_recommend(client: Any, shop: Path) -> None:
    model = gtcrec.Recommender.load(shop / "runs" / "gtc")
    page = client.get("/user?id=u0003").text
    assert ids_of(page) == model.recommend("u0003", k=20)["item_id"].to_pylist()
    filtered = client.get("/user", params={"id": "u0003", "where": "price < 20"}).text
    assert ids_of(filtered, "changed") == model.recommend("u0003", k=20, where="price < 20")["item_id"].to_pylist()
    titles = model.titles_of(ids_of(page)[:3])
    assert all(html.escape(title) in page for title in titles)


def test_without_a_part_items_are_ordered_by_the_rest_of_their_scores(client: Any, shop: Path) -> None:
    model = gtcrec.Recommender.load(shop / "runs" / "gtc")
    unseen = model.recommend("u0003", k=50)["item_id"].to_pylist()
    rest = {
        one.item: one.score - sum(part.value for part in one.parts if part.view.endswith("image"))
        for one in model.explain("u0003", unseen)
    }
    expected = sorted(unseen, key=lambda item: -rest[item])[:20]
    assert ids_of(client.get("/user?id=u0003&off=image").text, "changed") == expected
    assert "never mentioned" not in client.get("/user?id=u0003&off=never+mentioned").text


def test_lists_side_by_side_count_for_no_run(client: Any) -> None:
    def shown() -> int:
        return client.get("/v1/experiments").json()["variants"][0]["lists"]

    client.get("/user?id=u0003&off=image")
    client.get("/user?id=u0003&where=price+%3C+20")
    client.get("/compare?user=u0003&other=u0004")
    assert shown() == 0
    page = client.get("/user?id=u0003").text
    assert shown() == 1
    impression = re.search(r'data-impression="(a-[0-9a-f]{24})"', page)
    assert impression
    event = {"user": "u0003", "item": ids_of(page)[0], "kind": "click", "impression": impression[1]}
    client.post("/v1/events", json={"events": [event]})
    assert '<dd data-figure="clicked">1</dd>' in client.get("/experiment").text
    assert ids_of(client.get("/user?id=u0003").text)[0] == ids_of(page)[1]


def test_a_filter_that_cannot_be_read_is_explained_beside_the_list(client: Any) -> None:
    page = client.get("/user?id=u0003&where=prize+%3C+5")
    assert page.status_code == 200
    assert "no column &#39;prize&#39; (did you mean &#39;price&#39;?)" in page.text
    assert len(ids_of(page.text)) == 20


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("/user?id=nobody", 404, "user &#39;nobody&#39; is not known"),
        ("/user", 422, "id: Field required"),
        ("/item?id=nothing", 404, "item &#39;nothing&#39; is not known"),
        ("/compare?user=u0001&run=z", 422, "expected one of a, found &#39;z&#39;"),
        ("/user?id=u0001&n=0", 422, "n: Input should be greater than or equal to 1"),
    ],
)
def test_an_error_is_a_page_in_words(client: Any, address: str, status: int, message: str) -> None:
    answer = client.get(address)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert message in answer.text


def test_pages_may_load_nothing_from_elsewhere_and_hold_no_script_or_style(client: Any) -> None:
    for path in ("/", "/user?id=u0003", "/item?id=p0003", "/compare?user=u0003", "/map", "/training", "/experiment"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=|https?://", answer.text)
        for address in re.findall(r'(?:src|href)="(/(?:static|picture)[^"]+)"', answer.text):
            assert client.get(html.unescape(address)).status_code == 200


def test_titles_are_text_and_never_markup(tmp_path: Path, serve: Any) -> None:
    catalog = gtcrec.data.make_catalog(n_users=30, n_items=25).dataset
    hostile = "<img src=x onerror=alert(1)>\"'"
    metadata = ItemMetadata((hostile,) * 25, (None,) * 25)
    saved = gtcrec.Recommender("itemknn").fit(replace(catalog, item_metadata=metadata)).save(tmp_path / "run")
    client = serve(saved)
    for path in ("/", "/user?id=u0003", "/item?id=p0003", "/search?q=<img", "/compare?user=u0003", "/map"):
        page = client.get(path).text
        assert "<img src=x" not in page
        assert html.escape(hostile, quote=False)[:20] in page
    points = client.get("/map/points")
    assert points.headers["content-type"] == "application/json"
    assert points.headers["x-content-type-options"] == "nosniff"


def test_pictures_are_found_by_id_alone(client: Any, shop: Path) -> None:
    answer = client.get("/picture?id=p0003")
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == (shop / "shop" / "images" / "p0003.png").read_bytes()
    for name in ("nothing", "../interactions.csv", "images/p0003.png", "/etc/passwd", "p0003\0"):
        assert client.get("/picture", params={"id": name}).status_code == 404


def test_static_files_are_those_of_the_package(client: Any) -> None:
    assert client.get("/static/page.css").headers["content-type"].startswith("text/css")
    for name in ("router.py", "..%2frouter.py", "nothing"):
        assert client.get(f"/static/{name}").status_code == 404


def test_the_page_of_the_api_has_its_own_files(client: Any) -> None:
    page = client.get("/docs")
    for address in re.findall(r'(?:src|href)="(/(?:static|docs)/[^"]+)"', page.text):
        assert client.get(address).status_code == 200
    assert "/docs/swagger-ui-bundle.js" in page.text
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert client.get("/docs/redoc.standalone.js").status_code == 404


def test_a_model_without_parts_says_so(serve: Any, tmp_path: Path) -> None:
    catalog = gtcrec.data.make_catalog(n_users=30, n_items=25).dataset
    client = serve(gtcrec.Recommender("ease").fit(catalog).save(tmp_path / "ease"))
    page = client.get("/user?id=u0003&off=image").text
    assert "ease gives whole scores: there is no part to switch off." in page
    assert 'role="switch"' not in page
    assert "similar by image alone" not in client.get("/item?id=p0003").text


def test_a_score_of_one_part_has_nothing_to_switch_off(serve: Any, shop: Path) -> None:
    page = serve(shop / "runs" / "bpr").get("/user?id=u0003&off=identity").text
    assert 'role="switch"' not in page
    assert 'id="changed"' not in page


def test_a_user_whom_events_alone_know_gets_a_page(serve: Any, tmp_path: Path) -> None:
    catalog = gtcrec.data.make_catalog(n_users=30, n_items=25).dataset
    client = serve(gtcrec.Recommender("ease").fit(catalog).save(tmp_path / "ease"))
    events = [{"user": "ann", "item": item, "kind": kind} for item, kind in (("p0003", "like"), ("p0005", "dismiss"))]
    client.post("/v1/events", json={"events": events})
    page = client.get("/user?id=ann").text
    assert "ann came after training" in page
    assert "since training" in page
    assert "Not for ann:" in page
    assert not {"p0003", "p0005"} & set(ids_of(page))


def test_two_runs_stand_side_by_side(serve: Any, shop: Path) -> None:
    client = serve(shop / "runs" / "gtc", variants=((shop / "runs" / "bpr", 0.4),))
    page = client.get("/compare?user=u0003&run=a&other_run=b").text
    rows = re.findall(r'data-key="side(\d):(\w+)"', page)
    for side, name in (("1", "gtc"), ("2", "bpr")):
        model = gtcrec.Recommender.load(shop / "runs" / name)
        assert [item for where, item in rows if where == side] == model.recommend("u0003", k=15)["item_id"].to_pylist()
    own = "b" if assign("u0003", [0.6, 0.4]) else "a"
    assert f"run {own}" in client.get("/user?id=u0003").text


def test_an_item_shows_its_columns_similar_items_and_users(client: Any, shop: Path) -> None:
    model = gtcrec.Recommender.load(shop / "runs" / "gtc")
    page = client.get("/item?id=p0003&view=image").text
    similar = model.similar_items("p0003", k=16, view="image")["similar_item_id"].to_pylist()
    assert re.findall(r'<li class="tile"><a href="/item\?id=(\w+)"', page) == similar
    for person in model.users_for("p0003", 8)["user_id"].to_pylist():
        assert f"/user?id={person}" in page
    assert "<dt>price</dt>" in page


def test_similar_takes_a_view_over_the_api_too(client: Any, shop: Path) -> None:
    model = gtcrec.Recommender.load(shop / "runs" / "gtc")
    found = client.get("/v1/similar/p0003?view=text&n=3").json()["items"]
    assert [one["item"] for one in found] == model.similar_items("p0003", k=3, view="text")[
        "similar_item_id"
    ].to_pylist()
    assert client.get("/v1/similar/p0003?view=sound").status_code == 422


def test_pages_stand_in_no_openapi_document(client: Any) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert "/v1/recommend/{user}" in paths
    assert not {"/", "/user", "/picture", "/map/points"} & set(paths)


def test_the_start_counts_what_the_training_had(client: Any, shop: Path) -> None:
    page = client.get("/").text
    pairs = len(gtcrec.Recommender.load(shop / "runs" / "gtc").interactions)
    assert f"gtc has read {pairs:,} choices of 60 people among" in page
    assert len(re.findall(r'href="/user\?id=', page)) == 8
