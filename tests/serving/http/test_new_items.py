"""Items posted by their columns: encoded as the training's content was, files of one folder alone."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

import gtcrec
from gtcrec.serving.http.events import NewItem
from gtcrec.serving.http.live import LiveRun
from gtcrec.serving.new_items import add_items_to_folder
from helpers.growing_shop import NEW, build_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with a run `l3ae` of the items but three, which `new.csv` holds; `outside.png` lies beside it."""
    shop = build_shop(tmp_path_factory.mktemp("posted") / "shop")
    shutil.copy(shop / "images" / "p0001.png", shop.parent / "outside.png")
    return shop


def new_rows(shop: Path) -> list[dict[str, object]]:
    """The items of new.csv as a client posts them: prices are numbers."""
    with (shop / "new.csv").open(newline="") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    return [{"item": row.pop("sku"), "columns": row | {"price": float(row["price"])}} for row in rows]


def answering(client):
    return client.app.state.variants[0].live.current().recommender


def test_posted_columns_are_encoded_as_those_of_items_add(serve, shop, tmp_path):
    client = serve(shop / "l3ae", images=shop)
    answer = client.post("/v1/items", json={"items": new_rows(shop)})
    assert (answer.status_code, answer.json()["unread"]) == (200, {"a": []})
    assert answer.json()["versions"]["a"].endswith("+3")
    shutil.copytree(shop / "l3ae", tmp_path / "run")
    add_items_to_folder(tmp_path / "run", shop / "new.csv")
    expected, found = gtcrec.Recommender.load(tmp_path / "run"), answering(client)
    for name, x in expected.bundle.features.values.items():
        assert np.array_equal(found.bundle.features.values[name], x)
        assert found.bundle.features.present[name][-3:].all()
    assert found.item_columns.equals(expected.item_columns)
    assert np.array_equal(found.score("u0001", NEW), expected.score("u0001", NEW))


def test_posted_columns_can_be_filtered_by_and_stay_after_a_restart(serve, shop):
    one = new_rows(shop)[0]
    where = f"title = '{one['columns']['name']}'"
    for place in range(2):
        client = serve(shop / "l3ae", images=shop)
        if place == 0:
            assert client.post("/v1/items", json={"items": [one]}).status_code == 200
        asked = {"users": ["u0001"], "where": where, "items": [one["item"]]}
        listed = client.post("/v1/recommend", json=asked).json()["answers"][0]
        assert [row["item"] for row in listed["items"]] == [one["item"]]
        assert answering(client).bundle.features.present["image"][-1]


def test_an_item_whose_picture_has_gone_is_still_known_after_a_restart(serve, shop):
    shutil.copy(shop / "images" / "p0001.png", shop / "images" / "brief.png")
    row = {"item": "brief", "columns": {"picture": "images/brief.png", "kind": "mug", "shape": "star"}}
    assert serve(shop / "l3ae", images=shop).post("/v1/items", json={"items": [row]}).status_code == 200
    (shop / "images" / "brief.png").unlink()
    for images in (shop, shop / "images", None):
        present = answering(serve(shop / "l3ae", images=images)).bundle.features.present
        assert (present["category"][-1], present["image"][-1]) == (True, False)


@pytest.mark.parametrize(
    "path",
    ["../outside.png", "images/../../outside.png", "{shop}/../outside.png", "link.png", "images/none.png", "a\0b"],
)
@pytest.mark.parametrize("column", ["picture", "image"])
def test_a_file_outside_the_folder_of_images_is_refused(serve, shop, column, path):
    if not (shop / "link.png").is_symlink():
        (shop / "link.png").symlink_to(shop.parent / "outside.png")
    client = serve(shop / "l3ae", images=shop)
    good, bad = new_rows(shop)[0], {"item": "bad", "columns": {column: path.format(shop=shop)}}
    answer = client.post("/v1/items", json={"items": [good, bad]})
    assert answer.status_code == 422
    said = f"item 'bad': column '{column}': expected the path of a file in the folder --images, found "
    assert answer.json()["message"].startswith(said)
    assert good["item"] not in answering(client).item_ids


def test_without_a_folder_of_images_no_file_is_read(serve, shop):
    answer = serve(shop / "l3ae").post("/v1/items", json={"items": new_rows(shop)[:1]})
    assert answer.status_code == 422
    assert answer.json()["message"] == (
        "item 'p0047': column 'picture' names a file: the server reads files of the folder --images alone, and has none"
    )


def test_content_that_cannot_be_read_is_told_and_the_item_is_known_without(serve, shop):
    (shop / "images" / "text.png").write_text("no image")
    row = {"item": "odd", "columns": {"picture": "images/text.png", "price": "much", "kind": ["mug"]}}
    client = serve(shop / "l3ae", images=shop)
    image, numbers = client.post("/v1/items", json={"items": [row]}).json()["unread"]["a"]
    assert image.startswith("image of item 'odd': not an image of a known kind")
    assert numbers == "numbers of item 'odd': price is not a number: 'much'"
    present = answering(client).bundle.features.present
    assert [bool(present[name][-1]) for name in ("category", "image", "numbers")] == [True, False, False]


