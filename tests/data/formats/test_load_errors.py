"""Bad input: each fault is refused with a text that says where it is."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from gtcrec.data import ReadConfig, load
from gtcrec.data.formats.tables import read_table
from gtcrec.errors import ConfigError, DataError, GtcrecError

HEAD = "userID\titemID\trating\ttimestamp\tx_label\n"
GOOD = "0\t0\t5\t10\t0\n"


def refused(path: Path, config: ReadConfig = ReadConfig()) -> str:  # noqa: B008
    with pytest.raises(DataError) as caught:
        load(path, config)
    return str(caught.value)


def inter(folder: Path, text: str) -> Path:
    (folder / "x.inter").write_text(text)
    return folder


def table(folder: Path, text: str, name: str = "interactions.csv") -> Path:
    (folder / name).write_text(text)
    return folder


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone").endswith("gone: no such file or folder")


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        read_table(tmp_path / "gone.csv")


def test_a_place_behind_a_cell_of_extreme_length_is_counted_in_records(tmp_path: Path) -> None:
    text = refused(table(tmp_path, f"user,item,note\na,b,{'x' * 200_000}\n,c,d\n"))
    assert text.startswith("user is empty in record 2 of interactions.csv")


def test_a_folder_without_interactions(tmp_path: Path) -> None:
    text = refused(tmp_path)
    assert f"found neither {tmp_path.name}.inter nor interactions.csv, .tsv, .jsonl or .parquet" in text


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    table(tmp_path, "", "x.xlsx")
    assert "expected .inter, .csv, .tsv, .jsonl or .parquet, found '.xlsx'" in refused(tmp_path / "x.xlsx")


def test_several_files_that_could_be_meant(tmp_path: Path) -> None:
    inter(tmp_path, HEAD + GOOD)
    table(tmp_path, "user,item\na,b\n")
    assert "found both x.inter and interactions.csv; name the file to read" in refused(tmp_path)
    table(tmp_path, "user\titem\na\tb\n", "interactions.tsv")
    assert "expected one interactions file, found interactions.csv, interactions.tsv" in refused(tmp_path)
    for name in ("interactions.csv", "interactions.tsv"):
        (tmp_path / name).unlink()
    table(tmp_path, HEAD + GOOD, "y.inter")
    assert "found x.inter, y.inter; name the file to read" in refused(tmp_path)


def test_a_missing_column_names_what_is_there_what_is_wanted_and_the_key(tmp_path: Path) -> None:
    text = refused(table(tmp_path, "usr_id,item_id\na,b\n"))
    assert "no user column; found 'usr_id', 'item_id', expected one of 'userID', 'user_id'" in text
    assert text.endswith("set data.user to its name (did you mean 'usr_id'?)")


def test_a_configured_column_that_is_not_there(tmp_path: Path) -> None:
    text = refused(table(tmp_path, "user,item,stamp\na,b,1\n"), ReadConfig(time="stmp"))
    assert text.endswith("no column 'stmp' (data.time), found 'user', 'item', 'stamp' (did you mean 'stamp'?)")


def test_two_columns_that_could_be_the_user(tmp_path: Path) -> None:
    text = refused(table(tmp_path, "user,user_id,item\na,a,b\n"))
    assert text.endswith("'user', 'user_id' could each be the user column; set data.user")


@pytest.mark.parametrize("label", ["3", "train", "", "-1"])
def test_an_unknown_label(tmp_path: Path, label: str) -> None:
    text = refused(inter(tmp_path, f"{HEAD}{GOOD}1\t0\t5\t10\t{label}\n"))
    assert text.startswith(f"unknown label {label!r} in x_label (line 3 of x.inter): expected 0 (train)")


def test_an_item_id_beyond_the_feature_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "image_feat.npy", np.ones((5, 2)))
    text = refused(inter(tmp_path, f"{HEAD}{GOOD}1\t9\t5\t10\t0\n"))
    assert text == "item 9 (line 3 of x.inter) lies beyond image_feat.npy, which has 5 rows (items 0 to 4)"


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file(tmp_path: Path, text: str) -> None:
    assert refused(inter(tmp_path, text)).endswith("x.inter: the file is empty")


def test_a_header_without_rows(tmp_path: Path) -> None:
    assert refused(inter(tmp_path, HEAD)).endswith("x.inter: has a header but no rows")


def test_a_truncated_line(tmp_path: Path) -> None:
    assert refused(inter(tmp_path, HEAD + GOOD + "1\t0\t5")).endswith("line 3 has 3 fields, the header has 5")


def test_a_ragged_row_is_named_by_its_line_also_after_blank_and_folded_lines(tmp_path: Path) -> None:
    text = refused(table(tmp_path, 'user,item\n\n"a\nb",c\nx,y,z\n'))
    assert text.endswith("line 5 has 3 fields, the header has 2")


def test_a_column_name_that_stands_twice(tmp_path: Path) -> None:
    assert refused(inter(tmp_path, "userID\titemID\tuserID\n0\t0\t0\n")).endswith(
        "column 'userID' stands 2 times in the header"
    )
    pq.write_table(pa.table([[1], [2], [3]], names=["user", "item", "user"]), tmp_path / "x.parquet")
    assert refused(tmp_path / "x.parquet").endswith("column 'user' stands 2 times in the header")


def test_a_header_that_stands_again_inside(tmp_path: Path) -> None:
    text = refused(inter(tmp_path, HEAD + GOOD + HEAD + GOOD))
    assert text == "the header stands again in line 3 of x.inter; were files joined?"


@pytest.mark.parametrize("value", ["-3", "1.5", "ann", "", "99999999999999999999"])
def test_a_dense_id_that_is_no_whole_number(tmp_path: Path, value: str) -> None:
    text = refused(inter(tmp_path, f"{HEAD}{GOOD}{value}\t0\t5\t10\t0\n"))
    assert text.startswith(f"userID must be a whole number from 0, found {value!r} (line 3 of x.inter)")


def test_a_dense_id_that_would_need_a_huge_table(tmp_path: Path) -> None:
    text = refused(inter(tmp_path, f"{HEAD}{GOOD}1\t880000000\t5\t10\t0\n"))
    assert "itemID must count from 0 without large gaps, found 880000000 (line 3 of x.inter) in 2 rows" in text


@pytest.mark.parametrize(("column", "row"), [("rating", "1\t0\t{}\t10\t0"), ("timestamp", "1\t0\t5\t{}\t0")])
@pytest.mark.parametrize("value", ["good", "1_000", "2020-01-01"])
def test_a_rating_or_time_that_is_no_number(tmp_path: Path, column: str, row: str, value: str) -> None:
    text = refused(inter(tmp_path, HEAD + GOOD + row.format(value) + "\n"))
    hint = "; a time may also be a date such as 2024-05-01T10:00:00" if column == "timestamp" else ""
    assert text == f"{column} must be a finite number, found {value!r} (line 3 of x.inter){hint}"


def test_a_time_that_is_infinite_or_missing(tmp_path: Path) -> None:
    assert "timestamp must be a finite number, found 'inf' (line 2" in refused(
        inter(tmp_path, HEAD + "1\t0\t5\tinf\t0\n")
    )
    assert "timestamp must be a number, found an empty cell (line 2" in refused(
        inter(tmp_path, HEAD + "1\t0\t5\t\t0\n")
    )


def test_a_column_of_a_type_that_is_neither_number_nor_text(tmp_path: Path) -> None:
    times = pa.array([3], pa.duration("s"))
    pq.write_table(pa.table({"user": ["a"], "item": ["b"], "time": times}), tmp_path / "x.parquet")
    assert "column 'time' must hold numbers or text, found duration[s]" in refused(tmp_path / "x.parquet")
    pq.write_table(pa.table({"user": [["a"]], "item": ["b"]}), tmp_path / "x.parquet")
    assert "column 'user' must hold numbers or text, found list<" in refused(tmp_path / "x.parquet")


def test_an_empty_id(tmp_path: Path) -> None:
    assert refused(table(tmp_path, "user,item\na,b\n,c\n")).startswith("user is empty in line 3 of interactions.csv")
    table(tmp_path, '{"user": 1, "item": 2}\n\n{"user": 3}\n', "x.jsonl")
    assert refused(tmp_path / "x.jsonl").startswith("item is empty in line 3 of x.jsonl")
    pq.write_table(pa.table({"user": [1, 2], "item": [1.0, float("nan")]}), tmp_path / "x.parquet")
    assert refused(tmp_path / "x.parquet").startswith("item is empty in row 2 of x.parquet")


@pytest.mark.parametrize("value", ["x" * 300, "a\0"])
def test_an_id_that_cannot_be_kept(tmp_path: Path, value: str) -> None:
    text = refused(table(tmp_path, f"user,item\na,b\n{value},c\n"))
    assert text.startswith("user in line 3 of interactions.csv must have at most 256 characters and no NUL")


def test_a_pair_with_two_labels(tmp_path: Path) -> None:
    text = refused(inter(tmp_path, HEAD + "0\t0\t5\t10\t2\n" + "1\t0\t5\t10\t0\n" + "0\t0\t5\t5\t0\n"))
    assert text.startswith(
        "one user-item pair has label 2 in line 2 of x.inter and label 0 in line 4 of x.inter: a pair must be"
    )


def test_min_rating_without_ratings_or_above_all(tmp_path: Path) -> None:
    table(tmp_path, "user,item\na,b\n")
    assert refused(tmp_path, ReadConfig(min_rating=4)).startswith(
        "data.min_rating is 4 but there is no rating column; set data.rating"
    )
    table(tmp_path, "user,item,rating\na,b,3\n")
    assert refused(tmp_path, ReadConfig(min_rating=4)) == (
        "data.min_rating 4 leaves no interaction: the highest rating is 3"
    )
    table(tmp_path, "user,item,rating\na,b,\n")
    assert "rating must be a number, found an empty cell" in refused(tmp_path, ReadConfig(min_rating=4))


def test_a_k_core_that_is_empty(tmp_path: Path) -> None:
    text = refused(table(tmp_path, "user,item\na,b\n"), ReadConfig(k_core=2))
    assert text == "data.k_core 2 leaves no interaction of 1; choose a smaller one"


def test_an_item_that_the_items_table_misses_or_has_twice(tmp_path: Path) -> None:
    table(tmp_path, "user,item\na,b\na,c\n")
    table(tmp_path, "item,title\nb,x\n", "items.csv")
    assert refused(tmp_path) == ("item 'c' (line 3 of interactions.csv) is missing from items.csv, which has 1 items")
    table(tmp_path, "item,title\nb,x\nc,x\nb,y\n", "items.csv")
    assert refused(tmp_path) == "item 'b' stands twice: line 2 of items.csv and line 4 of items.csv"


def test_an_image_outside_the_folder(tmp_path: Path) -> None:
    table(tmp_path, "user,item\na,b\n")
    table(tmp_path, "item,image\nb,../secret.png\n", "items.csv")
    assert refused(tmp_path).startswith("image '../secret.png' (line 2 of items.csv) must be a path inside")


def test_feature_rows_that_do_not_match_the_items(tmp_path: Path) -> None:
    table(tmp_path, "user,item\na,b\na,c\n")
    np.save(tmp_path / "image_feat.npy", np.ones((3, 2)))
    assert refused(tmp_path).endswith(
        "image_feat.npy has 3 rows, expected 2, the number of distinct items in interactions.csv"
    )
    table(tmp_path, "item,title\nb,x\nc,y\n", "items.csv")
    assert refused(tmp_path).endswith("image_feat.npy has 3 rows, expected 2, the number of rows in items.csv")
    np.save(tmp_path / "text_feat.npy", np.ones((2, 2)))
    assert refused(tmp_path).endswith("different numbers of rows: image_feat.npy 3, text_feat.npy 2")


def test_a_mapping_file_that_misses_an_id_or_a_column(tmp_path: Path) -> None:
    inter(tmp_path, HEAD + GOOD + "1\t1\t5\t1\t0\n")
    table(tmp_path, "user_id\tuserID\nann\t0\n", "u_id_mapping.csv")
    assert refused(tmp_path).endswith("u_id_mapping.csv: no row for userID 1, expected all from 0 to 1")
    table(tmp_path, "user_id\tuserID\nann\t0\nann\t1\n", "u_id_mapping.csv")
    assert "user_id 'ann' stands twice" in refused(tmp_path)
    table(tmp_path, "user_id,userID\nann,0\n", "u_id_mapping.csv")
    assert "expected tab-separated columns 'userID' and an external id" in refused(tmp_path)


def test_a_modality_without_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "image_feat.npy", np.ones((1, 2)))
    with pytest.raises(ConfigError, match=r"no imag_feat.npy in the data, found image \(did you mean 'image'\?\)"):
        load(inter(tmp_path, HEAD + GOOD), ReadConfig(modalities=("imag",)))


@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl", "x.csv", "x.inter"])
def test_a_damaged_file_of_any_format(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x00\xff\xfe{broken\n\xff,\xff\n")
    assert "cannot be read" in refused(tmp_path / name)


def test_an_unknown_setting() -> None:
    with pytest.raises(ValidationError, match="kcore"):
        ReadConfig.model_validate({"kcore": 5})


def test_damage_anywhere_in_an_inter_file_is_refused_or_harmless(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = (HEAD + "".join(f"{k % 7}\t{k % 11}\t{k % 5}\t{k}\t0\n" for k in range(60))).encode()
    outcomes = {"read": 0, "refused": 0}
    for _ in range(200):
        broken = bytearray(whole)
        at = int(rng.integers(len(whole)))
        match int(rng.integers(4)):
            case 0:
                broken = broken[:at]
            case 1:
                broken[at] = int(rng.integers(256))
            case 2:
                broken[at:at] = rng.bytes(3)
            case 3:
                del broken[at : at + 5]
        (tmp_path / "x.inter").write_bytes(broken)
        try:
            load(tmp_path)
            outcomes["read"] += 1
        except GtcrecError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 10
