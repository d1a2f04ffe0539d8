"""An items table becomes a feature matrix in its order, with zeros for what is absent and a record of it all."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import gtcrec
from gtcrec.cli.main import execute
from gtcrec.data import load, write_catalog
from gtcrec.data.features.extract import EncodeConfig, encode
from gtcrec.errors import ConfigError, DataError
from gtcrec.runtime.files import sha256

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
    assert sorted(os.listdir(table.parent)) == [
        "items.csv", "text_feat.encoder.npz", "text_feat.json", "text_feat.keys.npy", "text_feat.npy",
    ]  # fmt: skip


def test_the_record_says_where_the_numbers_come_from(table: Path) -> None:
    out, before = table.parent / "text_feat.npy", datetime.now(UTC).replace(microsecond=0)
    encode(table, out, LENGTHS, lengths)
    record = json.loads((table.parent / "text_feat.json").read_text())
    assert before <= datetime.fromisoformat(record.pop("made")) <= datetime.now(UTC)
    assert record == {
        "file": {"name": "text_feat.npy", "sha256": sha256(out), "dtype": "float32"},
        "keys": {"name": "text_feat.keys.npy", "sha256": sha256(table.parent / "text_feat.keys.npy")},
        "fitted": {"name": "text_feat.encoder.npz", "sha256": sha256(table.parent / "text_feat.encoder.npz")},
        "gtcrec": gtcrec.__version__,
        "source": {"table": "items.csv", "sha256": sha256(table), "kind": "text", "columns": ["title", "more"]},
        "encoder": {"name": "lengths", "source": f"{__name__}:lengths {sha256(Path(__file__))}"},
        "rows": 4,
        "width": 2,
        "present": 3,
        "empty": 1,
        "reused": 0,
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


def test_equal_contents_are_encoded_once_and_short_texts_first(table: Path) -> None:
    table.write_text(TABLE + "e,blue shoe,of leather\nf,red shoe,\n")
    out, asked = table.parent / "text_feat.npy", []
    encode(table, out, LENGTHS, lambda texts: asked.append(list(texts)) or lengths(texts))
    assert asked == [["green", "red shoe"], ["blue shoe of leather"]]
    assert np.load(out).tolist() == [[8, 2], [0, 0], [20, 4], [5, 1], [20, 4], [8, 2]]


def test_an_encoding_that_stopped_goes_on(table: Path) -> None:
    out, asked = table.parent / "text_feat.npy", []

    def stumble(texts: Sequence[str]) -> np.ndarray:
        if "red shoe" in texts and "red shoe" not in asked:
            asked.append("red shoe")
            raise KeyboardInterrupt
        asked.extend(texts)
        return lengths(texts)

    config = LENGTHS.model_copy(update={"batch": 1})
    with pytest.raises(KeyboardInterrupt):
        encode(table, out, config, stumble)
    assert not out.exists()
    encode(table, out, config, stumble)
    assert asked == ["green", "red shoe", "red shoe", "blue shoe of leather"]
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


def test_an_image_that_was_replaced_is_not_taken_from_an_old_batch(pictures: Path) -> None:
    def stop(images: Sequence[Any]) -> np.ndarray:
        if means(images)[0, 0] > 100:
            raise KeyboardInterrupt
        return means(images)

    out, config = pictures.parent / "image_feat.npy", MEANS.model_copy(update={"batch": 1})
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
        (lambda texts: lengths(texts)[:, : len(texts)], "the encoder gave vectors of 2 numbers, then of 1"),
        (lambda texts: lengths(texts)[:, :0], r"the encoder must give \[2, width\] numbers, found \[2, 0\]"),
        (lambda texts: np.log(lengths(texts) - 5), r"NaN or a number beyond float32 for row 3 \(counted from 0\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_an_encoder_that_gives_something_else_is_refused(table: Path, function: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode(table, table.parent / "x_feat.npy", LENGTHS, function)


def test_widths_that_differ_between_batches_are_refused(table: Path) -> None:
    config = LENGTHS.model_copy(update={"batch": 1})
    with pytest.raises(DataError, match="the encoder gave vectors of 5 numbers, then of 8"):
        encode(table, table.parent / "x_feat.npy", config, lambda texts: np.ones((1, len(texts[0]))))
    assert encode(table, table.parent / "x_feat.npy", config, lengths).width == 2  # no old batch is in the way


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"text": ()}, ConfigError, r"one kind \(text, image, file, tags, numbers\), found none"),
        ({"image": "title", "tags": ("more",)}, ConfigError, "found text and image and tags"),
        ({"text": (), "file": "title", "encoder": ""}, ConfigError, "not images need an encoder of your own: set `fun"),
        ({"text": (), "tags": ("title",)}, ConfigError, "tags are encoded without an encoder or a function, found one"),
        ({"text": ("titel",)}, DataError, r"no column 'titel', found .*\(did you mean 'title'\?\)"),
        ({"text": (), "image": "title", "encoder": "x"}, DataError, "no row has content that can be read in 'title'"),
    ],
)
def test_what_cannot_be_encoded_is_refused(
    table: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    config, out = LENGTHS.model_copy(update=change), table.parent / "x_feat.npy"
    with pytest.raises(error, match=message):
        encode(table, out, config, means if config.image else lengths if config.text else None)
    assert not out.exists()


def test_names_are_wanted_for_the_file_and_for_a_function(table: Path) -> None:
    with pytest.raises(ConfigError, match=r"features\.npy: expected a name that ends in _feat\.npy, such as text_feat"):
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
    shop = write_catalog(tmp_path / "shop", n_users=60, n_items=40)
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


def test_without_a_package_whose_version_is_recorded_its_extra_is_named(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    config = EncodeConfig(image="image", encoder=str(pictures.parent))
    with pytest.raises(ConfigError, match=r'torch is not installed; pip install "gtcrec\[encode\]"'):
        encode(pictures, pictures.parent / "x_feat.npy", config)


class TestCommand:
    def test_wrong_usage_exits_2(self, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = ["data", "encode", str(table), "--out", "x_feat.npy"]
        for more in ([], ["--text", "title", "--image", "title"]):
            assert execute([*line, *more]) == 2
            assert "expected one of the keys text, image, file, tags and numbers" in capsys.readouterr().err

    def test_a_function_is_found_beside_the_command(
        self, table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (table.parent / "our_encoder.py").write_text("def count(texts):\n    return [[len(one)] for one in texts]\n")
        monkeypatch.chdir(table.parent)
        monkeypatch.setattr(sys, "path", [*sys.path])
        line = ["data", "encode", "items.csv", "--text", "title", "--function", "our_encoder:count"]
        assert execute([*line, "--out", "x_feat.npy"]) == 0
        assert execute([*line, "--out", "y_feat.npy", "--reuse", "x_feat.npy"]) == 0
        assert capsys.readouterr().err.splitlines() == [
            "0 of 1 batches",
            "1 of 1 batches",
            "2 of 4 items have a vector of 1 numbers: x_feat.npy",
            "0 of 0 batches",
            "2 of 4 items have a vector of 1 numbers (2 as before): y_feat.npy",
        ]
        assert np.load("y_feat.npy").tolist() == [[8], [0], [9], [0]]

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
