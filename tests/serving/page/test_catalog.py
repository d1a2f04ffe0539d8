"""Cards, facts and search."""

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

import gtcrec
from gtcrec.serving.page.catalog import Catalog


@pytest.fixture(scope="module")
def catalog(shop: Path) -> Catalog:
    folder = shop / "runs" / "gtc"
    return Catalog(SimpleNamespace(recommender=gtcrec.Recommender.load(folder), folder=folder))


def test_search_is_blind_to_case_and_begins_with_what_begins_so(catalog: Catalog) -> None:
    assert catalog.find_users("U000", 3) == ["u0000", "u0001", "u0002"]
    word = catalog.titles[7].split()[-1]
    found = catalog.find_items(word.upper(), 5)
    assert found
    assert all(word in catalog.card(item).title for item in found)
    assert catalog.find_items("p0007", 5) == ["p0007"]
    assert catalog.find_items("(", 5) == []


def test_cards_show_short_columns_and_tiles_stand_for_missing_pictures(catalog: Catalog, shop: Path) -> None:
    with_picture = catalog.card("p0003")
    assert with_picture.picture
    assert with_picture.facts == tuple(value for _, value in catalog.facts("p0003")[1:3])
    without = next(item for item in catalog.item_ids if not (shop / "shop" / "images" / f"{item}.png").exists())
    card = catalog.card(without)
    assert (card.picture, len(card.letters)) == (False, 2)
    assert catalog.card("unknown").title == "unknown"
    assert catalog.facts("unknown") == []


def test_the_example_is_a_filter_that_some_items_pass(catalog: Catalog, shop: Path) -> None:
    model = gtcrec.Recommender.load(shop / "runs" / "gtc")
    passed = model.recommend("u0003", k=50, exclude_seen=False, where=catalog.example_filter)
    assert 0 < passed.num_rows < 50
    texts = pa.table({"item_id": ["a", "b", "c"], "maker": ["O'Neil", "O'Neil", "Ann"]})
    recommender = SimpleNamespace(item_columns=texts, item_ids=["a", "b", "c"], user_ids=[])
    assert Catalog(SimpleNamespace(recommender=recommender, folder=shop)).example_filter == "maker = 'O''Neil'"


def test_histories_are_those_of_training(catalog: Catalog, shop: Path) -> None:
    model = gtcrec.Recommender.load(shop / "runs" / "gtc")
    seen = catalog.history("u0003")
    assert seen
    assert not set(seen) & set(model.recommend("u0003", k=50)["item_id"].to_pylist())
    assert catalog.history("nobody") == []
    counts = model.interactions.item_counts
    assert counts[catalog.item_ids.index(catalog.popular_items(1)[0])] == counts.max()
