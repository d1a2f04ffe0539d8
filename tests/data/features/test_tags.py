"""Tags by TF-IDF and truncated SVD, and numbers with marks of presence."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gtcrec.data.features.extract import EncodeConfig, encode
from gtcrec.errors import ConfigError, DataError

TABLE = """item_id,genres,brand,price
a,Action|Comedy,acme,10
b, comedy ,,
c,,acme,30
d,|,,twelve
e,Drama|drama,,20
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "items.csv").write_text(TABLE)
    return tmp_path / "items.csv"


def encoded(table: Path, **settings):
    out = table.parent / "x_feat.npy"
    found = encode(table, out, EncodeConfig(**settings))
    return found, np.load(out), json.loads(out.with_suffix(".json").read_text())


class TestTags:
    def test_few_tags_are_weighted_by_their_rarity(self, table: Path) -> None:
        found, x, record = encoded(table, tags=("genres",))
        once, twice = math.log(4 / 2) + 1, math.log(4 / 3) + 1  # of three items with tags
        length = math.hypot(once, twice)
        assert x[0] == pytest.approx([once / length, twice / length, 0])
        assert x[[1, 4]].tolist() == [[0, 1, 0], [0, 0, 1]]
        assert not x[[2, 3]].any()
        assert (found.present, found.empty, found.failures) == (3, 2, ())
        assert record["encoder"]["name"] == "tf-idf"
        assert record["encoder"]["tags"] == 3
        assert "scikit-learn" in record["encoder"]

    def test_columns_add_up_and_keep_equal_words_apart(self, table: Path) -> None:
        table.write_text("item_id,genres,brand\na,apple,apple\nb,apple,\nc,,apple\n")
        _, x, _ = encoded(table, tags=("genres", "brand"))
        assert (x[1] @ x[2], x[0] @ x[1]) == pytest.approx((0, math.sqrt(0.5)))

    def test_many_tags_become_singular_directions(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        rows = [rng.choice(40, 1 + number % 5, replace=False) for number in range(60)]
        pq.write_table(pa.table({"tags": [[f"t{tag}" for tag in row] for row in rows]}), tmp_path / "items.parquet")
        found, x, record = encoded(tmp_path / "items.parquet", tags=("tags",), width=8)
        counts = np.zeros((60, 40))
        for number, row in enumerate(rows):
            counts[number, row] = 1
        whole = counts * (np.log(61 / (1 + counts.sum(axis=0))) + 1)
        whole /= np.linalg.norm(whole, axis=1, keepdims=True)
        u, s, _ = np.linalg.svd(whole)
        assert found.width == 8
        assert x @ x.T == pytest.approx((u[:, :8] * s[:8] ** 2) @ u[:, :8].T, abs=2e-2)
        assert np.linalg.norm(x, axis=0) == pytest.approx(s[:8], rel=1e-3)
        assert (record["encoder"]["directions"], record["encoder"]["tags"]) == (8, counts.any(axis=0).sum())
        assert 0.2 < record["encoder"]["explained"] < 0.6

    def test_an_item_outside_the_directions_is_listed_not_rounded_noise(self, table: Path) -> None:
        table.write_text("item_id,genres\n" + "a,x|y\nb,x|y\nc,x|y\nd,z\n")
        found, x, _ = encoded(table, tags=("genres",), width=1)
        assert np.abs(x[:3]) == pytest.approx(1)
        assert x[3].tolist() == [0]
        assert [(one["item"], one["reason"]) for one in found.failures] == [
            ("d", "its tags take no part in the first 1 directions")
        ]

    def test_equal_tables_give_equal_bytes(self, table: Path) -> None:
        first = encoded(table, tags=("genres", "brand"), width=2)[1]
        assert (encoded(table, tags=("genres", "brand"), width=2)[1] == first).all()

    def test_a_separator_may_be_chosen(self, table: Path) -> None:
        table.write_text("item_id\tgenres\na\tx, y\nb\ty\n")
        found, _, _ = encoded(table.rename(table.with_suffix(".tsv")), tags=("genres",), separator=",")
        assert (found.width, found.present) == (2, 2)

    def test_a_table_without_tags_is_refused(self, table: Path) -> None:
        table.write_text("item_id,genres\na,\n")
        with pytest.raises(DataError, match=r"items\.csv: no row has content that can be read in 'genres'"):
            encoded(table, tags=("genres",))

    def test_without_scikit_learn_the_extra_is_named(self, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
        with pytest.raises(ConfigError, match=r'scikit-learn is not installed; pip install "gtcrec\[encode\]"'):
            encoded(table, tags=("genres",))


class TestNumbers:
    def test_values_are_standardised_and_missing_ones_are_not_the_mean(self, table: Path) -> None:
        found, x, record = encoded(table, numbers=("price",))
        z = math.sqrt(1.5)  # 10 / the standard deviation of 10, 20, 30
        assert x == pytest.approx(np.array([[-z, 1], [0, 0], [z, 1], [0, 0], [0, 1]]))
        assert (found.present, found.empty) == (3, 1)
        assert [(one["item"], one["reason"]) for one in found.failures] == [("d", "price is not a number: 'twelve'")]
        facts = {"name": "price", "mean": 20, "std": pytest.approx(math.sqrt(200 / 3)), "missing": 2}
        assert record["encoder"] == {"name": "standardised", "columns": [facts]}

    def test_a_row_with_one_bad_cell_keeps_the_others(self, table: Path) -> None:
        table.write_text("item_id,price,weight\na,1e1,inf\nb,2_0,5\nc,,\nd,nan,\n")
        found, x, _ = encoded(table, numbers=("price", "weight"))
        assert x.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
        assert (found.present, found.empty) == (2, 1)
        assert [(one["item"], one["reason"]) for one in found.failures] == [
            ("a", "weight is not a number: 'inf'"),
            ("b", "price is not a number: '2_0'"),
            ("d", "price is not a number: 'nan'"),
        ]

    def test_typed_columns_are_read_as_they_are(self, tmp_path: Path) -> None:
        columns = {"n": pa.array([1, None, 3]), "yes": pa.array([True, False, True])}
        pq.write_table(pa.table(columns), tmp_path / "items.parquet")
        _, x, _ = encoded(tmp_path / "items.parquet", numbers=("n", "yes"), dtype="float16")
        low = -math.sqrt(2)
        assert x == pytest.approx(np.array([[-1, 1, -low / 2, 1], [0, 0, low, 1], [1, 1, -low / 2, 1]]), abs=1e-3)
        assert x.dtype == np.float16
