"""Columns of an items table: their types, and rows that belong to no item."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gtcrec.data import load
from gtcrec.data.filters import keep_k_core
from gtcrec.data.formats.export import write_mmrec
from gtcrec.data.formats.item_columns import read_item_columns
from gtcrec.data.formats.tables import read_table


def read(path, rows=(0, 1), key="id"):
    return read_item_columns(read_table(path), key, np.array(rows))


@pytest.mark.parametrize(
    ("cells", "expected", "kind"),
    [
        (("3", "-7"), [3, -7], pa.int64()),
        (("3", "9.50"), [3.0, 9.5], pa.float64()),
        (("1e3", ".5"), [1000.0, 0.5], pa.float64()),
        (("true", "False"), [True, False], pa.bool_()),
        (("007", "12"), ["007", "12"], pa.string()),
        (("3", "three"), ["3", "three"], pa.string()),
        (("nan", "inf"), ["nan", "inf"], pa.string()),
        (("4", " "), [4, None], pa.int64()),
        ((" ", ""), [None, None], pa.string()),
        (("9" * 18, "1"), [10**18 - 1, 1], pa.int64()),
        (("9" * 30, "1"), [1e30, 1.0], pa.float64()),
    ],
)
def test_text_becomes_numbers_if_all_of_it_is(tmp_path, cells, expected, kind):
    file = tmp_path / "items.csv"
    file.write_text("id,x\n" + "".join(f'{place},"{cell}"\n' for place, cell in enumerate(cells)))
    columns, notes = read(file)
    assert columns["x"].to_pylist() == expected
    assert columns.schema.field("x").type == kind
    assert notes == {}


def test_titles_and_images_stay_text(tmp_path):
    (tmp_path / "items.csv").write_text("id,title,image\n1,1984,7\n2,2001,8\n")
    assert read(tmp_path / "items.csv")[0].to_pydict() == {"title": ["1984", "2001"], "image": ["7", "8"]}


def test_parquet_keeps_its_types_and_joins_lists(tmp_path):
    day = datetime.date(2024, 5, 1)
    table = {
        "id": [1, 2], "code": ["12", "13"], "tags": [["a", "b"], None], "day": [day, None],
        "price": [1.5, float("nan")],
        "kind": pa.array(["x", ""]).dictionary_encode(), "raw": [b"x", b"y"], "nested": [{"a": 1}, None],
        "bad": pa.array([b"\xff", b"x"]).view(pa.string()),
    }  # fmt: skip
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    columns, notes = read(tmp_path / "items.parquet")
    assert columns.to_pydict() == {
        "code": ["12", "13"],
        "tags": ["a|b", None],
        "day": [day, None],
        "price": [1.5, None],
        "kind": ["x", None],
    }
    assert notes == {
        "items.parquet: column 'raw' left out, binary": 2,
        "items.parquet: column 'nested' left out, struct<a: int64>": 2,
        "items.parquet: column 'bad' left out, string": 2,
    }


def test_rows_follow_the_items_and_an_item_without_one_has_nulls(tmp_path):
    (tmp_path / "items.csv").write_text("id,price\na,1\nb,2\n")
    assert read(tmp_path / "items.csv", rows=(1, -1, 0))[0].to_pydict() == {"price": [2, None, 1]}


def test_columns_survive_the_k_core_and_an_export(tmp_path):
    (tmp_path / "interactions.csv").write_text("user,item\n" + "".join(f"u{u},i{i}\n" for u in "ab" for i in (2, 0)))
    (tmp_path / "items.csv").write_text("item,price,stock\ni1,5,true\ni0,3,false\ni2,8,true\n")
    data = load(tmp_path)
    assert data.item_metadata.columns.to_pydict() == {"price": [3, 5, 8], "stock": [False, True, True]}
    core = keep_k_core(data, 2)
    assert core.item_metadata.columns.to_pydict() == {"price": [3, 8], "stock": [False, True]}
    again = load(write_mmrec(core, tmp_path / "out")).item_metadata.columns
    assert again.select(["price", "stock"]).equals(core.item_metadata.columns)
