"""Fitted encoders: what they make of an item later is what the matrix has of it, and nothing is learnt anew."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from gtcrec.data.build.pipeline import BuildConfig
from gtcrec.data.features import encode_batch
from gtcrec.data.features.extract import EncodeConfig, encode
from gtcrec.data.features.fitted import FittedEncoder, read_encoders, write_encoders
from gtcrec.data.formats.tables import Table, open_table, read_table
from gtcrec.errors import ConfigError, DataError
from gtcrec.runtime.files import check_manifest
from helpers.building import built

WORDS = ["red", "blue", "green", "wool", "silk", "linen", "summer", "winter"]
KINDS = {
    "tags, each a column": EncodeConfig(tags=("tags", "brand")),
    "tags, by singular directions": EncodeConfig(tags=("tags", "brand"), width=3),
    "numbers": EncodeConfig(numbers=("price", "weight")),
    "numbers as float16": EncodeConfig(numbers=("price",), dtype="float16"),
    "images": EncodeConfig(image="image", batch=4),
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["item_id,tags,brand,price,weight,image"]
    for item in range(30):
        tags = "|".join(rng.choice(WORDS, rng.integers(0, 4), replace=False))
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / f"{item}.png")
        weight = "" if item % 3 else f"{rng.normal():.3f}"
        lines.append(f"{item},{tags},brand{item % 7},{rng.normal(20, 5):.2f},{weight},{item}.png")
    (tmp_path / "items.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "items.csv"


def fitted(table: Path, config: EncodeConfig) -> tuple[FittedEncoder, np.ndarray]:
    out = table.parent / "x_feat.npy"
    encode(table, out, config)
    return read_encoders(out.with_suffix(".encoder.npz"))[0]["x"], np.load(out)


def one_row(table: Path, row: int) -> Table:
    return Table(open_table(table), read_table(table).columns.slice(row, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_by_itself_gets_the_row_that_it_has_in_the_matrix(table: Path, kind: str) -> None:
    encoder, x = fitted(table, KINDS[kind])
    rows = [encoder.encode(one_row(table, row)) for row in range(len(x))]
    assert np.array_equal(np.concatenate([vectors for vectors, _ in rows]), x)
    assert {vectors.dtype for vectors, _ in rows} == {x.dtype}
    assert [reasons == [None] for _, reasons in rows] == x.any(axis=1).tolist()


def test_nothing_is_learnt_of_the_new_items(table: Path) -> None:
    encoder, x = fitted(table, KINDS["numbers"])
    other = table.parent / "other.csv"
    other.write_text(table.read_text() + "new,,,9000,5000,\n")
    out = table.parent / "y_feat.npy"
    encode(other, out, KINDS["numbers"], fitted=encoder)
    assert np.array_equal(np.load(out)[:-1], x)
    mean, std = encoder.scales[0].mean, encoder.scales[0].std
    assert np.load(out)[-1, 0] == pytest.approx((9000 - mean) / std)
    again = read_encoders(out.with_suffix(".encoder.npz"))[0]["y"]
    assert again.scales == encoder.scales


def test_tags_that_were_not_there_are_left_out(table: Path) -> None:
    encoder, _ = fitted(table, KINDS["tags, each a column"])
    file = open_table(table)
    cells = [["red|tartan", "red", "tartan", ""], ["", "", "unheard", ""]]
    x, reasons = encoder.encode(Table(file, pa.table(dict(zip(("tags", "brand"), cells, strict=True)))))
    assert np.array_equal(x[0], x[1])
    assert x[0].any()
    assert not x[2:].any()
    assert reasons[0] is None
    assert "were not there when it was fitted" in reasons[2]
    assert reasons[3] == ""


def test_a_number_is_far_out_by_what_the_catalog_was(table: Path) -> None:
    encoder, _ = fitted(table, KINDS["numbers as float16"])
    x, reasons = encoder.encode(Table(open_table(table), pa.table({"price": ["1e12", "21.5"]})))
    assert reasons[0] == "price is more than 10^6 times further out than others: 1e+12"
    assert x[:, 1].tolist() == [0, 1]


def test_a_column_that_is_not_there_counts_as_empty(table: Path) -> None:
    encoder, _ = fitted(table, KINDS["numbers"])
    x, reasons = encoder.encode(Table(open_table(table), pa.table({"price": ["20", ""]})))
    assert x[:, 1:].tolist() == [[1, 0, 0], [0, 0, 0]]
    assert reasons == [None, ""]


def test_a_table_without_any_image_needs_no_encoder(table: Path) -> None:
    encoder, x = fitted(table, KINDS["images"])
    gone = replace(encoder, about={"name": "gone", "files": {"model.safetensors": "00"}})
    found, reasons = gone.encode(Table(open_table(table), pa.table({"image": ["", None]})))
    assert (found.shape, reasons) == ((2, x.shape[1]), ["", ""])
    assert not found.any()


def test_another_version_of_the_descriptor_is_refused(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = fitted(table, KINDS["images"])
    monkeypatch.setitem(encode_batch.DESCRIPTOR, "version", 2)
    with pytest.raises(ConfigError, match=r"'colour-layout': not the one .* its version differ, expected 1, found 2"):
        encoder.encode(one_row(table, 0))


def lengths(texts):
    return np.array([[len(text), 1.0] for text in texts])


def test_a_function_that_was_handed_over_cannot_be_found_again(table: Path) -> None:
    out = table.parent / "x_feat.npy"
    encode(table, out, EncodeConfig(text=("brand",), encoder="lengths"), lengths)
    encoder = read_encoders(out.with_suffix(".encoder.npz"))[0]["x"]
    with pytest.raises(ConfigError, match="'lengths' is a function that was given in Python; encode the items with it"):
        encoder.encode(one_row(table, 0))


def test_a_function_that_is_named_is_found_again(table: Path) -> None:
    config = EncodeConfig(text=("brand",), function=f"{__name__}:lengths")
    encoder, x = fitted(table, config)
    assert np.array_equal(encoder.encode(one_row(table, 3))[0][0], x[3])


def test_equal_encoders_have_equal_files_without_pickle(table: Path) -> None:
    encoder, _ = fitted(table, KINDS["tags, by singular directions"])
    paths = [table.parent / f"{name}.npz" for name in "ab"]
    for path in paths:
        write_encoders(path, {"tags": encoder}, {"built": "here"})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    again, facts = read_encoders(paths[0])
    assert facts == {"built": "here"}
    assert again["tags"].config == encoder.config
    assert np.array_equal(again["tags"].tags.components, encoder.tags.components)
    with np.load(paths[0], allow_pickle=False) as arrays:
        assert {array.dtype.kind for array in arrays.values()} <= {"f", "u"}


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"not a zip at all"])
def test_a_damaged_file_is_refused(table: Path, damage: bytes) -> None:
    path = table.parent / "x.npz"
    path.write_bytes(damage)
    with pytest.raises(DataError, match=r"x\.npz: cannot be read as fitted encoders"):
        read_encoders(path)


def test_a_later_format_is_refused(table: Path) -> None:
    path = table.parent / "x.npz"
    np.savez(path, facts=np.frombuffer(b'{"format": 2}', dtype=np.uint8))
    with pytest.raises(DataError, match="expected format 1, found 2; a later version of gtcrec wrote it"):
        read_encoders(path)


def test_a_built_folder_keeps_the_encoder_of_each_content(tmp_path: Path) -> None:
    built(tmp_path, config=BuildConfig(core=0, category=("genre",), numbers=("price",)))
    named = check_manifest(tmp_path / "out")["files"]
    for name in ("category", "numbers"):
        file = f"{name}_feat.encoder.npz"
        assert file in named
        encoder = read_encoders(tmp_path / "out" / file)[0][name]
        x, _ = encoder.encode(read_table(tmp_path / "out" / "items.parquet"))
        assert np.array_equal(x, np.load(tmp_path / "out" / f"{name}_feat.npy"))
