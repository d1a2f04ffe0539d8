"""Raw files of public data sets become the two tables that a build takes; all samples here are invented."""

import gzip
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from gtcrec.cli.main import app
from gtcrec.data import load
from gtcrec.data.build.pipeline import BuildConfig, build
from gtcrec.data.sources.convert import convert
from gtcrec.data.sources.huggingface import HuggingFaceConfig
from gtcrec.errors import ConfigError, DataError

PNG = b"\x89PNG\r\n\x1a\nnot really"


def packed(path: Path, *lines: object) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def tables(out: Path) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    return tuple(pq.read_table(out / f"{name}.parquet").to_pylist() for name in ("interactions", "items"))


REVIEW_2014 = {
    "reviewerID": "A1", "asin": "B01", "helpful": [0, 0], "reviewText": "Fine \u00e9", "overall": 5.0,
    "unixReviewTime": 1373068800, "reviewTime": "07 6, 2013",
}  # fmt: skip
META_2014 = (
    "{'asin': 'B01', 'title': 'Sam\\'s \"big\" mug &amp; lid', 'price': 12.5, 'imUrl': 'http://x/1.jpg', "
    "'related': {'also_bought': ['B02']}, 'salesRank': {'Home': 3}, "
    "'categories': [['Home', 'Mugs'], ['Home', 'Gifts']], 'brand': 'Alder', 'description': 'A \\/ mug'}"
)


def test_amazon_2014_reads_reviews_as_json_and_metadata_as_python_literals(tmp_path: Path) -> None:
    reviews = packed(tmp_path / "reviews_Home_5.json.gz", REVIEW_2014)
    meta = packed(tmp_path / "meta_Home.json.gz", META_2014, "{'asin': 'B02'}")
    report = convert("amazon", [meta, reviews], tmp_path / "out")
    assert report["rows"] == {"interactions": 1, "items": 2}
    acted, items = tables(tmp_path / "out")
    assert acted == [{"user_id": "A1", "item_id": "B01", "rating": 5.0, "timestamp": 1373068800.0}]
    assert items[0] == {
        "item_id": "B01", "title": "Sam's \"big\" mug & lid", "description": "A \\/ mug", "features": "",
        "categories": ["Home", "Mugs", "Gifts"], "brand": "Alder", "price": 12.5, "image_url": "http://x/1.jpg",
    }  # fmt: skip
    assert items[1] == {
        "item_id": "B02", "title": "", "description": "", "features": "", "categories": [], "brand": "",
        "price": None, "image_url": "",
    }  # fmt: skip


def test_metadata_is_never_run_as_code(tmp_path: Path) -> None:
    reviews = packed(tmp_path / "reviews.json", REVIEW_2014)
    trap = f"{{'asin': 'B01', 'title': open({str(tmp_path / 'trap')!r}, 'w').write('x')}}"
    meta = packed(tmp_path / "meta.json", "{'asin': 'B00'}", trap)
    with pytest.raises(DataError, match=r"meta.json: line 2 is neither JSON nor a Python literal; --skip-bad-lines"):
        convert("amazon", [reviews, meta], tmp_path / "out")
    assert not (tmp_path / "trap").exists()
    assert not (tmp_path / "out").exists()


