"""Reading catalogues: what comes out is what stands in the files."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gtcrec.data import ReadConfig, load, write_catalog
from gtcrec.errors import DataError
from gtcrec.types import Dataset


def pairs_of(data: Dataset) -> list[tuple[object, object]]:
    users = data.users.external(data.interactions.users).tolist()
    return list(zip(users, data.items.external(data.interactions.items).tolist(), strict=True))


def mmrec(folder: Path, text: str, name: str = "toy") -> Path:
    path = folder / name
    path.mkdir()
    (path / f"{name}.inter").write_text(text)
    return path


INTER = "userID\titemID\tx_label\n0\t2\t0\n0\t0\t1\n2\t1\t2\n"


def test_an_mmrec_folder_gives_dense_ids_and_labels_in_the_order_of_the_pairs(tmp_path: Path) -> None:
    data = load(mmrec(tmp_path, INTER))
    assert (data.name, data.interactions.n_users, data.interactions.n_items) == ("toy", 3, 3)
    assert pairs_of(data) == [(0, 0), (0, 2), (2, 1)]
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, 2]
    assert data.times is None
    assert data.notes == {}


def test_columns_are_found_by_name_and_extra_ones_are_ignored(tmp_path: Path) -> None:
    text = "note\ttimestamp\titemID\tx_label\tuserID\trating\nx\t7\t1\t0\t0\t5\ny\t3\t0\t2\t1\t4\n"
    data = load(mmrec(tmp_path, text))
    assert pairs_of(data) == [(0, 1), (1, 0)]
    assert data.times is not None
    assert data.times.tolist() == [7.0, 3.0]


def test_modalities_are_named_by_their_files_and_set_the_number_of_items(tmp_path: Path) -> None:
    folder = mmrec(tmp_path, INTER)
    image = np.arange(10, dtype=np.float64).reshape(5, 2) + 1
    np.save(folder / "image_feat.npy", image)
    np.save(folder / "sound_of_it_feat.npy", np.ones((5, 3), dtype=np.float16))
    np.save(folder / "unrelated.npy", np.ones(3))
    data = load(folder)
    assert data.features.names == ("image", "sound_of_it")
    assert data.interactions.n_items == 5
    assert data.features.values["image"].dtype == np.float32
    np.testing.assert_array_equal(data.features.values["image"], image)
    only = load(folder, ReadConfig(modalities=("sound_of_it",)))
    assert only.features.names == ("sound_of_it",)
    assert load(folder, ReadConfig(modalities=())).interactions.n_items == 5


def test_mapping_files_give_the_external_ids(tmp_path: Path) -> None:
    folder = mmrec(tmp_path, INTER)
    (folder / "u_id_mapping.csv").write_text("user_id\tuserID\nAB\t2\nCD\t0\nEF\t1\n")
    (folder / "i_id_mapping.csv").write_text("asin\titemID\n70\t0\n80\t1\n90\t2\n95\t3\n")
    data = load(folder)
    assert pairs_of(data) == [("CD", 70), ("CD", 90), ("AB", 80)]
    assert data.notes == {"rows of i_id_mapping.csv outside the data": 1}


def test_the_file_named_after_the_folder_is_read_when_there_are_several(tmp_path: Path) -> None:
    folder = mmrec(tmp_path, INTER)
    (folder / "other.inter").write_text("userID\titemID\n0\t0\n")
    assert len(load(folder).interactions) == 3
    assert len(load(folder / "other.inter").interactions) == 1


ROWS = [("ann", 10, 3.0, 100), ("bob", 9, 4.0, 50), ("ann", 9, 5.0, 70)]
NAMES = ("user_id", "movie_id", "rating", "timestamp")


def write(folder: Path, kind: str, rows: list[tuple[object, ...]] = ROWS, names: tuple[str, ...] = NAMES) -> Path:
    path = folder / f"interactions.{kind}"
    table = pa.table({name: [row[k] for row in rows] for k, name in enumerate(names)})
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "jsonl":
        import json

        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        mark = "," if kind == "csv" else "\t"
        path.write_text("\n".join(mark.join(map(str, row)) for row in (names, *rows)) + "\n")
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_four_formats_of_one_table_give_equal_data(tmp_path: Path, kind: str) -> None:
    data = load(write(tmp_path, kind))
    assert pairs_of(data) == [("ann", 9), ("ann", 10), ("bob", 9)]
    assert data.times is not None
    assert data.times.tolist() == [70.0, 100.0, 50.0]
    assert data.users.ids.tolist() == ["ann", "bob"]
    assert data.items.ids.tolist() == [9, 10]
    (tmp_path / "as_csv").mkdir()
    assert data.fingerprint == load(write(tmp_path / "as_csv", "csv")).fingerprint
    assert load(tmp_path).fingerprint == data.fingerprint


def test_data_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, two = write(tmp_path, "csv"), write(tmp_path / "other", "csv", ROWS[::-1])
    assert load(one).fingerprint == load(two).fingerprint


def test_text_ids_keep_leading_zeros(tmp_path: Path) -> None:
    data = load(write(tmp_path, "csv", [("007", "1"), ("7", "2")], ("user", "item")))
    assert pairs_of(data) == [("007", 1), ("7", 2)]


def test_ids_of_other_types_become_text(tmp_path: Path) -> None:
    data = load(write(tmp_path, "parquet", [(1.5, True), (2.5, False)], ("user", "item")))
    assert pairs_of(data) == [("1.5", "true"), ("2.5", "false")]


def test_whole_numbers_stored_as_floats_are_whole_numbers(tmp_path: Path) -> None:
    assert pairs_of(load(write(tmp_path, "parquet", [(1.0, 7)], ("user", "item")))) == [(1, 7)]


def test_arrow_types_that_other_tools_write_are_read_alike(tmp_path: Path) -> None:
    columns = {
        "user": pa.array(["b", "a", "b"]).dictionary_encode(),
        "item": pa.array(["x", "x", "y"], pa.large_string()),
        "x_label": pa.array([2.0, 0.0, 1.0]),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    data = load(tmp_path / "x.parquet")
    assert pairs_of(data) == [("a", "x"), ("b", "x"), ("b", "y")]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 2, 1]


def test_dates_become_seconds(tmp_path: Path) -> None:
    table = pa.table({"user": [1], "item": [1], "time": pa.array([1_500], pa.timestamp("ms"))})
    pq.write_table(table, tmp_path / "x.parquet")
    times = load(tmp_path / "x.parquet").times
    assert times is not None
    assert times.tolist() == [1.5]


def test_columns_can_be_named_by_the_config(tmp_path: Path) -> None:
    path = write(tmp_path, "csv", [("a", "x", 1), ("b", "y", 0)], ("who", "what", "part"))
    data = load(path, ReadConfig(user="who", item="what", label="part"))
    assert pairs_of(data) == [("a", "x"), ("b", "y")]
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0]


def test_a_column_called_label_is_not_taken_for_the_split(tmp_path: Path) -> None:
    assert load(write(tmp_path, "csv", [("a", "x", 1)], ("user", "item", "label"))).labels is None


def test_quotes_have_a_meaning_in_csv_and_none_in_tsv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('user,item\n"x, ""y""",1\n')
    (tmp_path / "a.tsv").write_text('user\titem\n"x\t1\ny"\t2\n')
    assert load(tmp_path / "a.csv").users.ids.tolist() == ['x, "y"']
    assert load(tmp_path / "a.tsv").users.ids.tolist() == ['"x', 'y"']


