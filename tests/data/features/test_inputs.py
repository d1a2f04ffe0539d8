"""Contents as they come: texts that are not UTF-8 or endless, files that are absent, empty or elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gtcrec.data.features.encoders import load_function
from gtcrec.data.features.extract import EncodeConfig, encode
from gtcrec.errors import ConfigError, DataError


def lengths(texts: Sequence[str]) -> np.ndarray:
    return np.array([[len(text)] for text in texts])


def sizes(files: Sequence[Any]) -> np.ndarray:
    """The bytes of files; NaN for what does not start as it should."""
    contents = [file if isinstance(file, bytes) else file.read_bytes() for file in files]
    return np.array([[len(one) if one.startswith(b"RIFF") else np.nan] * 2 for one in contents])


def encoded(items: Path, function, **settings):
    out = items.parent / "x_feat.npy"
    found = encode(items, out, EncodeConfig(encoder="ours", **settings), function)
    return found, np.load(out)[:, 0].tolist()


def latin(*texts: bytes) -> pa.Array:
    """Text that is not what its type says, as some writers of Parquet make it."""
    ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(texts), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))])


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_text_that_is_not_utf_8_is_absent_and_listed(tmp_path: Path, kind: str) -> None:
    titles, table = ["café".encode("latin-1"), "café".encode(), b""], tmp_path / f"items.{kind}"
    if kind == "parquet":
        columns = {"item_id": ["a", "b", "c"], "title": latin(*titles), "more": ["x", "", ""]}
        pq.write_table(pa.table(columns), table)
    else:
        lines = [b'{"item_id":"%c","title":"%b","more":""}\n' % (97 + row, title) for row, title in enumerate(titles)]
        table.write_bytes(b"".join(lines))
    found, x = encoded(table, lengths, text=("title", "more"))
    assert x == [0, 4, 0]
    assert (found.present, found.empty) == (1, 1)
    assert found.failures == ({"row": 0, "item": "a", "reason": "title is not UTF-8"},)


def test_tags_and_numbers_that_are_not_utf_8_are_listed(tmp_path: Path) -> None:
    table = pa.table({"item_id": ["a", "b"], "tags": latin(b"caf\xe9", b"tea"), "price": latin(b"\xa35", b"7")})
    pq.write_table(table, tmp_path / "items.parquet")
    for settings in ({"tags": ("tags",)}, {"numbers": ("price",)}):
        found = encode(tmp_path / "items.parquet", tmp_path / "x_feat.npy", EncodeConfig(**settings))
        (name,) = next(iter(settings.values()))
        assert found.present == 1
        assert found.failures == ({"row": 0, "item": "a", "reason": f"{name} is not UTF-8"},)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_that_is_not_utf_8_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "items.csv").write_bytes("item_id,title\na,café\n".encode(encoding))
    with pytest.raises(DataError, match=r"items\.csv: cannot be read: line \d holds byte 0x.., which is not UTF-8"):
        encoded(tmp_path / "items.csv", lengths, text=("title",))


def test_a_description_of_a_million_characters_is_a_text_like_others(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(f"item_id,title\na,{'long ' * 200_000}\nb,short\n")
    assert encoded(tmp_path / "items.csv", lengths, text=("title",))[1] == [999_999, 5]


def test_files_reach_a_function_as_paths_and_what_it_refuses_is_listed(tmp_path: Path) -> None:
    (tmp_path / "good.wav").write_bytes(b"RIFF....")
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    (tmp_path / "empty.wav").write_bytes(b"")
    names = ["good.wav", "bad.wav", "", "empty.wav", "gone.wav", "x" * 500, "good.wav"]
    (tmp_path / "items.csv").write_text("item_id,audio\n" + "".join(f"{n},{name}\n" for n, name in enumerate(names)))
    found, x = encoded(tmp_path / "items.csv", sizes, file="audio")
    assert x == [8, 0, 0, 0, 0, 0, 8]
    assert (found.present, found.empty) == (2, 1)
    assert [(one["item"], one["reason"]) for one in found.failures] == [
        (1, "the encoder gave NaN"),
        (3, "the file is empty"),
        (4, "no such file"),
        (5, "no such file"),  # no file has a name that is too long
    ]


def test_files_may_stand_in_the_table_as_bytes(tmp_path: Path) -> None:
    contents = pa.array([b"RIFF", None, b"", b"other"], pa.large_binary())
    pq.write_table(pa.table({"audio": contents}), tmp_path / "items.parquet")
    found, x = encoded(tmp_path / "items.parquet", sizes, file="audio")
    assert x == [4, 0, 0, 0]
    assert [(one["row"], one["reason"]) for one in found.failures] == [
        (2, "the file is empty"),
        (3, "the encoder gave NaN"),
    ]


def test_a_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,audio\na,../secret.wav\n")
    with pytest.raises(DataError, match=r"image '\.\./secret\.wav' \(line 2 of items\.csv\) must be a path inside"):
        encoded(tmp_path / "items.csv", sizes, file="audio")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("numpy", "function 'numpy': expected package.module:name"),
        (":mean", "function ':mean': expected package.module:name"),
        ("no_such_module:f", "function 'no_such_module:f': No module named 'no_such_module'"),
        ("numpy:meen", r"function 'numpy:meen': numpy has no function 'meen' \(did you mean 'mean'\?\)"),
        ("numpy:pi", "function 'numpy:pi': numpy has no function 'pi'"),
    ],
)
def test_a_function_that_is_not_there_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_function(name)
