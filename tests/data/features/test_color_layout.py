"""The descriptor of colours and layout: its numbers by arithmetic, and what it tells apart."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gtcrec.data.features.color_layout import descriptor, lab
from gtcrec.data.features.extract import EncodeConfig, encode


def cell(image: Image.Image, row: int, column: int) -> np.ndarray:
    return descriptor(image)[18 * (4 * row + column) :][:18]


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),  # published values of the primaries
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_colours_are_those_of_cielab(rgb: tuple[int, int, int], expected: tuple[float, float, float]) -> None:
    assert lab(np.array(rgb, dtype=np.uint8)) == pytest.approx(expected, abs=0.03)


def test_a_black_image_is_not_all_zeros() -> None:
    assert cell(Image.new("RGB", (7, 7)), 0, 0).tolist() == [0] * 17 + [1]  # no edge anywhere


def test_a_plain_image_has_its_colour_in_each_cell() -> None:
    x = descriptor(Image.new("RGB", (50, 100), (255, 0, 0)))
    assert x.shape == (289,)
    assert x.dtype == np.float32
    assert (x[:288].reshape(16, 18) == x[:18]).all()
    assert x[:18] == pytest.approx([0.5324, 0.8009, 0.672, *[0] * 14, 1], abs=3e-4)
    assert x[-1] == pytest.approx(math.log(0.5))


def test_moments_are_those_of_the_pixels_of_a_cell() -> None:
    image = Image.new("RGB", (64, 64))
    image.paste((255, 255, 255), (0, 0, 16, 4))  # a quarter of the first cell
    spread = math.sqrt(0.25 * 0.75)
    third = 0.25 * 0.75**3 - 0.75 * 0.25**3
    assert cell(image, 0, 0)[:9] == pytest.approx([0.25, 0, 0, spread, 0, 0, third ** (1 / 3), 0, 0], abs=1e-6)


@pytest.mark.parametrize(("turn", "direction"), [(0, 0), (90, 4)])
def test_edges_are_counted_by_their_direction(turn: int, direction: int) -> None:
    stripes = np.where(np.arange(64) // 4 % 2, 255, 0).astype(np.uint8)
    image = Image.fromarray(np.repeat(stripes[None], 64, axis=0)).convert("RGB").rotate(turn)
    edges = cell(image, 1, 1)[9:]
    assert edges.sum() == pytest.approx(1)
    assert edges[direction] == pytest.approx(0.5)  # two pixels of four lie beside an edge
    assert edges[-1] == pytest.approx(0.5)


def test_likeness_in_colour_or_layout_is_nearness() -> None:
    def picture(left: str, right: str) -> np.ndarray:
        image = Image.new("RGB", (80, 60), left)
        image.paste(right, (40, 0, 80, 60))
        return descriptor(image)

    base = picture("red", "white")
    near, turned, other = picture("#e01010", "#f0f0f0"), picture("white", "red"), picture("blue", "black")
    distances = [np.linalg.norm(base - one) for one in (near, turned, other)]
    assert distances[0] * 5 < min(distances[1:])


@pytest.mark.parametrize("size", [(1, 1), (3, 5000), (63, 65)])
def test_images_of_any_size_have_a_descriptor(size: tuple[int, int]) -> None:
    x = descriptor(Image.new("RGB", size, "green"))
    assert np.isfinite(x).all()


def test_images_are_encoded_by_it_without_a_model(tmp_path: Path) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "black.png")
    Image.new("CMYK", (30, 30), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    (tmp_path / "items.csv").write_text("item_id,image\na,black.png\nb,\nc,red.jpg\nd,items.csv\n")
    found = encode(tmp_path / "items.csv", tmp_path / "image_feat.npy", EncodeConfig(image="image"))
    assert (found.width, found.present, found.empty) == (289, 2, 1)
    assert [(one["item"], one["reason"][:12]) for one in found.failures] == [("d", "not an image")]
    x = np.load(tmp_path / "image_feat.npy")
    assert x.any(axis=1).tolist() == [True, False, True, False]
    assert (x[0] == descriptor(Image.new("RGB", (30, 30)))).all()
    about = json.loads((tmp_path / "image_feat.json").read_text())["encoder"]
    assert (about["name"], about["version"], about["preprocessing"]["grid"]) == ("colour-layout", 1, 4)
    assert {"numpy", "pillow"} < set(about)
