"""An items table becomes a feature matrix in its order, with zeros for what is absent and a record of it all."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gtcrec.cli import execute
from gtcrec.data import load, write_catalogue
from gtcrec.data.encode import EncodeConfig, encode
from gtcrec.errors import ConfigError, DataError
from gtcrec.files import sha256

TABLE = """item_id,title,more
a,red shoe,
b,,
c,blue shoe,of leather
d, ,green
"""
LENGTHS = EncodeConfig(text=("title", "more"), encoder="lengths", batch=2)


def lengths(texts: Sequence[str]) -> np.ndarray:
    """Two numbers a text: its length, and its number of words."""
    return np.array([[len(text), len(text.split())] for text in texts], dtype=np.float64)


def means(images: Sequence[Any]) -> np.ndarray:
    return np.array([np.asarray(image).mean(axis=(0, 1)) for image in images])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "items.csv").write_text(TABLE)
    return tmp_path / "items.csv"


def test_rows_stand_in_the_order_of_the_table_and_empty_ones_are_zero(table: Path) -> None:
    out = table.parent / "text_feat.npy"
    found = encode(table, out, LENGTHS, lengths)
    assert np.load(out).tolist() == [[8, 2], [0, 0], [20, 4], [5, 1]]
    assert np.load(out).dtype == np.float32
    assert (found.rows, found.width, found.present, found.empty, found.failures) == (4, 2, 3, 1, ())
    assert sorted(os.listdir(table.parent)) == ["items.csv", "text_feat.json", "text_feat.npy"]


def test_the_record_says_where_the_numbers_come_from(table: Path) -> None:
    out = table.parent / "text_feat.npy"
    encode(table, out, LENGTHS, lengths)
    assert json.loads((table.parent / "text_feat.json").read_text()) == {
        "file": {"name": "text_feat.npy", "sha256": sha256(out), "dtype": "float32"},
        "source": {"table": "items.csv", "sha256": sha256(table), "text": ["title", "more"], "image": None},
        "encoder": {"name": "lengths"},
        "rows": 4,
        "width": 2,
        "present": 3,
        "empty": 1,
        "failures": [],
    }


def test_half_precision_is_an_option_that_the_readers_take(table: Path) -> None:
    out = table.parent / "text_feat.npy"
    encode(table, out, LENGTHS.model_copy(update={"dtype": "float16"}), lengths)
    assert (np.load(out).dtype, np.load(out)[2].tolist()) == (np.float16, [20, 4])
    (table.parent / "interactions.csv").write_text("user_id,item_id\nu,d\nu,a\nv,b\n")
    features = load(table.parent).features
    assert features.values["text"].tolist() == [[8, 2], [0, 0], [20, 4], [5, 1]]
    assert features.present["text"].tolist() == [True, False, True, True]


def test_a_block_without_content_does_not_matter(table: Path) -> None:
    out = table.parent / "text_feat.npy"
    encode(table, out, LENGTHS.model_copy(update={"block": 1}), lengths)
    assert np.load(out).tolist() == [[8, 2], [0, 0], [20, 4], [5, 1]]


def test_an_encoding_that_stopped_goes_on(table: Path) -> None:
    out, asked = table.parent / "text_feat.npy", []

    def stumble(texts: Sequence[str]) -> np.ndarray:
        if "green" in texts and "green" not in asked:
            asked.append("green")
            raise KeyboardInterrupt
        asked.extend(texts)
        return lengths(texts)

    config = LENGTHS.model_copy(update={"block": 1})
    with pytest.raises(KeyboardInterrupt):
        encode(table, out, config, stumble)
    assert not out.exists()
    encode(table, out, config, stumble)
    assert asked == ["red shoe", "blue shoe of leather", "green", "green"]
    assert np.load(out).tolist() == [[8, 2], [0, 0], [20, 4], [5, 1]]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A table of images: two good ones, none, and five that cannot be read."""
    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "good.png")
    Image.new("RGB", (4, 4), (200, 100, 0)).save(tmp_path / "other.jpg", quality=95)
    Image.new("1", (10_000, 5_001)).save(tmp_path / "huge.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:50])
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "empty.jpg").write_bytes(b"")
    names = ["cut.png", "good.png", "", "page.jpg", "other.jpg", "huge.png", "empty.jpg", "gone.jpg"]
    lines = [f"{number},{name}" for number, name in enumerate(names, 100)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,image", *lines, ""]))
    return tmp_path / "items.csv"


MEANS = EncodeConfig(image="image", encoder="means")


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_images_that_cannot_be_read_are_absent_and_listed(pictures: Path, batch: int) -> None:
    out = pictures.parent / "image_feat.npy"
    found = encode(pictures, out, MEANS.model_copy(update={"batch": batch}), means)
    assert np.load(out)[1].tolist() == [10, 20, 30]
    assert np.load(out)[4] == pytest.approx([200, 100, 0], abs=3)
    assert np.flatnonzero(np.load(out).any(axis=1)).tolist() == [1, 4]
    assert (found.present, found.empty) == (2, 1)
    assert [(one["row"], one["item"], one["reason"].split(":")[0]) for one in found.failures] == [
        (0, 100, "damaged"),
        (3, 103, "not an image of a known kind (BMP, GIF, JPEG, PNG, TIFF, WEBP)"),
        (5, 105, "more than 50,000,000 pixels"),
        (6, 106, "the file is empty"),
        (7, 107, "no such file"),
    ]
    record = (pictures.parent / "image_feat.json").read_text()
    assert json.loads(record)["failures"] == list(found.failures)
    assert str(pictures.parent) not in record


def test_images_may_stand_in_the_table_as_bytes(pictures: Path) -> None:
    files = ["good.png", "empty.jpg", "other.jpg", "page.jpg"]
    contents = [None, *((pictures.parent / file).read_bytes() for file in files)]
    pq.write_table(pa.table({"image": pa.array(contents, pa.binary())}), pictures.parent / "table.parquet")
    out = pictures.parent / "image_feat.npy"
    found = encode(pictures.parent / "table.parquet", out, MEANS, means)
    assert np.flatnonzero(np.load(out).any(axis=1)).tolist() == [1, 3]
    assert (found.present, found.empty) == (2, 1)
    assert [(one["row"], one["reason"]) for one in found.failures] == [
        (2, "the file is empty"),
        (4, "not an image of a known kind (BMP, GIF, JPEG, PNG, TIFF, WEBP)"),
    ]


def test_an_image_that_was_replaced_is_not_taken_from_an_old_block(pictures: Path) -> None:
    def stop(images: Sequence[Any]) -> np.ndarray:
        if means(images)[0, 0] > 100:
            raise KeyboardInterrupt
        return means(images)

    out, config = pictures.parent / "image_feat.npy", MEANS.model_copy(update={"block": 2})
    with pytest.raises(KeyboardInterrupt):
        encode(pictures, out, config, stop)
    Image.new("RGB", (4, 4), (11, 22, 33)).save(pictures.parent / "good.png")
    encode(pictures, out, config, means)
    assert np.load(out)[1].tolist() == [11, 22, 33]


def test_a_vector_of_zeros_is_listed(table: Path) -> None:
    found = encode(table, table.parent / "x_feat.npy", LENGTHS, lambda texts: lengths(texts) * (len(texts[0]) > 5))
    assert [(one["item"], one["reason"]) for one in found.failures] == [
        ("a", "its vector is zero"),
        ("d", "its vector is zero"),
    ]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda texts: lengths(texts)[:1], r"the encoder must give \[2, width\] numbers, found \[1, 2\]"),
        (lambda texts: lengths(texts)[:, 0], r"the encoder must give \[2, width\] numbers, found \[2\]"),
        (lambda texts: lengths(texts)[:, : len(texts)], r"the encoder must give \[1, 2\] numbers, found \[1, 1\]"),
        (lambda texts: np.log(lengths(texts) - 5), r"NaN or a number beyond float32 for row 3 \(counted from 0\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_an_encoder_that_gives_something_else_is_refused(table: Path, function: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode(table, table.parent / "x_feat.npy", LENGTHS, function)


def test_widths_that_differ_between_blocks_are_refused(table: Path) -> None:
    config = LENGTHS.model_copy(update={"block": 1})
    with pytest.raises(DataError, match="the encoder gave vectors of 8 numbers, then of 20"):
        encode(table, table.parent / "x_feat.npy", config, lambda texts: np.ones((1, len(texts[0]))))
    assert encode(table, table.parent / "x_feat.npy", config, lengths).width == 2  # no old block is in the way


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"text": ()}, ConfigError, "wanted text columns or an image column, found neither"),
        ({"image": "title"}, ConfigError, "wanted text columns or an image column, found both"),
        ({"text": (), "image": "title", "encoder": ""}, ConfigError, "images need an encoder"),
        ({"text": ("titel",)}, DataError, r"no column 'titel', found .*\(did you mean 'title'\?\)"),
        ({"text": (), "image": "title", "encoder": "x"}, DataError, "no row has content that can be read in 'title'"),
    ],
)
def test_what_cannot_be_encoded_is_refused(
    table: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    config, out = LENGTHS.model_copy(update=change), table.parent / "x_feat.npy"
    with pytest.raises(error, match=message):
        encode(table, out, config, means if config.encoder == "x" else None if config.image else lengths)
    assert not out.exists()


def test_names_are_wanted_for_the_file_and_for_a_function(table: Path) -> None:
    with pytest.raises(ConfigError, match=r"features\.npy: wanted a name that ends in _feat\.npy, such as text_feat"):
        encode(table, table.parent / "features.npy", LENGTHS, lengths)
    with pytest.raises(ConfigError, match="a function needs a name: set `encoder`"):
        encode(table, table.parent / "x_feat.npy", LENGTHS.model_copy(update={"encoder": ""}), lengths)


def test_an_image_outside_the_folder_is_refused(table: Path) -> None:
    table.write_text("item_id,image\na,../secret.png\n")
    with pytest.raises(DataError, match=r"image '\.\./secret\.png' \(line 2 of items\.csv\) must be a path inside"):
        encode(table, table.parent / "x_feat.npy", MEANS, means)


def test_rows_must_stand_in_the_order_of_the_numbers_that_an_inter_file_uses(table: Path) -> None:
    (table.parent / "shop.inter").write_text("userID\titemID\n0\t0\n")
    table.write_text("itemID,title\n0,a\n2,b\n1,c\n")
    config = EncodeConfig(text=("title",), encoder="lengths")
    with pytest.raises(DataError, match=r"order of itemID from 0; found itemID '2' in line 3 of items\.csv"):
        encode(table, table.parent / "x_feat.npy", config, lengths)
    table.write_text("itemID,title\n0,a\n1,b\n")
    assert encode(table, table.parent / "x_feat.npy", config, lengths).present == 2


def test_a_folder_with_a_manifest_can_be_read_afterwards(tmp_path: Path) -> None:
    shop = write_catalogue(tmp_path / "shop", n_users=60, n_items=40)
    encode(shop / "items.csv", shop / "text_feat.npy", EncodeConfig(text=("title",), encoder="lengths"), lengths)
    assert load(shop).features.values["text"].shape == (40, 2)
    (shop / "items.csv").write_text("item_id\n")
    with pytest.raises(DataError, match=r"items\.csv: damaged or edited"):
        load(shop)


def test_without_transformers_its_extra_is_named(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'huggingface_hub is not installed; pip install "gtcrec\[encode\]"'):
        encode(table, table.parent / "x_feat.npy", EncodeConfig(text=("title",)))
    config = EncodeConfig(text=("title",), encoder=str(table.parent))
    with pytest.raises(ConfigError, match=r'transformers is not installed; pip install "gtcrec\[encode\]"'):
        encode(table, table.parent / "x_feat.npy", config)


class TestCommand:
    def test_wrong_usage_exits_2(self, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = ["data", "encode", str(table), "--out", "x_feat.npy"]
        for more in ([], ["--text", "title", "--image", "title"]):
            assert execute([*line, *more]) == 2
            assert "wanted --text COL[,COL] or --image COL" in capsys.readouterr().err

    def test_images_without_an_encoder_are_an_error(self, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = ["data", "encode", str(pictures), "--image", "image", "--out", str(pictures.parent / "image_feat.npy")]
        assert execute(line) == 1
        assert capsys.readouterr().err == (
            "error: images need an encoder, a folder or a name on the hub: set `encoder`\n"
        )

    def test_a_name_that_the_hub_does_not_give_is_an_error(self, table: Path) -> None:
        line = [sys.executable, "-m", "gtcrec", "data", "encode", str(table), "--text", "title,more"]
        done = subprocess.run(
            [*line, "--out", str(table.parent / "x_feat.npy"), "--encoder", "nobody/nothing"],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(table.parent / "hub")},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert (done.returncode, done.stdout) == (1, "")
        start = "error: encoder 'nobody/nothing': no such folder, and not to be had from the hub: "
        assert done.stderr.startswith(start)
        assert done.stderr.count("\n") == 1
        assert sorted(path.name for path in table.parent.glob("*feat*")) == []
