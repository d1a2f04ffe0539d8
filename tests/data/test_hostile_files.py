"""Whatever bytes a file holds, a reader takes it or raises an error of ours, in one line and with the file's name."""

import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gtcrec.data import load
from gtcrec.data.build.pipeline import BuildConfig, build
from gtcrec.data.datasets import find_source
from gtcrec.data.formats import tables
from gtcrec.data.sources.convert import convert
from gtcrec.errors import DataError, GtcrecError
from helpers.hostile import table_bytes

KINDS = ("csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz")
NPY = io.BytesIO()
np.save(NPY, np.ones((2, 3), np.float32))
MASK = io.BytesIO()
np.save(MASK, np.array([True, False]))
WORDS = st.sampled_from(
    [b"NaN", b"1e999", b"9" * 309, b"\xff", b"\x00", b'"', b"{", b"[" * 200, b"\\ud83d", b"\n", b","]
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes of a file put in, left out or changed."""
    found = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(found)))
        end = start + draw(st.integers(0, 8))
        found[start:end] = draw(st.binary(max_size=6) | WORDS)
    return bytes(found)


def attempt(read: Callable[[], object]) -> None:
    try:
        read()
    except GtcrecError as error:
        text = str(error)
        assert "\n" not in text
        assert len(text) < 5000


def read_damaged(kind: str, content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"interactions.{kind}"
        path.write_bytes(content)
        attempt(lambda: load(path))
        (Path(folder) / f"items.{kind}").write_bytes(content)
        attempt(lambda: load(folder))
        attempt(lambda: build(Path(folder) / f"items.{kind}", path, Path(folder) / "out", BuildConfig(core=0)))


def read_damaged_content(content: bytes, mask: bytes) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "interactions.csv").write_text("user,item\na,x\nb,y\n")
        (folder / "text_feat.npy").write_bytes(content)
        (folder / "text_present.npy").write_bytes(mask)
        attempt(lambda: load(folder))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25)
@given(st.data())
def test_only_our_errors_leave_the_readers_of_tables(kind: str, data: st.DataObject) -> None:
    read_damaged(kind, data.draw(damaged(table_bytes(kind)) | st.binary(max_size=60)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=3000)
@given(st.data())
def test_only_our_errors_leave_the_readers_of_many_tables(kind: str, data: st.DataObject) -> None:
    read_damaged(kind, data.draw(damaged(table_bytes(kind)) | st.binary(max_size=300)))


@settings(deadline=None, max_examples=60)
@given(damaged(NPY.getvalue()), damaged(MASK.getvalue()))
def test_only_our_errors_leave_the_readers_of_matrices(content: bytes, mask: bytes) -> None:
    read_damaged_content(content, MASK.getvalue())
    read_damaged_content(NPY.getvalue(), mask)


@pytest.mark.slow
@settings(deadline=None, max_examples=5000)
@given(damaged(NPY.getvalue()), damaged(MASK.getvalue()))
def test_only_our_errors_leave_the_readers_of_many_matrices(content: bytes, mask: bytes) -> None:
    read_damaged_content(content, MASK.getvalue())
    read_damaged_content(NPY.getvalue(), mask)


@pytest.mark.parametrize("text", ['nullllllll]lll{"', '{"user": ' + "[" * 100_000, '{"a":' * 100_000, "\ufeff\ufeff{}"])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_no_line_of_json_ends_the_process(tmp_path: Path, text: str, end: str) -> None:
    content = (text + "\n").encode()
    (tmp_path / f"interactions.jsonl{end}").write_bytes(gzip.compress(content) if end else content)
    with pytest.raises(DataError, match="line 1"):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["jsonl.gz", "csv.gz", "tsv.gz"])
def test_a_line_that_unfolds_to_much_is_refused_before_it_is_held(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_LONGEST", 1 << 10)
    monkeypatch.setattr(tables, "_BLOCK", 1 << 10)
    head = {"jsonl.gz": b"", "csv.gz": b"user,item\n", "tsv.gz": b"user\titem\n"}[kind]
    (tmp_path / f"interactions.{kind}").write_bytes(gzip.compress(head + b"u" * 10_000_000))
    with pytest.raises(DataError, match=r"longer than|must fit into"):
        load(tmp_path)


def test_reviews_may_hold_numbers_and_pairs_that_no_float_or_utf8_holds(tmp_path: Path) -> None:
    good = {"reviewerID": "u", "asin": "i", "overall": 5, "unixReviewTime": 1}
    lines = [
        json.dumps(good),
        json.dumps({**good, "overall": 10**309}),
        json.dumps({**good, "unixReviewTime": -(10**400)}),
    ]
    (tmp_path / "reviews.json").write_text("\n".join(lines) + "\n")
    items = [
        '{"asin": "i", "title": "Mug \\ud83d", "price": 1' + "0" * 400 + "}",
        "{'asin': 'j', 'title': 'Tea \\udc00'}",
    ]
    (tmp_path / "meta.json").write_text("\n".join(items) + "\n")
    sources = [tmp_path / "reviews.json", tmp_path / "meta.json"]
    report = convert("amazon", sources, tmp_path / "out", skip_bad_lines=True)
    assert report["bad lines"] == 2
    assert pq.read_table(tmp_path / "out/items.parquet")["title"].to_pylist() == ["Mug ?", "Tea ?"]
    with pytest.raises(DataError, match=r"reviews\.json: line 2 must have a number in 'overall', found 1000"):
        convert("amazon", sources, tmp_path / "out2")


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_only_our_errors_leave_the_reader_of_archives(data: st.DataObject) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml/ratings.csv", "userId,movieId,rating,timestamp\n1,2,3,4\n" * 3)
        archive.writestr("ml/movies.csv", "movieId,title,genres\n2,Up (2009),A|B\n")
    content = data.draw(damaged(stream.getvalue()))
    with TemporaryDirectory() as folder:
        (Path(folder) / "ml.zip").write_bytes(content)
        attempt(lambda: convert("movielens", [Path(folder) / "ml.zip"], Path(folder) / "out", skip_bad_lines=True))


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_names_that_the_system_does_not_take_are_refused_in_words(name: str) -> None:
    for read in (lambda: load(name), lambda: load(find_source(name))):
        with pytest.raises(DataError) as caught:
            read()
        assert len(str(caught.value)) < 1000
        assert "\0" not in str(caught.value)


@pytest.mark.parametrize("letter", range(60, 400, 17))
def test_one_damaged_letter_of_a_manifest_does_not_turn_checks_off(tmp_path: Path, letter: int) -> None:
    (tmp_path / "clicks.csv").write_text("user,item\na,x\nb,x\n")
    (tmp_path / "goods.csv").write_text("item\nx\n")
    build(tmp_path / "goods.csv", tmp_path / "clicks.csv", tmp_path / "out", BuildConfig(core=0))
    path = tmp_path / "out/manifest.json"
    text = bytearray(path.read_bytes())
    text[letter % len(text)] ^= 1
    path.write_bytes(bytes(text))
    table = pq.read_table(tmp_path / "out/interactions.parquet")
    pq.write_table(table.slice(0, 1), tmp_path / "out/interactions.parquet")
    with pytest.raises(DataError):
        load(tmp_path / "out")


@pytest.mark.parametrize("value", ["many", -1, 1.5, None, 10**30])
def test_wrong_facts_in_a_manifest_with_right_sums_are_refused(tmp_path: Path, value: object) -> None:
    (tmp_path / "x.inter").write_text("userID\titemID\n0\t0\n")
    facts = {"gtcrec": {"format": "mmrec", "users": value, "items": 1}, "files": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match="users: expected a whole number"):
        load(tmp_path)


def test_names_of_files_may_hold_any_bytes_or_are_refused_in_words(tmp_path: Path) -> None:
    clicks, goods = (tmp_path / os.fsdecode(name) for name in (b"cl\xff.jsonl", b"go\xff.jsonl"))
    clicks.write_text('{"user": "a", "item": "x"}\n{"user": "b", "item": "x"}\n')
    goods.write_text('{"item": "x", "price": 1}\n')
    build(goods, clicks, tmp_path / "out", BuildConfig(core=0, numbers=("price",)))
    facts = json.loads((tmp_path / "out/manifest.json").read_text())["gtcrec"]
    assert facts["sources"]["items"]["name"] == "go\\udcff.jsonl"
    assert load(clicks).name == "cl\\udcff"
    (tmp_path / os.fsdecode(b"cl\xff.csv")).write_text("user,item\na,x\n")
    with pytest.raises(DataError, match=r"cl\\udcff\.csv: cannot be read"):
        load(tmp_path / os.fsdecode(b"cl\xff.csv"))


@pytest.mark.parametrize("name", ["1" * 5000, "\x1b[2J" * 2000])
def test_long_names_of_columns_and_many_are_cut_in_the_error(tmp_path: Path, name: str) -> None:
    for names in ([name, "item"], [f"column{k}" for k in range(20_000)]):
        (tmp_path / "clicks.csv").write_text(",".join(names) + "\n" + ",".join("a" for _ in names) + "\n")
        with pytest.raises(DataError, match=r"no (user|item) column; found ") as caught:
            load(tmp_path / "clicks.csv")
        assert len(str(caught.value)) < 2000
    assert "'column59' and 19,940 more, expected one of" in str(caught.value)
    (tmp_path / "clicks.csv").write_text(f"user,item,rating\na,x,{name}\n")
    with pytest.raises(DataError, match=r"rating must be a (finite )?number, found '") as caught:
        load(tmp_path / "clicks.csv")
    assert len(str(caught.value)) < 500