def test_duplicates_merge_to_the_earliest_time(tmp_path: Path) -> None:
    rows = [("a", "x", 5), ("a", "x", 2), ("b", "x", 1), ("a", "x", 9)]
    data = load(write(tmp_path, "csv", rows, ("user", "item", "time")))
    assert pairs_of(data) == [("a", "x"), ("b", "x")]
    assert data.times is not None
    assert data.times.tolist() == [2.0, 1.0]
    assert data.notes == {"duplicates merged": 2}


def test_duplicates_with_one_label_merge(tmp_path: Path) -> None:
    data = load(mmrec(tmp_path, "userID\titemID\tx_label\n0\t0\t1\n0\t0\t1\n"))
    assert data.labels is not None
    assert data.labels.tolist() == [1]


def test_min_rating_drops_rows_before_merging(tmp_path: Path) -> None:
    rows = [("a", "x", 2, 1), ("a", "x", 4, 7), ("a", "y", 3, 3)]
    data = load(write(tmp_path, "csv", rows, ("user", "item", "rating", "time")), ReadConfig(min_rating=4))
    assert pairs_of(data) == [("a", "x")]
    assert data.times is not None
    assert data.times.tolist() == [7.0]
    assert data.items.ids.tolist() == ["x", "y"]
    assert data.notes == {"rows below min_rating": 2}


def test_empty_ratings_do_not_matter_without_min_rating(tmp_path: Path) -> None:
    assert len(load(write(tmp_path, "csv", [("a", "x", "")], ("user", "item", "rating"))).interactions) == 1


def test_k_core_drops_until_every_user_and_item_has_k(tmp_path: Path) -> None:
    # Item 3 has one user, so user 2 keeps one item and falls out; then item 1 keeps users 0 and 1.
    text = "userID\titemID\n0\t0\n0\t1\n1\t0\n1\t1\n2\t1\n2\t3\n"
    folder = mmrec(tmp_path, text)
    np.save(folder / "image_feat.npy", np.arange(1, 5, dtype=np.float32)[:, None])
    (folder / "items.csv").write_text("itemID,title\n0,zero\n1,one\n3,three\n")
    data = load(folder, ReadConfig(k_core=2))
    assert pairs_of(data) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert data.features.values["image"].tolist() == [[1.0], [2.0]]
    assert data.item_metadata is not None
    assert data.item_metadata.titles == ("zero", "one")
    assert data.notes == {
        "2-core: interactions dropped": 2,
        "2-core: users dropped": 1,
        "2-core: items dropped": 2,
    }