def test_amazon_2018_is_cleaned_of_page_code(tmp_path: Path) -> None:
    reviews = packed(
        tmp_path / "Home_5.json.gz",
        {"overall": 4.0, "verified": True, "reviewerID": "A2", "asin": "C1", "unixReviewTime": 1500000000},
    )
    meta = packed(
        tmp_path / "meta_Home.json.gz",
        {
            "asin": "C1", "title": "<b>Lamp</b>&nbsp;one", "category": ["Home", "Lights &amp; Lamps", "</span>"],
            "description": ["<p>Warm</p>", "", "light <3"], "feature": ["A", "B"], "brand": "Birk",
            "price": "$1,234.50", "imageURL": [], "imageURLHighRes": ["http://x/h.jpg"], "tech1": "<table>..</table>",
        },
        {"asin": "C2", "title": "var aPageStart = (new Date()).getTime();", "price": "$3.00 - $4.00"},
        {"asin": "C3", "title": "<style>.a { b }</style>Chair", "price": ".a-section { margin: 0 }"},
    )  # fmt: skip
    report = convert("amazon", [reviews, meta], tmp_path / "out")
    _, items = tables(tmp_path / "out")
    assert items[0] == {
        "item_id": "C1", "title": "Lamp one", "description": "Warm light <3", "features": "A B",
        "categories": ["Home", "Lights & Lamps"], "brand": "Birk", "price": 1234.5, "image_url": "http://x/h.jpg",
    }  # fmt: skip
    assert [(item["title"], item["price"]) for item in items[1:]] == [("", None), ("Chair", None)]
    assert report["notes"] == {"titles that are page code, left out": 1, "prices that are no number, left out": 2}


def test_amazon_2023_joins_by_parent_and_has_seconds(tmp_path: Path) -> None:
    reviews = packed(
        tmp_path / "Home.jsonl.gz",
        {"rating": 3.0, "user_id": "U", "asin": "D9", "parent_asin": "D1", "timestamp": 1588687728923, "images": []},
    )
    meta = packed(
        tmp_path / "meta_Home.jsonl",
        {
            "main_category": "Home", "title": "Bag", "parent_asin": "D1", "features": ["Strong"], "price": None,
            "description": [], "images": [{"thumb": "t", "large": "l", "hi_res": None}], "store": "Corvo",
            "categories": ["Home", "Bags"], "details": {"Colour": "red"},
        },
    )  # fmt: skip
    convert("amazon", [reviews, meta], tmp_path / "out")
    acted, items = tables(tmp_path / "out")
    assert acted == [{"user_id": "U", "item_id": "D1", "rating": 3.0, "timestamp": 1588687728.923}]
    assert items == [
        {
            "item_id": "D1", "title": "Bag", "description": "", "features": "Strong", "categories": ["Home", "Bags"],
            "brand": "Corvo", "price": None, "image_url": "l",
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"reviewerID": "A", "asin": "B", "overall": 5', "line 2 is neither JSON nor a Python literal"),
        ("[1]", "line 2 must hold a record, found list"),
        ({**REVIEW_2014, "asin": None}, "line 2 must have text in 'asin', found None"),
        ({**REVIEW_2014, "overall": "five"}, "line 2 must have a number in 'overall', found 'five'"),
    ],
)
def test_a_damaged_line_is_named_or_counted(tmp_path: Path, line: object, said: str) -> None:
    reviews = packed(tmp_path / "reviews.json.gz", REVIEW_2014, line, {**REVIEW_2014, "reviewerID": "A3"})
    meta = packed(tmp_path / "meta.json.gz", META_2014)
    with pytest.raises(DataError, match=f"reviews.json.gz: {said}"):
        convert("amazon", [reviews, meta], tmp_path / "out")
    report = convert("amazon", [reviews, meta], tmp_path / "out", skip_bad_lines=True)
    assert report["rows"]["interactions"] == 2
    assert report["bad lines"] == 1
    assert said in report["examples"][0]
    assert json.loads((tmp_path / "out/report.json").read_text()) == report


def test_bytes_that_are_no_text_and_files_that_are_cut_off_are_told(tmp_path: Path) -> None:
    meta = packed(tmp_path / "meta.json", META_2014)
    reviews = tmp_path / "reviews.json"
    reviews.write_bytes(json.dumps(REVIEW_2014).encode() + b'\n{"reviewerID": "\xff"}\n')
    with pytest.raises(DataError, match=r"reviews.json: line 2 is not UTF-8: invalid start byte"):
        convert("amazon", [reviews, meta], tmp_path / "out")
    whole = gzip.compress(b"".join(json.dumps({**REVIEW_2014, "n": n}).encode() + b"\n" for n in range(2000)))
    (tmp_path / "cut.json.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut.json.gz: cannot be read: Compressed file ended"):
        convert("amazon", [tmp_path / "cut.json.gz", meta], tmp_path / "out", skip_bad_lines=True)


