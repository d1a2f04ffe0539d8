"""One corpus of tables through `load`, `data build` and RecBole's conversion: equal ids, interactions and times."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from gtcrec.data import ReadConfig, load
from gtcrec.data.build.pipeline import BuildConfig, build
from gtcrec.errors import DataError
from gtcrec.types import Dataset

NS = pa.array([1609459200_000000123 + k * 10**9 for k in range(18)], pa.timestamp("ns"))
Column = Callable[[int], Any]
Facts = list[tuple[str, str, float | None]]


def number(k: int) -> int:
    return 1609459200 + k


def date(k: int) -> str:
    return f"2021-01-{k + 1:02d}"


CORPUS: dict[str, dict[str, Column]] = {
    "plain": {},
    "whole numbers as ids": {"user": lambda k: k // 3, "item": lambda k: 10 + (k // 3 + k % 3) % 7},
    "ids with leading zeros": {"user": lambda k: f"00{k // 3}"},
    "ids beyond int64": {"user": lambda k: 9223372036854775808 + k // 3},
    "floats as ids": {"user": lambda k: float(k // 3), "item": lambda k: 0.5 * ((k // 3 + k % 3) % 7)},
    "dates as times": {"timestamp": date},
    "dates with a zone": {"timestamp": lambda k: f"{date(k)}T10:00:00+02:00"},
    "dates with nanoseconds": {"timestamp": lambda k: f"{date(k)} 10:00:00.123456789"},
    "whole numbers beyond 2^53": {"timestamp": lambda k: 1609459200000000001 + k},
    "times with blanks around": {"timestamp": lambda k: f" {number(k)} "},
    "floats as times": {"timestamp": lambda k: number(k) + 0.25},
    "repeated pairs": {"item": lambda k: f"i{k // 3}"},
    "low ratings": {"rating": lambda k: k % 5 + 0.5},
    "labels": {"x_label": lambda k: k % 3},
}
KINDS = ("csv", "tsv", "jsonl", "csv.gz", "jsonl.gz", "parquet")


def columns_of(case: str) -> dict[str, list[Any]]:
    base: dict[str, Column] = {
        "user": lambda k: f"u{k // 3}", "item": lambda k: f"i{(k // 3 + k % 3) % 7}", "timestamp": number,
    }  # fmt: skip
    return {name: [value(k) for k in range(18)] for name, value in (base | CORPUS[case]).items()}


def write(folder: Path, kind: str, columns: dict[str, list[Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path, rows = folder / f"interactions.{kind}", list(zip(*columns.values(), strict=True))
    if kind == "parquet":
        arrays = [pa.array(list(map(str, one))) if max(map(str, one)) > "9223372036854775807" else pa.array(one)
                  for one in columns.values()]  # fmt: skip
        pq.write_table(pa.table(dict(zip(columns, arrays, strict=True))), path, row_group_size=5)
        return path
    if kind.startswith("jsonl"):
        text = "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    else:
        separator = "\t" if kind == "tsv" else ","
        text = "".join(separator.join(map(str, row)) + "\n" for row in [tuple(columns), *rows])
    path.write_bytes(gzip.compress(text.encode()) if kind.endswith(".gz") else text.encode())
    return path


def facts(data: Dataset) -> Facts:
    users, items = data.users.external(data.interactions.users), data.items.external(data.interactions.items)
    times = [None] * len(users) if data.times is None else data.times.tolist()
    return sorted(zip(map(str, users.tolist()), map(str, items.tolist()), times, strict=True))


def loaded(path: Path, least: float | None = None) -> Dataset:
    return load(path, ReadConfig(min_rating=least))


def built(path: Path, least: float | None = None) -> Dataset:
    items = sorted({item for _, item, _ in facts(load(path))})
    (path.parent / "catalog.csv").write_text("item_id\n" + "".join(f"{one}\n" for one in items))
    out = path.parent / f"out-{least}"
    build(path.parent / "catalog.csv", path, out, BuildConfig(core=0, min_rating=least))
    return load(out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CORPUS)
def test_load_and_build_read_one_table_alike(tmp_path: Path, case: str, kind: str) -> None:
    path = write(tmp_path, kind, columns_of(case))
    one, two = loaded(path), built(path)
    assert facts(one) == facts(two)
    assert one.users.ids.tolist() == two.users.ids.tolist()
    if case != "floats as ids":  # the text 0.0 stays as written
        assert facts(one) == facts(loaded(write(tmp_path / "as_csv", "csv", columns_of(case))))
    if case == "labels":
        assert one.labels is not None
        assert two.labels is not None
        assert one.labels.tolist() == two.labels.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_load_and_build_drop_the_same_low_ratings(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, columns_of("low ratings"))
    assert facts(loaded(path, 2)) == facts(built(path, 2))
    assert loaded(path, 2).notes == {"rows below min_rating": 8}


def test_a_packed_table_is_named_and_found_as_an_unpacked_one(tmp_path: Path) -> None:
    data = load(write(tmp_path / "shop", "csv.gz", columns_of("plain")).parent)
    assert data.name == "shop"
    assert load(tmp_path / "shop/interactions.csv.gz").name == "interactions"
    np.save(tmp_path / "shop/text_feat.npy", np.ones((7, 2)))
    (tmp_path / "shop/items.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps({"item": f"i{k}", "title": f"t{k}"}) + "\n" for k in range(7)).encode())
    )
    metadata = load(tmp_path / "shop").item_metadata
    assert metadata is not None
    assert metadata.titles[:2] == ("t0", "t1")


def test_times_finer_than_a_microsecond_lose_only_that(tmp_path: Path) -> None:
    columns = columns_of("plain")
    table = pa.table({"user": columns["user"], "item": columns["item"], "timestamp": NS})
    pq.write_table(table, tmp_path / "interactions.parquet")
    for data in (loaded(tmp_path / "interactions.parquet"), built(tmp_path / "interactions.parquet")):
        assert data.times is not None
        assert sorted(data.times.tolist()) == [1609459200.0 + k for k in range(18)]


def test_distinct_json_values_stay_distinct_ids(tmp_path: Path) -> None:
    values = [2**63 + 1, 2**63 + 2, 2**64, 1, "01", 1.5, True, "x", -0.0, 10**30, 10**30 + 1]
    lines = "".join(json.dumps({"user": value, "item": "a"}) + "\n" for value in values)
    (tmp_path / "interactions.jsonl").write_text(lines)
    assert len(loaded(tmp_path / "interactions.jsonl").users) == len(values)
    assert facts(loaded(tmp_path / "interactions.jsonl")) == facts(built(tmp_path / "interactions.jsonl"))


@pytest.mark.parametrize("form", [("2024-05-01 10:00:00", "NaT"), ("1714557600", "2024-05-01")])
def test_the_cell_that_breaks_the_form_of_most_is_named(tmp_path: Path, form: tuple[str, str]) -> None:
    columns = columns_of("plain") | {"timestamp": [form[0]] * 3 + [form[1]] + [form[0]] * 14}
    path = write(tmp_path, "csv", columns)
    said = (
        f"timestamp must be a finite number, found '{form[1]}' (line 5 of interactions.csv); a time may also be a date"
    )
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(caught.value).startswith(said)
    (tmp_path / "items.csv").write_text("item_id\ni0\n")
    with pytest.raises(DataError) as caught:
        build(tmp_path / "items.csv", path, tmp_path / "out", BuildConfig(core=0))
    assert str(caught.value).startswith(said)


def test_half_a_surrogate_pair_in_json_becomes_a_question_mark(tmp_path: Path) -> None:
    (tmp_path / "interactions.jsonl").write_text('{"user": "u", "item": "i"}\n')
    (tmp_path / "items.jsonl").write_text('{"item": "i", "title": "Mug \\ud83d, \\ud83d\\ude00"}\n')
    metadata = load(tmp_path).item_metadata
    assert metadata is not None
    assert metadata.titles == ("Mug ?, 😀",)


def test_hidden_files_beside_a_table_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text("userID\titemID\n0\t0\n")
    np.save(tmp_path / "text_feat.npy", np.ones((1, 2)))
    for name in ("._x.inter", "._text_feat.npy"):  # as macOS leaves them on foreign disks
        (tmp_path / name).write_bytes(b"\0\x05\x16\x07")
    assert load(tmp_path).features.names == ("text",)
