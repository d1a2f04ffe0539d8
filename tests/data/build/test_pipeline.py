"""Building a data folder of raw tables: what is kept is exact, what is left out is counted."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gtcrec.cli.main import execute
from gtcrec.data import SplitConfig, load, split
from gtcrec.data.build import interactions, items, left_out, pipeline
from gtcrec.data.build.pipeline import BuildConfig, build
from gtcrec.data.formats import tables as stream
from gtcrec.errors import DataError
from helpers.building import ACTS, ALL, ITEMS, built, dropped, rows, write


def test_what_is_left_out_is_counted_by_reason_with_examples(tmp_path: Path) -> None:
    report = built(tmp_path, config=BuildConfig(core=0, min_rating=3))
    assert report["read"] == {"interactions": 10, "items": 4}
    assert dropped(report) == {
        "without a user id": 1,
        "without an item id": 1,
        "of an item that the items table lacks": 1,
        "without a rating": 1,
        "rated below 3": 1,
        "without a time": 1,
        "that repeat a user and an item (the earliest is kept)": 1,
    }
    assert [one["examples"] for one in report["dropped"]][2:4] == [
        ["row 8: user 'bob', item 'gone'"],
        ["row 9: user 'bob', item '木'"],
    ]
    kept = {"interactions": 3, "items": 4, "users": 3}
    assert {name: report["kept"][name] for name in kept} == kept
    assert json.loads((tmp_path / "out/report.json").read_text()) == report
    page = (tmp_path / "out/report.md").read_text()
    assert "| interactions | 10 | 3 |" in page
    assert "| interactions | rated below 3 | 1 | row 2: user 'ann', item 'b c' |" in page


def test_ids_with_zeros_blanks_and_any_letters_stay_exactly_as_they_are(tmp_path: Path) -> None:
    ids = ["007", "7", "07", " 7", "7 ", "a b", "é", "e\u0301", "ﬁ", "fi", "🛒", "NULL", "nan", "ß", "SS", "a\u00a0b"]
    items = "item_id,title\n" + "".join(f"{one},t\n" for one in ids)
    acts = "user_id,item_id\n" + "".join(f"{user},{one}\n" for user in ids for one in ids)
    assert built(tmp_path, items, acts)["dropped"] == []
    assert {(row["user_id"], row["item_id"]) for row in rows(tmp_path)} == {(u, i) for u in ids for i in ids}
    data = load(tmp_path / "out")
    assert sorted(data.items.ids.tolist()) == sorted(data.users.ids.tolist()) == sorted(ids)


def test_a_repeated_pair_keeps_its_earliest_time_and_that_rows_rating(tmp_path: Path) -> None:
    acts = "user_id,item_id,rating,timestamp\nann,007,2,30\nann,007,5,15\nann,007,4,15\n"
    built(tmp_path, acts=acts)
    assert rows(tmp_path) == [{"user_id": "ann", "item_id": "007", "rating": 5, "timestamp": 15, "x_label": 0}]


def test_without_min_rating_a_missing_rating_is_an_interaction(tmp_path: Path) -> None:
    assert built(tmp_path, acts="user_id,item_id,rating\nann,007,\nann,木,2\n")["dropped"] == []
    assert [row["rating"] for row in rows(tmp_path)] == [None, 2]
    assert len(load(tmp_path / "out").interactions) == 2


def _forms(folder: Path) -> dict[str, tuple[Path, Path]]:
    made = {"csv": write(folder / "csv")}
    tables = {"items": _records(ITEMS), "acts": _records(ACTS)}
    for kind in ("tsv", "csv.gz", "jsonl", "jsonl.gz", "parquet"):
        (folder / kind).mkdir()
        paths = [folder / kind / f"{name}.{kind}" for name in tables]
        for path, (name, records) in zip(paths, tables.items(), strict=True):
            lines = "".join(json.dumps(record, ensure_ascii=kind == "jsonl") + "\n" for record in records)
            text = (folder / "csv" / f"{name}.csv").read_text()
            if kind == "parquet":
                pq.write_table(pa.Table.from_pylist(records), path, row_group_size=3)
            elif path.suffix == ".gz":
                path.write_bytes(gzip.compress((text if kind == "csv.gz" else lines).encode()))
            else:
                path.write_text(text.replace(",", "\t") if kind == "tsv" else lines)
        made[kind] = (paths[0], paths[1])
    return made


def _records(text: str) -> list[dict[str, Any]]:
    header, *lines = (line.split(",") for line in text.splitlines())
    as_number = {"rating": int, "timestamp": int, "price": float}

    def value(name: str, cell: str) -> Any:
        return as_number.get(name, str)(cell) if cell else None

    return [{name: value(name, cell) for name, cell in zip(header, line, strict=True)} for line in lines]


def test_every_format_gives_the_same_folder(tmp_path: Path) -> None:
    config = BuildConfig(core=0, min_rating=3, keep=("genre",), numbers=("price",))
    sums = {}
    for kind, paths in _forms(tmp_path).items():
        build(*paths, tmp_path / kind / "out", config)
        files = json.loads((tmp_path / kind / "out/manifest.json").read_text())["files"]
        names = ("interactions.parquet", "items.parquet", "numbers_feat.npy")
        sums[kind] = [files[name]["sha256"] for name in names]
        assert len(dropped(json.loads((tmp_path / kind / "out/report.json").read_text()))) == 7
    assert len(sums) == 6
    assert all(one == sums["csv"] for one in sums.values())


def test_the_size_of_the_parts_in_which_tables_are_read_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = _forms(tmp_path)
    config = BuildConfig(core=0, min_rating=3, keep=("genre",), numbers=("price",))
    whole = {kind: build(*paths, tmp_path / kind / "whole", config) for kind, paths in forms.items()}
    for place, name, size in (
        (stream, "_BLOCK", 40), (interactions, "_PART", 2), (interactions, "_GROUP", 2), (items, "_IDS", 2),
        (items, "_ROWS", 1), (left_out, "_GROUP", 1),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, size)
    for kind, paths in forms.items():
        assert build(*paths, tmp_path / kind / "out", config) == whole[kind]
        for name in ("interactions", "items", "left_out_interactions", "left_out_items"):
            wanted = pq.read_table(tmp_path / kind / f"whole/{name}.parquet").to_pylist()
            assert rows(tmp_path / kind, name) == wanted


@pytest.mark.parametrize("seed", range(6))
def test_filters_and_core_equal_plain_loops_over_the_rows(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    k, known = int(rng.integers(1, 4)), [f"i{item:02d}" for item in range(12)]
    drawn = [
        (f"u{rng.integers(15)}", f"i{rng.integers(14):02d}", int(rng.integers(1, 6)), int(rng.integers(50)))
        for _ in range(150)
    ]
    first: dict[tuple[str, str], int] = {}
    for user, item, rating, moment in drawn:
        if item in known and rating >= 2:
            first[user, item] = min(moment, first.get((user, item), moment))
    while True:
        many = [Counter(pair[side] for pair in first) for side in (0, 1)]
        weak = [pair for pair in first if many[0][pair[0]] < k or many[1][pair[1]] < k]
        if not weak:
            break
        for pair in weak:
            del first[pair]
    acts = "user_id,item_id,rating,timestamp\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in drawn)
    items = "item_id\n" + "".join(f"{one}\n" for one in known)
    report = built(tmp_path, items, acts, BuildConfig(core=k, min_rating=2))
    assert {(row["user_id"], row["item_id"]): row["timestamp"] for row in rows(tmp_path)} == first
    assert {row["item_id"] for row in rows(tmp_path, "items")} == {item for _, item in first}
    lost = sum(one["count"] for one in report["dropped"] if one["table"] == "interactions")
    assert lost == 150 - len(first)
    assert report["kept"]["users"] == len({user for user, _ in first})


def test_the_core_counts_what_falls_and_zero_keeps_items_that_nobody_liked(tmp_path: Path) -> None:
    acts = "user_id,item_id\n" + "".join(f"{u},{i}\n" for u in "xy" for i in ("007", "木")) + "z,007\n"
    report = built(tmp_path / "a", acts=acts, config=BuildConfig(core=2))
    assert dropped(report) == {
        "outside the 2-core": 1,  # of users; the interaction has the same reason in its own table
        "outside the 2-core, or without an interaction": 2,
    }
    assert [(one["table"], one["count"]) for one in report["dropped"]] == [
        ("interactions", 1),
        ("users", 1),
        ("items", 2),
    ]
    assert built(tmp_path / "b", acts=acts)["kept"]["items"] == 4
    assert load(tmp_path / "b/out").interactions.n_items == 4


@pytest.mark.parametrize("strategy", ["random", "leave_one_out", "user_time", "global_time"])
def test_the_split_is_stored_and_is_the_one_that_reading_makes(tmp_path: Path, strategy: Any) -> None:
    rng = np.random.default_rng(0)
    many = "".join(f"u{rng.integers(1000, 1040)},i{rng.integers(100, 130)},{t}\n" for t in range(800))
    items = "item_id\n" + "".join(f"i{item}\n" for item in range(100, 130))
    config = SplitConfig(strategy=strategy, seed=4)
    report = built(tmp_path, items, "user_id,item_id,timestamp\n" + many, BuildConfig(core=2, split=config))
    data = load(tmp_path / "out")
    stored, made = split(data), split(data, config)
    assert stored.how["used"] == "label"
    assert [len(stored.train), len(stored.valid)] == [
        report["kept"]["training interactions"],
        report["kept"]["validation interactions"],
    ]
    assert np.array_equal(stored.train.items, made.train.items)
    assert np.array_equal(stored.final_test().items, made.final_test().items)


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    header, *lines = ACTS.splitlines()
    config = BuildConfig(core=0, min_rating=3)
    built(tmp_path / "a", config=config)
    built(tmp_path / "b", acts="\n".join([header, *reversed(lines)]) + "\n", config=config)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_times_may_be_dates(tmp_path: Path) -> None:
    acts = "user_id,item_id,time\nann,007,1970-01-02\nann,木,\nbob,木,1970-01-01T00:00:30\n"
    assert dropped(built(tmp_path / "a", acts=acts)) == {"without a time": 1}
    assert [row["timestamp"] for row in rows(tmp_path / "a")] == [86400, 30]
    zoned = "user_id,item_id,time\nann,007,1970-01-01T02:00:00+02:00\nbob,007,1970-01-01T00:00:30Z\n"
    built(tmp_path / "b", acts=zoned)
    assert [row["timestamp"] for row in rows(tmp_path / "b")] == [0, 30]


def test_items_without_an_id_are_left_out(tmp_path: Path) -> None:
    report = built(tmp_path / "a", "item_id,title\n,none\n007,Mug\n,\n木,Lamp\nb c,x\n")
    assert report["dropped"][0] == {
        "table": "items", "reason": "without an item id", "count": 2, "examples": ["row 1", "row 3"],
    }  # fmt: skip
    assert [row["item_id"] for row in rows(tmp_path / "a", "items")] == ["007", "木", "b c"]


def test_a_mark_at_the_start_of_utf8_is_no_part_of_a_name(tmp_path: Path) -> None:
    built(tmp_path, "\ufeff" + ITEMS, "\ufeff" + ACTS)
    assert len(rows(tmp_path, "items")) == 4


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_description_of_a_million_characters_is_kept_whole(tmp_path: Path, kind: str) -> None:
    long = "wörd, " * 166_667
    assert len(long) > 1_000_000
    table = tmp_path / f"items.{kind}"
    if kind == "csv":
        table.write_text(f'item_id,description\n007,"{long}"\n木,short\n')
    elif kind == "jsonl":
        table.write_text(json.dumps({"item_id": "007", "description": long}) + '\n{"item_id": "木"}\n')
    else:
        pq.write_table(pa.table({"item_id": ["007", "木"], "description": [long, None]}), table)
    acts = write(tmp_path / "acts", acts="user_id,item_id\nann,007\nann,木\n")[1]
    build(table, acts, tmp_path / "out", BuildConfig(core=0, keep=("description",)))
    assert rows(tmp_path, "items")[0]["description"] == long
    assert len(load(tmp_path / "out").interactions) == 2


def test_lists_of_text_are_joined(tmp_path: Path) -> None:
    table = pa.table({"item_id": ["a", "b"], "tags": [["x", None, "y"], None], "deep": [[["x"]], None]})
    pq.write_table(table, tmp_path / "items.parquet")
    acts = write(tmp_path / "acts", acts="user_id,item_id\nann,a\nann,b\n")[1]
    build(tmp_path / "items.parquet", acts, tmp_path / "out", BuildConfig(core=0, tags=("tags",)))
    assert [row["tags"] for row in rows(tmp_path, "items")] == ["x|y", ""]
    for name, said in (("deep", "must hold numbers or text, found list"), ("tags", "'x' holds 'x', which stands")):
        config = BuildConfig(core=0, tags=(name,), tag_separator="x")
        with pytest.raises(DataError, match=said):
            build(tmp_path / "items.parquet", acts, tmp_path / "out2", config)


def test_pandas_columns_of_whole_numbers_with_gaps_are_ids(tmp_path: Path) -> None:
    items, _ = write(tmp_path, "item_id\n1\n2\n")
    users = pa.array([123456789012.0, None, float("nan"), 1.5])
    acts = pa.table({"user_id": users, "item_id": pa.array([1, 2, 1, 2])})
    pq.write_table(acts, tmp_path / "acts.parquet")
    report = build(items, tmp_path / "acts.parquet", tmp_path / "out", ALL)
    assert dropped(report) == {"without a user id": 2}
    assert [row["user_id"] for row in rows(tmp_path)] == ["1.5", "123456789012"]


def test_cells_that_are_no_numbers_are_counted_and_left_empty(tmp_path: Path) -> None:
    items = "item_id,price\n007,3.5\nb c,$4\n木, 1e1 \nunseen,inf\nx,1_0\ny,\n"
    report = built(tmp_path, items, config=BuildConfig(core=0, numbers=("price",)))
    assert dropped(report)["cells of price that are no number (the item stays)"] == 3
    assert report["dropped"][-1]["examples"] == ["row 2: '$4'", "row 4: 'inf'", "row 5: '1_0'"]
    assert [row["price"] for row in rows(tmp_path, "items")] == [3.5, None, 10, None, None, None]


def _with_images(folder: Path) -> tuple[Path, Path]:
    from PIL import Image

    paths = write(folder, "item_id,pic\n007,pics/a.png\nb c,\n木,pics/gone.png\nunseen,pics/a.png\n")
    (folder / "pics").mkdir()
    for name in ("a", "007"):
        Image.new("RGB", (20, 20), (200, 30, 30)).save(folder / f"pics/{name}.png")
    return paths


def test_images_are_put_into_the_folder_and_missing_ones_counted(tmp_path: Path) -> None:
    items, acts = _with_images(tmp_path)
    report = build(items, acts, tmp_path / "out", BuildConfig(core=0, image="pic"))
    assert report["dropped"][-1] == {
        "table": "items", "reason": "image files not found (the item stays)", "count": 1,
        "examples": ["row 3: 'pics/gone.png'"],
    }  # fmt: skip
    assert [row["image"] for row in rows(tmp_path, "items")] == ["images/pics/a.png", "", "", "images/pics/a.png"]
    data = load(tmp_path / "out")
    assert data.item_metadata is not None
    found = dict(zip(data.items.ids.tolist(), data.item_metadata.images, strict=True))
    assert found["007"] == tmp_path / "out/images/pics/a.png"
    assert found["007"].read_bytes() == (tmp_path / "pics/a.png").read_bytes()
    assert dict(zip(data.items.ids.tolist(), data.features.present["image"].tolist(), strict=True)) == {
        "007": True, "b c": False, "木": False, "unseen": True,
    }  # fmt: skip


def test_images_may_be_named_by_a_pattern_and_lie_elsewhere(tmp_path: Path) -> None:
    items, acts = _with_images(tmp_path / "in")
    config = BuildConfig(core=0, image="{item_id}.png")
    build(items, acts, tmp_path / "out", config, image_root=tmp_path / "in/pics")
    assert [row["image"] for row in rows(tmp_path, "items")] == ["images/007.png", "", "", ""]


def test_an_end_while_content_is_encoded_leaves_a_folder_that_the_same_call_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BuildConfig(core=0, tags=("genre",), numbers=("price",))
    whole = built(tmp_path / "whole", config=config)
    real, calls = pipeline.encode, []

    def stop_at_second(*given: Any, **named: Any) -> Any:
        calls.append(given[1].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(pipeline, "encode", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        built(tmp_path / "cut", config=config)
    assert load(tmp_path / "cut/out").features.names == ("tags",)
    assert built(tmp_path / "cut", config=config) == whole
    assert calls == ["tags_feat.npy", "numbers_feat.npy", "numbers_feat.npy"]
    for file in ("interactions.parquet", "items.parquet", "tags_feat.npy", "numbers_feat.npy", "report.md"):
        assert (tmp_path / "cut/out" / file).read_bytes() == (tmp_path / "whole/out" / file).read_bytes()
    assert load(tmp_path / "cut/out").fingerprint == load(tmp_path / "whole/out").fingerprint


def test_a_category_is_one_tag_whatever_it_holds(tmp_path: Path) -> None:
    built(tmp_path, config=BuildConfig(core=0, category=("genre",)))
    assert load(tmp_path / "out").features.values["category"].shape[1] == 3  # kitchen|red, kitchen, red


def test_the_command_prints_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items, acts = write(tmp_path)
    words = ["data", "build", "--items", str(items), "--interactions", str(acts), "--out", str(tmp_path / "out")]
    assert execute([*words, "--core", "0", "--min-rating", "3", "--tags", "genre", "--number", "price"]) == 0
    printed = capsys.readouterr()
    assert printed.out == (tmp_path / "out/report.md").read_text()
    assert "3 of 4 items have numbers, 2 numbers each" in printed.err
    assert f"built: {tmp_path / 'out'}" in printed.err
    assert load(tmp_path / "out").features.names == ("numbers", "tags")
    assert execute([*words[:-1], str(tmp_path / "new"), "--split", "thirds"]) == 1
    assert "error: split.strategy: Input should be 'auto', " in capsys.readouterr().err
    assert execute([*words[:-1], str(tmp_path / "new"), "--ratios", "0.5,0.1,0.1"]) == 1
    assert "ratios must add up to 1" in capsys.readouterr().err
