"""Building a data folder of what does not fit: each fault is refused with a text that says where it is."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from gtcrec.data import SplitConfig, load
from gtcrec.data.build import pipeline as module
from gtcrec.data.build.pipeline import BuildConfig, build
from gtcrec.data.formats import tables as stream
from gtcrec.errors import DataError
from helpers.building import ACTS, ALL, ITEMS, built, dropped, rows, write


def refused(folder: Path, items: str = ITEMS, acts: str = ACTS, config: BuildConfig = ALL) -> str:
    with pytest.raises(DataError) as caught:
        built(folder, items, acts, config)
    assert [one.name for one in folder.iterdir() if "out" in one.name] == []
    return str(caught.value)


def test_a_core_that_is_empty_is_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, acts="user_id,item_id\nann,007\n", config=BuildConfig(core=3))
    assert said.endswith("acts.csv: --core 3 leaves none of 1 interactions; choose a smaller one")


def test_labels_of_the_source_are_kept_and_a_pair_with_two_is_refused(tmp_path: Path) -> None:
    acts = "user_id,item_id,x_label\nann,007,0\nann,木,2\nann,b c,1\n"
    built(tmp_path / "a", acts=acts)
    assert {row["item_id"]: row["x_label"] for row in rows(tmp_path / "a")} == {"007": 0, "木": 2, "b c": 1}
    said = refused(tmp_path / "b", acts=acts + "ann,007,1\n")
    assert "label 0 in line 2 of acts.csv and label 1 in line 5 of acts.csv" in said


def test_a_split_that_cannot_be_is_refused(tmp_path: Path) -> None:
    acts = "user_id,item_id\nann,007\n"
    said = refused(tmp_path, acts=acts, config=BuildConfig(core=0, split=SplitConfig(strategy="global_time")))
    assert "split 'global_time' needs times" in said
    said = refused(tmp_path, acts="user_id,item_id,x_label\nann,007,2\n")
    assert said == "split 'auto' leaves no training interaction of 1"


def test_an_item_that_stands_twice_is_refused_with_its_lines_or_its_first_row_counts(tmp_path: Path) -> None:
    items = ITEMS + "007,Other,red,1\nunseen,x,,\n"
    said = refused(tmp_path / "a", items)
    assert said.endswith(
        "items.csv: item_id '007' stands twice: line 2 of items.csv and line 6 of items.csv, and 1 more rows repeat an "
        "id; --duplicates first keeps the first row of each"
    )
    report = built(tmp_path / "b", items, config=BuildConfig(core=0, duplicates="first"))
    assert dropped(report)["with an id that an earlier row has"] == 2
    assert report["dropped"][0]["examples"] == ["row 5: '007'", "row 6: 'unseen'"]
    assert [row["title"] for row in rows(tmp_path / "b", "items")] == ["Mug", "Été", "Lamp", "None"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "csv.gz"])
def test_a_file_that_is_not_utf8_is_refused_with_line_byte_and_the_way_out(tmp_path: Path, kind: str) -> None:
    text = {
        "tsv": "item_id\ttitle\n007\tMug\n8\tÉté\n",
        "jsonl": '{"item_id": "007", "title": "Mug"}\n\n{"item_id": "8", "title": "Été"}\n',
    }.get(kind, 'item_id,title\n007,Mug\n8,"Été"\n')
    wrong = text.encode("latin-1")
    items, acts = tmp_path / f"items.{kind}", write(tmp_path, acts="user_id,item_id\nann,007\n")[1]
    items.write_bytes(gzip.compress(wrong) if kind == "csv.gz" else wrong)
    with pytest.raises(DataError) as caught:
        build(items, acts, tmp_path / "out", ALL)
    assert str(caught.value) == (
        f"{items}: line 3 holds byte 0xc9, which is not UTF-8; if the file has another encoding, name it, such as "
        "--encoding latin-1"
    )
    build(items, acts, tmp_path / "out", BuildConfig(core=0, encoding="latin-1"))
    assert [row["title"] for row in rows(tmp_path, "items")] == ["Mug", "Été"]


def test_a_byte_that_is_not_utf8_in_the_interactions_or_a_header_is_found_too(tmp_path: Path) -> None:
    items, acts = write(tmp_path)
    acts.write_bytes(b"user_id,item_id\n" + b"ann,007\n" * 10 + b"j\xf6rg,007\n")
    with pytest.raises(DataError, match=r"acts\.csv: line 12 holds byte 0xf6, which is not UTF-8"):
        build(items, acts, tmp_path / "out", ALL)
    acts.write_bytes(b"user_id,item_id,\xe9\nann,007,1\n")
    with pytest.raises(DataError, match=r"acts\.csv: line 1 holds byte 0xe9"):
        build(items, acts, tmp_path / "out", ALL)


def test_utf16_is_named_in_the_error_and_read_when_asked_for(tmp_path: Path) -> None:
    items, acts = write(tmp_path)
    for path in (items, acts):
        path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(DataError, match=r"items\.csv: line 1 holds byte 0xff, .* --encoding utf-16"):
        build(items, acts, tmp_path / "out", ALL)
    build(items, acts, tmp_path / "out", BuildConfig(core=0, encoding="utf-16"))
    assert [row["item_id"] for row in rows(tmp_path, "items")] == ["007", "b c", "木", "unseen"]
    utf8 = write(tmp_path / "utf8")
    with pytest.raises(DataError, match=r"items\.csv: "):
        build(*utf8, tmp_path / "out2", BuildConfig(core=0, encoding="utf-16"))


def test_text_in_parquet_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    items, acts = write(tmp_path)
    bad = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe"))
    pq.write_table(pa.table({"user_id": bad, "item_id": ["007"]}), tmp_path / "acts.parquet")
    with pytest.raises(DataError, match=r"acts\.parquet: column 'user_id' is damaged or not UTF-8"):
        build(items, tmp_path / "acts.parquet", tmp_path / "out", ALL)
    assert acts.exists()


def test_a_record_longer_than_a_block_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_BLOCK", 1 << 20)
    said = refused(tmp_path, 'item_id,title\n007,"' + "x" * (3 << 20) + '"\n')
    assert "items.csv: cannot be read: " in said
    assert said.endswith("a record must fit into 1 MiB")


def test_nested_json_is_read_where_it_is_plain_and_refused_where_it_is_not(tmp_path: Path) -> None:
    records = [
        {"asin": 7, "title": "Mug", "text": ["for", 2, None, "cups"], "tags": ["a", "b"], "more": {"deep": [1]}},
        {"asin": 8.0, "title": None, "text": [], "tags": None, "more": None, "late": 1},
    ]
    items, acts = tmp_path / "items.jsonl", tmp_path / "acts.jsonl"
    items.write_text("\n\n".join(map(json.dumps, records)))
    acts.write_text('{"reviewerID": "x", "asin": "7"}\n{"reviewerID": true, "asin": 8}\n{"asin": 8}\n')
    config = BuildConfig(core=0, keep=("late",), tags=("tags",))
    report = build(items, acts, tmp_path / "out", config)
    assert dropped(report) == {"without a user id": 1}
    assert {(row["user_id"], row["item_id"]) for row in rows(tmp_path)} == {("x", "7"), ("true", "8")}
    assert rows(tmp_path, "items") == [
        {"item_id": "7", "title": "Mug", "tags": "a|b", "late": ""},
        {"item_id": "8", "title": "", "tags": "", "late": "1"},
    ]
    for config, said in (
        (BuildConfig(core=0, keep=("more",)), "more in line 1 must hold a number or text, found an object"),
        (BuildConfig(core=0, keep=("text",)), "text in line 1 must hold a number or text, found a list"),
        (
            BuildConfig(core=0, tags=("tags",), tag_separator="a"),
            "tags in line 1 of items.jsonl: 'a' holds 'a', which stands",
        ),
    ):
        with pytest.raises(DataError) as caught:
            build(items, acts, tmp_path / "out2", config)
        assert f"items.jsonl: {said}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"user_id": "x"', "acts.jsonl: line 3 is not JSON: "),
        ("[1]", "acts.jsonl: line 3 must hold an object, found list"),
    ],
)
def test_lines_that_are_no_json_objects_are_refused(tmp_path: Path, text: str, said: str) -> None:
    items, _ = write(tmp_path)
    (tmp_path / "acts.jsonl").write_text('{"user_id": "x", "item_id": "007"}\n\n' + text + "\n")
    with pytest.raises(DataError) as caught:
        build(items, tmp_path / "acts.jsonl", tmp_path / "out", ALL)
    assert said in str(caught.value)


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "pics/../../secret.png", "."])
def test_an_image_outside_the_root_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    items, acts = write(tmp_path / "in", f"item_id,pic\nb c,\n007,{path}\n")
    with pytest.raises(DataError) as caught:
        build(items, acts, tmp_path / "out", BuildConfig(core=0, image="pic"))
    assert f"image {path!r} (line 3 of items.csv) must be a path inside {tmp_path / 'in'}" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("items", "acts", "config", "said"),
    [
        (ITEMS, "user_id,item_id\nann,007,1\n", {}, "acts.csv: line 2 has 3 fields, the header has 2"),
        (ITEMS, "user_id,item_id\n", {}, "acts.csv: has no rows"),
        (ITEMS, "", {}, "acts.csv: the file is empty"),
        (ITEMS, "user_id,user_id\n1,2\n", {}, "acts.csv: column 'user_id' stands 2 times in the header"),
        (ITEMS, "who,item_id\n1,2\n", {}, "set --user-col to its name"),
        (ITEMS, "user,item,stars\n1,007,x\n", {}, "stars must be a finite number, found 'x' (line 2 of acts.csv)"),
        (ITEMS, "user_id,item_id\n1,2\n", {"min_rating": 1}, "--min-rating needs a rating column, found none"),
        (
            ITEMS, "user_id,item_id\n1,a\n", {},
            "acts.csv: no interaction is left of 1: 1 of an item that the items table lacks (such as row 1: user '1', "
            "item 'a'); the items' ids are '007', 'b c', '木', ...",
        ),
        (
            ITEMS, ACTS, {"text": ("titel",)},
            "items.csv: no column 'titel', found 'item_id', 'title', 'genre', 'price' (did you mean 'title'?)",
        ),
        ("sku,x\n1,2\n", ACTS, {}, "set --items-item-col to its name"),
        (ITEMS, "user,item,time\nann,007,2nd of May\n", {}, "time must be a finite number, found '2nd of May' (line 2"),
        ("item_id,x\n,1\n,2\n", ACTS, {}, "expected items with an id in item_id, found none in 2 rows"),
        (ITEMS, ACTS, {"title": "genre", "keep": ("title",)}, "'title' and 'genre' would both be called 'title'"),
        (ITEMS, f"user_id,item_id\n{'x' * 300},007\n", {}, "user_id in line 2 of acts.csv must have at most 256 char"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_refused_with_the_place(
    tmp_path: Path, items: str, acts: str, config: dict[str, Any], said: str
) -> None:
    assert said in refused(tmp_path, items, acts, BuildConfig(core=0, **config))


def test_files_of_another_kind_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    items, acts = write(tmp_path)
    packed = gzip.compress(b"user_id,item_id\n" + np.random.default_rng(0).bytes(5000).hex().encode() + b",007\n")
    (tmp_path / "cut.csv.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "no.csv.gz").write_bytes(b"user_id,item_id\n")
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    (tmp_path / "acts.xls").write_bytes(b"x")
    for name, said in (
        ("cut.csv.gz", "cannot be read: Compressed file ended"),
        ("no.csv.gz", "cannot be read: Not a gzipped file"),
        ("no.parquet", "cannot be read: "),
        ("acts.xls", "expected .csv, .tsv, .jsonl, .parquet (text also as .gz), found '.xls'"),
        ("gone.csv", "no such file"),
    ):
        with pytest.raises(DataError) as caught:
            build(items, tmp_path / name, tmp_path / "out", ALL)
        assert f"{name}: {said}" in str(caught.value)
    assert acts.exists()


def test_unknown_encodings_and_patterns_are_refused() -> None:
    with pytest.raises(ValidationError, match="unknown encoding 'utf-9', expected one such as utf-8, latin-1"):
        BuildConfig(encoding="utf-9")
    for image in ("images/{}.jpg", "{a:5}", "{a!r}"):
        with pytest.raises(ValidationError, match="expected columns' names between the braces"):
            BuildConfig(image=image)
    with pytest.raises(ValidationError, match="expected '}' before end of string"):
        BuildConfig(image="a{b")


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    items, acts = write(tmp_path)
    (tmp_path / "out").mkdir()
    build(items, acts, tmp_path / "out", ALL)  # an empty folder is fine
    before = {one: one.read_bytes() for one in (tmp_path / "out").iterdir()}
    (tmp_path / "other").mkdir()
    (tmp_path / "other/manifest.json").write_text("[1, ")
    with pytest.raises(DataError, match="other: expected a new or empty folder"):
        build(items, acts, tmp_path / "other", ALL)
    for config, said in (
        (ALL, "out: is there already, built like this of these tables"),
        (
            BuildConfig(core=0, min_rating=3),
            "out: expected a new or empty folder, found one in use, not built like this",
        ),
    ):
        with pytest.raises(DataError, match=said):
            build(items, acts, tmp_path / "out", config)
    acts.write_text(ACTS + "new,007,5,50\n")
    with pytest.raises(DataError, match="found one in use, not built like this of these tables"):
        build(items, acts, tmp_path / "out", ALL)
    assert {one: one.read_bytes() for one in (tmp_path / "out").iterdir()} == before


def test_an_end_while_the_tables_are_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_items", stop)
    with pytest.raises(KeyboardInterrupt):
        built(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["acts.csv", "items.csv"]


def test_every_file_of_the_folder_is_in_the_manifest_and_damage_is_found(tmp_path: Path) -> None:
    built(tmp_path, config=BuildConfig(core=0, tags=("genre",)))
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    there = {one.name for one in (tmp_path / "out").iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == there
    assert manifest["gtcrec"]["sources"]["items"]["name"] == "items.csv"
    assert str(tmp_path) not in (tmp_path / "out/manifest.json").read_text()
    (tmp_path / "out/tags_feat.npy").write_bytes(b"x")
    with pytest.raises(DataError, match="damaged or edited"):
        load(tmp_path / "out")


def test_a_build_whose_content_is_refused_leaves_nothing_that_blocks_the_next(tmp_path: Path) -> None:
    items, acts = write(tmp_path, "item_id,genre\n007,\n木,\nb c,\n")
    with pytest.raises(DataError, match="no item that stays has a value in 'genre', named by tags"):
        build(items, acts, tmp_path / "out", BuildConfig(core=0, tags=("genre",)))
    assert not (tmp_path / "out").exists()
    items.write_text("item_id,genre\n007,red\n木,blue\nb c,red\n")
    build(items, acts, tmp_path / "out", BuildConfig(core=0, tags=("genre",)))
    assert load(tmp_path / "out").features.names == ("tags",)


def test_a_second_build_into_one_folder_is_refused(tmp_path: Path) -> None:
    def second(stage: str) -> None:
        code = f"from gtcrec.data.build.pipeline import build; build({str(items)!r}, {str(acts)!r}, {str(out)!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        said.append(done.stderr.splitlines()[-1])

    said: list[str] = []
    (items, acts), out = write(tmp_path), tmp_path / "out"
    build(items, acts, out, ALL, on_stage=second)
    assert said
    assert all(f"InUseError: {out}: in use by process {os.getpid()}" in line for line in said)
    assert len(load(out).interactions)
