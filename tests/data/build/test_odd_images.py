"""Odd cells of an image column and images of odd kinds: counted, read, or refused in terms of the user's files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gtcrec.data import load
from gtcrec.data.build.pipeline import BuildConfig, build
from gtcrec.data.features.images import open_image
from gtcrec.errors import DataError

PHOTO = BuildConfig(core=0, image="photo")


def shop(folder: Path, cells: list[str]) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    for k in range(len(cells)):
        Image.new("RGB", (8, 8), (k * 20, 90, 40)).save(folder / f"images/i{k}.jpg")
    (folder / "clicks.csv").write_text("user,item\n" + "".join(f"u{k},i{k}\n" for k in range(len(cells))))
    (folder / "items.csv").write_text("item,photo,note\n" + "".join(f'i{k},"{one}",\n' for k, one in enumerate(cells)))
    return folder


def built(folder: Path, config: BuildConfig = PHOTO) -> dict:
    return build(folder / "items.csv", folder / "clicks.csv", folder / "out", config)


@pytest.mark.parametrize(
    "cell",
    ["data:image/png;base64," + "A" * 6000, "x" * 300 + ".jpg", "images/" + "a/" * 3000, "https://a.b/c.jpg", " "],
)
def test_one_odd_cell_does_not_end_a_build(tmp_path: Path, cell: str) -> None:
    report = built(shop(tmp_path, ["images/i0.jpg", cell, "images/i2.jpg"]))
    assert [(one["reason"], one["count"]) for one in report["dropped"]] == [
        ("image files not found (the item stays)", 1)
    ]
    assert load(tmp_path / "out").features.present["image"].tolist() == [True, False, True]


def test_paths_with_backslashes_are_paths(tmp_path: Path) -> None:
    built(shop(tmp_path, [f"images\\i{k}.jpg" for k in range(3)]))
    assert load(tmp_path / "out").features.present["image"].all()


@pytest.mark.parametrize(
    ("cells", "config", "said"),
    [
        (["p/0.jpg", "p/1.jpg"], PHOTO, "items.csv: none of 2 files that 'photo' names is in "),
        (["", ""], PHOTO, "items.csv: 'photo' names no image"),
        (
            ["images/i0.jpg"],
            BuildConfig(core=0, text=("note",)),
            "no item that stays has a value in 'note', named by text",
        ),
        (["images/i0.jpg"], BuildConfig(core=0, numbers=("note",)), "has a value in 'note', named by numbers"),
    ],
)
def test_content_that_no_item_has_is_named_and_nothing_is_left(
    tmp_path: Path, cells: list[str], config: BuildConfig, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        built(shop(tmp_path, cells), config)
    assert said in str(caught.value)
    if cells[0].startswith("p/"):
        assert "such as row 1: 'p/0.jpg'; --image-root sets the folder" in str(caught.value)
    built(shop(tmp_path, ["images/i0.jpg", "images/i1.jpg"]))  # the corrected table is not refused
    assert not list(tmp_path.glob(".out*"))


def test_a_build_whose_images_are_all_damaged_leaves_nothing(tmp_path: Path) -> None:
    shop(tmp_path, ["images/i0.jpg", "images/i1.jpg"])
    whole = [file.read_bytes() for file in sorted((tmp_path / "images").iterdir())]
    for file in (tmp_path / "images").iterdir():
        file.write_bytes(whole[0][:40])
    before = {file.name for file in tmp_path.iterdir()}
    with pytest.raises(DataError, match="no row has content that can be read in 'image'"):
        built(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} - {".out.lock"} == before
    for file, content in zip(sorted((tmp_path / "images").iterdir()), whole, strict=True):
        file.write_bytes(content)
    built(tmp_path)  # mended images are taken
    assert load(tmp_path / "out").features.present["image"].all()


@pytest.mark.parametrize("kind", ["<u2", ">u2"])
def test_grey_images_of_16_bits_are_read_in_both_orders(tmp_path: Path, kind: str) -> None:
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(kind)
    mode = {"<u2": "I;16", ">u2": "I;16B"}[kind]
    Image.frombytes(mode, (8, 8), values.tobytes()).save(tmp_path / "grey.tiff")
    rgb = np.asarray(open_image(tmp_path / "grey.tiff"))
    assert rgb[:, :, 0].tolist() == (values // 256).tolist()


def test_the_transparent_value_of_a_16_bit_image_lies_on_white(tmp_path: Path) -> None:
    values = np.array([[1000, 1001], [40000, 1000]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "grey.png", transparency=1000)
    rgb = np.asarray(open_image(tmp_path / "grey.png"))
    assert rgb[:, :, 0].tolist() == [[255, 1001 // 256], [40000 // 256, 255]]