def test_items_by_content_and_by_columns_come_in_one_request(serve, shop):
    client = serve(shop / "l3ae", images=shop)
    features = answering(client).bundle.features
    vectors = {name: x[0].tolist() for name, x in features.values.items()}
    both = {"item": "both", "content": {"image": vectors["image"]}, "columns": {"kind": "mug", "price": 3}}
    rows = [new_rows(shop)[0], {"item": "plain", "content": vectors}, both]
    assert client.post("/v1/items", json={"items": rows}).status_code == 200
    found = answering(client)
    assert set(found.item_ids[-3:]) == {"p0047", "plain", "both"}
    place = found.item_ids.index("both")
    assert np.array_equal(found.bundle.features.values["image"][place], features.values["image"][0])
    assert found.bundle.features.present["category"][place]


def test_an_item_that_does_not_fit_a_run_keeps_no_other_out_of_it(shop, caplog):
    """Such as one that another variant took, or one added under a run of other columns."""
    kept = [NewItem(f"x{place}", {}, {"kind": "mug"}) for place in range(7)]
    kept[4] = NewItem("x4", {"image": [1.0, 2.0]}, {"kind": "mug"})
    live = LiveRun(shop / "l3ae", new_items=lambda: kept)
    assert set(live.current().recommender.item_ids[-6:]) == {"x0", "x1", "x2", "x3", "x5", "x6"}
    assert live.current().version.endswith("+6")
    assert "1 added items are left out: image: expected finite numbers" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"item": "x"}, "expected content of category, image, numbers, found none"),
        (
            {"item": "x", "columns": {"price": ["3"]}},
            "item 'x': column 'price' must hold a number or text, found a list",
        ),
        (
            {"item": "x", "columns": {"picture": 3}},
            "item 'x': column 'picture': expected the path of a file, found '3'",
        ),
        ({"item": "p0001", "columns": {"kind": "mug"}}, "item 'p0001' is known already"),
    ],
)
def test_a_faulty_item_is_refused(serve, shop, row, message):
    client = serve(shop / "l3ae", images=shop)
    answer = client.post("/v1/items", json={"items": [row]})
    assert (answer.status_code, message in answer.json()["message"]) == (422, True), answer.json()
    assert client.app.state.events.items() == []


def test_an_item_that_stands_twice_is_refused(serve, shop):
    rows = [{"item": "x", "columns": {"kind": "mug"}}] * 2
    answer = serve(shop / "l3ae").post("/v1/items", json={"items": rows})
    assert (answer.status_code, answer.json()["message"]) == (422, "item 'x' stands twice")


def test_the_page_shows_the_picture_of_an_added_item(serve, shop, tmp_path):
    shutil.copytree(shop / "l3ae", tmp_path / "run")
    posted, *_ = new_rows(shop)
    with (shop / "new.csv").open() as file:
        header, *lines = file.read().splitlines()
    (shop / "later.csv").write_text("\n".join([header, *lines[1:]]) + "\n")
    add_items_to_folder(tmp_path / "run", shop / "later.csv")
    client = serve(tmp_path / "run", images=shop)
    assert client.get(f"/picture?id={posted['item']}").status_code == 404
    assert client.post("/v1/items", json={"items": [posted]}).status_code == 200
    for item in NEW:
        shown = client.get(f"/picture?id={item}")
        assert shown.content == (shop / "images" / f"{item}.png").read_bytes()
        assert f"/picture?id={item}" in client.get(f"/item?id={item}").text
    assert client.get("/picture?id=p0001").content == (shop / "images" / "p0001.png").read_bytes()  # of the data


@pytest.mark.parametrize(
    "columns",
    [r'{"title": "\ud800"}', r'{"\ud800": "x"}', '{"price": 1e999}', '{"kind": {"a": 1}}', '{"kind": [["a"]]}'],
)
def test_values_that_no_table_holds_are_refused(serve, shop, columns):
    client = serve(shop / "l3ae", images=shop)
    body = f'{{"items": [{{"item": "x", "columns": {columns}}}]}}'
    answer = client.post("/v1/items", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.json()
    assert client.app.state.events.items() == []


@pytest.mark.parametrize("columns", [{"": 1}, {"item_id": "../x", "sku": "y"}, {"price": 10**400}, {"kind": []}, {}])
def test_odd_columns_do_no_harm(serve, shop, columns):
    client = serve(shop / "l3ae", images=shop)
    answer = client.post("/v1/items", json={"items": [{"item": "x", "columns": columns}]})
    assert (answer.status_code, answering(client).item_ids[-1]) == (200, "x"), answer.json()