def test_k_core_equals_dropping_one_user_or_item_at_a_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = {(int(u), int(i)) for u, i in zip(rng.integers(0, 40, 160), rng.integers(0, 40, 160), strict=True)}
    data = load(write(tmp_path, "csv", sorted(pairs), ("user", "item")), ReadConfig(k_core=3))
    while True:
        users, items = [u for u, _ in pairs], [i for _, i in pairs]
        low = {(u, i) for u, i in pairs if users.count(u) < 3 or items.count(i) < 3}
        if not low:
            break
        pairs -= {min(low)}
    assert pairs_of(data) == sorted(pairs)
    assert len(pairs) > 20


def test_the_items_table_sets_the_catalogue_the_feature_rows_and_the_cards(tmp_path: Path) -> None:
    write(tmp_path, "csv", [("a", "q", 1), ("b", "z", 2)], ("user_id", "asin", "timestamp"))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "z.png").write_bytes(b"png")
    (tmp_path / "items.csv").write_text(
        'asin,title,image\nz,"Zed, the last",pictures/z.png\nb,,\nq,Cue,pictures/gone.png\n'
    )
    np.save(tmp_path / "text_feat.npy", np.array([[26.0], [0.0], [17.0]]))
    data = load(tmp_path)
    assert data.items.ids.tolist() == ["b", "q", "z"]
    assert data.features.values["text"].ravel().tolist() == [0.0, 17.0, 26.0]
    assert data.features.present["text"].tolist() == [False, True, True]
    assert data.item_metadata is not None
    assert data.item_metadata.titles == ("", "Cue", "Zed, the last")
    assert data.item_metadata.images == (None, None, tmp_path / "pictures" / "z.png")
    assert data.notes == {"image files not found": 1, "text: items without content": 1}


def test_an_items_table_without_title_and_image_gives_its_columns(tmp_path: Path) -> None:
    write(tmp_path, "csv", [("a", 3)], ("user", "item"))
    (tmp_path / "items.tsv").write_text("item\tcolour\n3\tred\n4\tblue\n")
    data = load(tmp_path)
    assert data.item_metadata is not None
    assert data.item_metadata.columns.to_pydict() == {"colour": ["red", "blue"]}
    assert data.item_metadata.titles == ("", "")
    assert data.interactions.n_items == 2


def test_number_ids_meet_text_ids_of_the_items_table(tmp_path: Path) -> None:
    write(tmp_path, "csv", [("a", 3)], ("user", "item"))
    (tmp_path / "items.tsv").write_text("item\ttitle\n3\tthree\nx\tex\n")
    data = load(tmp_path)
    assert data.items.ids.tolist() == ["3", "x"]
    assert data.interactions.items.tolist() == [0]


def test_without_an_items_table_feature_rows_follow_the_sorted_ids(tmp_path: Path) -> None:
    write(tmp_path, "csv", [("a", "z"), ("a", "b")], ("user", "item"))
    np.save(tmp_path / "text_feat.npy", np.array([[2.0], [26.0]]))
    data = load(tmp_path)
    assert data.items.ids.tolist() == ["b", "z"]
    assert data.features.values["text"].ravel().tolist() == [2.0, 26.0]


def test_an_items_table_beside_an_inter_file_gives_cards(tmp_path: Path) -> None:
    folder = mmrec(tmp_path, INTER)
    (folder / "items.tsv").write_text("itemID\tasin\ttitle\n2\tB2\ttwo\n0\tB0\tnil\n7\tB7\tseven\n")
    data = load(folder)
    assert data.item_metadata is not None
    assert data.item_metadata.titles == ("nil", "", "two")
    assert data.notes == {"rows of items.tsv outside the catalogue": 1}


def test_a_foreign_manifest_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, "csv", [("a", "z")], ("user", "item"))
    (tmp_path / "manifest.json").write_text("{}")
    assert len(load(tmp_path).interactions) == 1


@pytest.mark.parametrize(
    ("old", "new"), [(b"{", b"["), (b'"gtcrec"', b'"gtcrfc"'), (b'"files"', b'"filet"'), (b"sha256", b"sha257")]
)
def test_a_damaged_manifest_is_an_error_not_none(tmp_path: Path, old: bytes, new: bytes) -> None:
    folder = write_catalog(tmp_path / "shop", n_users=60, n_items=40)
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(old, new, 1))
    with pytest.raises(DataError, match=r"manifest\.json: (damaged|cannot be read as a manifest)"):
        load(folder)


def test_a_manifest_of_an_earlier_version_is_believed_only_whole(tmp_path: Path) -> None:
    folder = write_catalog(tmp_path / "shop", n_users=60, n_items=40)
    manifest = folder / "manifest.json"
    earlier = {key: value for key, value in json.loads(manifest.read_text()).items() if key != "manifest_sha256"}
    manifest.write_text(json.dumps(earlier))
    assert len(load(folder).interactions)
    manifest.write_text(json.dumps({"gtcrfc": earlier["gtcrec"], "files": earlier["files"]}))
    with pytest.raises(DataError, match=r"manifest\.json: damaged or edited: the key 'gtcrec' is missing"):
        load(folder)