def test_amazon_wants_reviews_and_metadata(tmp_path: Path) -> None:
    reviews, meta = packed(tmp_path / "r.json", REVIEW_2014), packed(tmp_path / "m.json", META_2014)
    with pytest.raises(DataError, match=r"found no metadata in .*r.json"):
        convert("amazon", [reviews], tmp_path / "out")
    with pytest.raises(DataError, match=r"found no reviews in .*m.json"):
        convert("amazon", [meta], tmp_path / "out")
    with pytest.raises(DataError, match=r"nothing: no such file"):
        convert("amazon", [tmp_path / "nothing"], tmp_path / "out")
    with pytest.raises(DataError, match=r"other.json: expected Amazon reviews or metadata, found a record of name"):
        convert("amazon", [packed(tmp_path / "other.json", {"name": 1})], tmp_path / "out")
    with pytest.raises(DataError, match=r"empty.json: expected a record a line, found none"):
        convert("amazon", [packed(tmp_path / "empty.json", "")], tmp_path / "out")


def ml100k(folder: Path) -> Path:
    folder.mkdir()
    (folder / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t4.5\t891717742\n")
    marks = ["0"] * 19
    marks[1] = marks[15] = "1"
    one = f"242|Caf\u00e9 (1995)|01-Jan-1995||http://x|{'|'.join(marks)}\n"
    two = f"302|No Year|||http://x|{'|'.join(['1'] + ['0'] * 18)}\n"
    (folder / "u.item").write_bytes((one + two).encode("latin-1"))
    return folder


def test_movielens_100k_has_genres_years_and_latin_1_titles(tmp_path: Path) -> None:
    convert("movielens", [ml100k(tmp_path / "ml-100k")], tmp_path / "out")
    acted, items = tables(tmp_path / "out")
    assert acted == [
        {"user_id": "196", "item_id": "242", "rating": 3.0, "timestamp": 881250949.0},
        {"user_id": "186", "item_id": "302", "rating": 4.5, "timestamp": 891717742.0},
    ]
    assert items == [
        {"item_id": "242", "title": "Caf\u00e9 (1995)", "genres": ["Action", "Sci-Fi"], "year": 1995.0, "tags": []},
        {"item_id": "302", "title": "No Year", "genres": [], "year": None, "tags": []},
    ]


def test_movielens_1m_and_10m_differ_in_encoding_and_tags(tmp_path: Path) -> None:
    for name, encoding, more in (("ml-1m", "latin-1", "users.dat"), ("ml-10M", "utf-8", "tags.dat")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "ratings.dat").write_text("1::7::5::978300760\n")
        (folder / "movies.dat").write_bytes("7::Caf\u00e9: a film (1995)::Comedy|Drama\n".encode(encoding))
        (folder / more).write_text("1::7::so  funny::978300761\n2::7::French::9\n1::7::French::9\n")
        convert("movielens", [folder], tmp_path / f"{name}-out")
        acted, items = tables(tmp_path / f"{name}-out")
        assert acted == [{"user_id": "1", "item_id": "7", "rating": 5.0, "timestamp": 978300760.0}]
        assert items == [
            {
                "item_id": "7", "title": "Caf\u00e9: a film (1995)", "genres": ["Comedy", "Drama"], "year": 1995.0,
                "tags": ["French", "so funny"] if more == "tags.dat" else [],
            }
        ]  # fmt: skip


def test_movielens_tables_are_read_from_the_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ml-25m.zip", "w") as archive:
        archive.writestr("ml-25m/", "")
        archive.writestr("ml-25m/ratings.csv", "userId,movieId,rating,timestamp\r\n1,296,5.0,1147880044\r\n")
        archive.writestr(
            "ml-25m/movies.csv",
            'movieId,title,genres\r\n296,"Film, The ""Best"" (1994) ",Comedy|War\r\n3,X,(no genres listed)\r\n',
        )
        archive.writestr("ml-25m/tags.csv", 'userId,movieId,tag,timestamp\r\n3,296,"a, b",1\r\n')
    convert("movielens", [tmp_path / "ml-25m.zip"], tmp_path / "out")
    acted, items = tables(tmp_path / "out")
    assert acted == [{"user_id": "1", "item_id": "296", "rating": 5.0, "timestamp": 1147880044.0}]
    assert items == [
        {
            "item_id": "296", "title": 'Film, The "Best" (1994)', "genres": ["Comedy", "War"], "year": 1994.0,
            "tags": ["a, b"],
        },
        {"item_id": "3", "title": "X", "genres": [], "year": None, "tags": []},
    ]  # fmt: skip


def test_wrong_movielens_files_are_named(tmp_path: Path) -> None:
    folder = ml100k(tmp_path / "ml")
    (folder / "u.data").write_text("196\t242\t3\t881250949\n1\t2\t3\n1\t2\tgood\t4\n\t2\t3\t4\n")
    with pytest.raises(DataError, match=r"u.data: line 2 has 3 cells, expected 4"):
        convert("movielens", [folder], tmp_path / "out")
    report = convert("movielens", [folder], tmp_path / "out", skip_bad_lines=True)
    assert report["bad lines"] == 3
    assert [one.split(": ")[1] for one in report["examples"]] == [
        "line 2 has 3 cells, expected 4", "line 3 must have a number, found 'good'", "line 4 has an empty id",
    ]  # fmt: skip
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: expected u.data and u.item, .* found nothing"):
        convert("movielens", [tmp_path / "empty"], tmp_path / "no")
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        convert("movielens", [tmp_path / "nowhere"], tmp_path / "no")
    with pytest.raises(DataError, match=r"u.data: expected a folder or a .zip archive"):
        convert("movielens", [folder / "u.data"], tmp_path / "no")
    tabled = tmp_path / "tabled"
    tabled.mkdir()
    (tabled / "ratings.csv").write_text("1,296,5.0,1147880044\n")
    (tabled / "movies.csv").write_text("movieId,title,genres\n")
    with pytest.raises(DataError, match=r"ratings.csv: expected a header that begins with userId or movieId"):
        convert("movielens", [tabled], tmp_path / "no")


def test_microlens_takes_times_titles_and_covers(tmp_path: Path) -> None:
    folder = tmp_path / "MicroLens-50k"
    (folder / "MicroLens-50k_covers").mkdir(parents=True)
    (folder / "MicroLens-50k_covers/12.jpg").write_bytes(b"x")
    (folder / "MicroLens-50k_pairs.csv").write_text("user,item,timestamp\n5,12,1583378629552\n5,13,1583378630000\n")
    (folder / "MicroLens-50k_titles.csv").write_text('item,title\n12,"A, cat"\n13,A dog, unquoted\n')
    (folder / "tags_to_summary.csv").write_text("videoID,category\n13,pets\n")
    convert("microlens", [folder], tmp_path / "out")
    acted, items = tables(tmp_path / "out")
    assert acted == [
        {"user_id": "5", "item_id": "12", "timestamp": 1583378629.552},
        {"user_id": "5", "item_id": "13", "timestamp": 1583378630.0},
    ]
    assert items == [
        {"item_id": "12", "title": "A, cat", "category": "", "image": "MicroLens-50k_covers/12.jpg"},
        {"item_id": "13", "title": "A dog, unquoted", "category": "pets", "image": ""},
    ]


def test_microlens_lists_have_places_for_times(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/MicroLens-100k_pairs.tsv").write_text("5\t12 13\n6\t13\n")
    (tmp_path / "in/MicroLens-100k_title_en.csv").write_text("12,A cat\n13,A dog\n")
    convert("microlens", [tmp_path / "in"], tmp_path / "out")
    acted, items = tables(tmp_path / "out")
    assert [tuple(row.values()) for row in acted] == [("5", "12", 0.0), ("5", "13", 1.0), ("6", "13", 0.0)]
    assert [item["title"] for item in items] == ["A cat", "A dog"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "x_pairs.csv",
            "who,what\n1,2\n",
            "x_pairs.csv: expected a header such as user,item,timestamp, found who,what",
        ),
        ("x_pairs.csv", "user,item,timestamp\n1,2\n", "x_pairs.csv: line 2 has 2 cells, the header has 3"),
        ("x_pairs.csv", "user,item,timestamp\n1,,3\n", "x_pairs.csv: line 2 has an empty id"),
        ("x_pairs.csv", "user,item,timestamp\n1,2,x\n", "x_pairs.csv: line 2 must have a time, found 'x'"),
        ("x_pairs.tsv", "1 2 3\n", "x_pairs.tsv: line 1 must have a user, a tab and the items"),
        ("y_titles.csv", "1\n", "expected one file of titles, found x_titles.csv, y_titles.csv"),
        ("x_titles.csv", "1\n", "x_titles.csv: line 1 must have an id and a text"),
        ("x_pairs.txt", "1\n", "expected a file of pairs .*_pairs.csv, .*_pairs.tsv., found x_pairs.txt, x_titles.csv"),
    ],
)
def test_wrong_microlens_files_are_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x_titles.csv").write_text("2,A cat\n")
    if "titles" in name:
        (tmp_path / "in/x_pairs.tsv").write_text("1\t2\n")
    (tmp_path / "in" / name).write_text(text)
    with pytest.raises(DataError, match=said):
        convert("microlens", [tmp_path / "in"], tmp_path / "out")


