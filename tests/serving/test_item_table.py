"""The items table of a fitted recommender: kept when saved, grown by new items, optional in earlier folders."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gtcrec
from gtcrec.errors import DataError
from gtcrec.experiments.model_bundle import read_vectors
from gtcrec.runtime.files import write_manifest


@pytest.fixture(scope="module")
def catalog():
    return gtcrec.data.make_catalog(n_users=60, n_items=40, seed=0).dataset


@pytest.fixture(scope="module")
def fitted(catalog):
    return gtcrec.GTC(preset="embedding", embedding_dim=8, seed=1).fit(catalog, epochs=1, batch_size=256)


def test_the_items_table_starts_with_the_ids_and_survives_saving(fitted, catalog, tmp_path):
    expected = catalog.item_metadata.columns.add_column(0, "item_id", [fitted.item_ids])
    assert expected.column_names[:2] == ["item_id", "title"]
    assert "price" in expected.column_names
    assert fitted.item_columns.equals(expected)
    folder = fitted.save(tmp_path / "m")
    assert gtcrec.Recommender.load(folder).item_columns.equals(expected)
    assert read_vectors(folder).item_columns.equals(expected.drop_columns(["item_id"]))


def test_data_without_an_items_table_give_ids_alone():
    pairs = gtcrec.Interactions(np.array([0, 1, 10]), np.array([0, 1, 2]), 11, 3)
    model = gtcrec.Recommender("popular").fit(pairs)
    assert model.item_columns.to_pydict() == {"item_id": ["0", "1", "2"]}


def test_a_folder_that_has_titles_alone_still_answers(fitted, tmp_path):
    """As the folders of before filters, whose items.parquet has the columns item_id and title."""
    folder = fitted.save(tmp_path / "m")
    items = pq.read_table(folder / "items.parquet").select(["item_id", "title"])
    pq.write_table(items, folder / "items.parquet")
    write_manifest(folder, sorted(path.name for path in folder.iterdir() if path.name != "manifest.json"))
    again = gtcrec.Recommender.load(folder)
    assert again.item_columns.column_names == ["item_id", "title"]
    assert again.recommend("u0001", k=3).equals(fitted.recommend("u0001", k=3))
    pq.write_table(items.select(["item_id"]), folder / "items.parquet")
    write_manifest(folder, sorted(path.name for path in folder.iterdir() if path.name != "manifest.json"))
    assert gtcrec.Recommender.load(folder).item_columns.column_names == ["item_id"]


def test_new_items_bring_their_columns(fitted, catalog):
    width = {m: x.shape[1] for m, x in catalog.features.values.items()}
    model = gtcrec.GTC(preset="embedding", embedding_dim=8, seed=1).fit(catalog, epochs=1, batch_size=256)
    content = {m: np.ones((1, w)) for m, w in width.items()}
    model.add_items("new", content)
    model.add_items("newer", content, item_columns={"title": ["A new mug"], "price": [3]})
    table = model.item_columns.slice(40)
    assert table["item_id"].to_pylist() == ["new", "newer"]
    assert table["title"].to_pylist() == [None, "A new mug"]
    assert table["price"].to_pylist() == [None, 3.0]
    assert table["colour"].to_pylist() == [None, None]
    with pytest.raises(DataError, match="item columns: expected 1 rows, one a new item, found 2"):
        model.add_items("newest", content, item_columns=pa.table({"price": [1, 2]}))
    with pytest.raises(DataError, match="item columns: expected the types of the items table, found others"):
        model.add_items("newest", content, item_columns={"price": ["cheap"]})


def test_columns_of_new_items_make_a_table_where_there_was_none():
    pairs = gtcrec.Interactions(np.array([0, 1, 1]), np.array([0, 1, 2]), 2, 3)
    content = gtcrec.ItemFeatures(3, {"text": np.eye(3, dtype=np.float32)}, {"text": np.ones(3, dtype=bool)})
    model = gtcrec.Recommender("l3ae").fit(pairs, item_features=content)
    model.add_items(["3"], {"text": np.ones((1, 3))}, item_columns={"price": [5]})
    assert model.item_columns.to_pydict() == {"item_id": ["0", "1", "2", "3"], "price": [None, None, None, 5]}