def hugging(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\n---\n")
    for split, users in (("train", [1, 2]), ("test", [3])):
        rows = {"reader": users, "book": [f"b{k}" for k in users], "stars": [4.0] * len(users)}
        when = pa.array([1_600_000_000_000_000] * len(users), pa.timestamp("us"))
        pq.write_table(pa.table({**rows, "when": when}), folder / f"data/{split}-00000-of-00001.parquet")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    books = {
        "book": ["b1", "b2", "b3"],
        "title": ["One", "Two", "Three"],
        "topics": [["x", "y"], [], None],
        "cover": pa.array([{"bytes": PNG, "path": "1.png"}, None, {"bytes": b"?", "path": "3"}], kind),
        "author": [{"name": "A"}] * 3,
    }
    (folder / "books").mkdir()
    pq.write_table(pa.table(books), folder / "books/all.parquet")
    return folder


BOOKS = HuggingFaceConfig(
    interactions="data/*.parquet", items="books/*.parquet", user="reader", item="book", rating="stars", time="when"
)


def test_a_hugging_face_folder_gives_splits_lists_and_images(tmp_path: Path) -> None:
    report = convert("hf", [hugging(tmp_path / "in")], tmp_path / "out", config=BOOKS)
    acted, items = tables(tmp_path / "out")
    assert acted == [  # test-... comes before train-...
        {"user_id": "3", "item_id": "b3", "rating": 4.0, "timestamp": 1.6e9, "x_label": 2},
        {"user_id": "1", "item_id": "b1", "rating": 4.0, "timestamp": 1.6e9, "x_label": 0},
        {"user_id": "2", "item_id": "b2", "rating": 4.0, "timestamp": 1.6e9, "x_label": 0},
    ]
    assert items == [
        {"item_id": "b1", "title": "One", "topics": ["x", "y"], "cover": "images/cover_0.png"},
        {"item_id": "b2", "title": "Two", "topics": [], "cover": ""},
        {"item_id": "b3", "title": "Three", "topics": None, "cover": ""},
    ]
    assert (tmp_path / "out/images/cover_0.png").read_bytes() == PNG
    assert report["notes"] == {
        "images of an unknown kind, left out": 1,
        "column author of items left out (struct<name: string>)": 1,
    }


def test_items_in_the_rows_of_a_hugging_face_folder_can_be_built(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rows = {
        "user_id": ["a", "a", "b", "b"], "item_id": [1, 2, 1, 2], "rating": [1, 2, 3, 4],
        "timestamp": ["2024-05-01"] * 4, "title": ["One", "Two", "One", "Two"],
    }  # fmt: skip
    pq.write_table(pa.table(rows), tmp_path / "in/train.parquet")
    convert("hf", [tmp_path / "in"], tmp_path / "out")
    made = tmp_path / "out"
    assert pq.read_schema(made / "items.parquet").names == ["item_id", "title"]
    config = BuildConfig(core=0, duplicates="first")
    build(made / "items.parquet", made / "interactions.parquet", tmp_path / "built", config)
    data = load(tmp_path / "built")
    assert data.items.ids.tolist() == [1, 2]
    assert data.item_metadata is not None
    assert data.item_metadata.titles == ("One", "Two")
    assert data.times is not None
    assert data.times.tolist() == [1714521600.0] * 4


def test_wrong_hugging_face_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        convert("hf", [tmp_path / "nowhere"], tmp_path / "out")
    folder = hugging(tmp_path / "in")
    with pytest.raises(DataError, match=r"in: found no .parquet file that is called x/\*"):
        convert("hf", [folder], tmp_path / "out", config=HuggingFaceConfig(interactions="x/*"))
    with pytest.raises(DataError, match=r"has other columns than all.parquet; name the files with --interactions"):
        convert("hf", [folder], tmp_path / "out")
    with pytest.raises(DataError, match=r"no column 'nobody' .--user-col."):
        convert("hf", [folder], tmp_path / "out", config=BOOKS.model_copy(update={"user": "nobody"}))
    broken = folder / "data/train-00000-of-00001.parquet"
    data = broken.read_bytes()
    broken.write_bytes(data[:4] + b"\xff" * 40 + data[44:])
    with pytest.raises(DataError, match=r"train-00000-of-00001.parquet: cannot be read"):
        convert("hf", [folder], tmp_path / "out", config=BOOKS)


def test_a_recbole_folder_keeps_its_split_and_the_kinds_of_its_columns(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    for name, line in (("train", "a\tp\t5\t1"), ("valid", "a\tq\t4\t2"), ("test", "b\tp\t3\t3")):
        (folder / f"shop.{name}.inter").write_text(f"{head}{line}\n")
    (folder / "shop.item").write_text(
        "item_id:token\ttitle:token_seq\tclass:token_seq\tprice:float\tbrand:token\tvec:float_seq\n"
        "p\tA blue mug\tcups blue\t3.5\tAlder\t1 2\nq\t\t\t\t\t\n"
    )
    report = convert("recbole", [folder], tmp_path / "out")
    acted, items = tables(tmp_path / "out")
    assert [tuple(row.values()) for row in acted] == [
        ("a", "p", 5.0, 1.0, 0), ("a", "q", 4.0, 2.0, 1), ("b", "p", 3.0, 3.0, 2),
    ]  # fmt: skip
    assert items == [
        {"item_id": "p", "title": "A blue mug", "class": ["cups", "blue"], "price": 3.5, "brand": "Alder"},
        {"item_id": "q", "title": "", "class": [], "price": None, "brand": ""},
    ]
    assert report["notes"] == {"column vec of items left out (float_seq)": 1}


def test_a_recbole_file_alone_gives_items_without_a_description(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\na\tp\nb\tp\n")
    convert("recbole", [tmp_path / "x.inter"], tmp_path / "out")
    assert tables(tmp_path / "out")[1] == [{"item_id": "p"}]
    (tmp_path / "y.inter").write_text("userID\titemID\n0\t1\n")
    with pytest.raises(
        DataError, match=r"y.inter: expected RecBole's header, such as user_id:token, found userID, itemID"
    ):
        convert("recbole", [tmp_path / "y.inter"], tmp_path / "no")
    with pytest.raises(DataError, match=r"expected one .inter file, .* found x.inter, y.inter"):
        convert("recbole", [tmp_path], tmp_path / "no")


def test_kinds_sources_and_empty_tables_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown kind 'netflix', expected one of amazon, movielens"):
        convert("netflix", [tmp_path], tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"movielens takes one source, found 2"):
        convert("movielens", [tmp_path, tmp_path], tmp_path / "out")
    folder = ml100k(tmp_path / "ml")
    (folder / "u.data").write_text("")
    with pytest.raises(DataError, match=r"found no interactions in ml"):
        convert("movielens", [folder], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ml"]


def test_the_command_leads_from_raw_files_to_a_data_folder(tmp_path: Path) -> None:
    lines = [{**REVIEW_2014, "reviewerID": f"A{u}", "asin": f"B0{i}"} for u in range(3) for i in range(3)]
    reviews = packed(tmp_path / "r.json.gz", *lines, "{broken")
    meta = packed(tmp_path / "m.json.gz", *(META_2014.replace("B01", f"B0{i}") for i in range(3)))
    run, out = CliRunner(), tmp_path / "raw"
    arguments = ["data", "import", "amazon", str(reviews), str(meta), "--out", str(out), "--skip-bad-lines"]
    result = run.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "1 bad lines left out, such as" in result.output
    built = tmp_path / "built"
    result = run.invoke(
        app,
        ["data", "build", "--items", str(out / "items.parquet"), "--interactions", str(out / "interactions.parquet"),
         "--out", str(built), "--core", "3", "--keep", "brand", "--number", "price"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(load(built).interactions) == 9


def test_splits_of_hugging_face_may_be_folders_and_words_not_used_are_noted(tmp_path: Path) -> None:
    rows = pa.table({"user_id": ["a", "b"], "item_id": ["x", "y"]})
    for part in ("train", "test"):
        (tmp_path / f"in/default/{part}").mkdir(parents=True)
        pq.write_table(rows, tmp_path / f"in/default/{part}/0000.parquet")
    convert("hf", [tmp_path / "in"], tmp_path / "out")
    assert pq.read_table(tmp_path / "out/interactions.parquet")["x_label"].to_pylist() == [2, 2, 0, 0]
    (tmp_path / "in/default/test").rename(tmp_path / "in/default/more")
    report = convert("hf", [tmp_path / "in"], tmp_path / "out2")
    assert report["notes"] == {"files named after a part, such as train, whose parts are not used": 1}
    assert "x_label" not in pq.read_table(tmp_path / "out2/interactions.parquet").column_names


def test_columns_of_hugging_face_files_get_a_type_that_holds_all(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, price in (("a", pa.nulls(1)), ("b", pa.array([1.5])), ("c", pa.array([2]))):
        rows = pa.table({"user_id": ["u"], "item_id": [name], "price": price})
        pq.write_table(rows, tmp_path / f"in/{name}.parquet")
    convert("hf", [tmp_path / "in"], tmp_path / "out")
    assert pq.read_table(tmp_path / "out/items.parquet")["price"].to_pylist() == [None, 1.5, 2]
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["d"], "price": [["x"]]}), tmp_path / "in/d.parquet")
    with pytest.raises(DataError, match=r"d\.parquet: column 'price' holds list<.*>, which does not fit a\.parquet"):
        convert("hf", [tmp_path / "in"], tmp_path / "out2")
