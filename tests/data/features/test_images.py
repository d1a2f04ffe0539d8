"""Images are opened as RGB and upright; broken, foreign and huge ones are refused with a reason."""

import io
import random
import struct
import sys
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from gtcrec.data.features import encode_batch
from gtcrec.data.features.encode_batch import EncodeConfig
from gtcrec.data.features.encoders import function_encoder
from gtcrec.data.features.images import MOST_PIXELS, open_image
from gtcrec.errors import ConfigError, DataError


def encoded(kind: str, mode: str = "RGB", **more: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind, **more)
    return stream.getvalue()


def animated(kind: str) -> bytes:
    """Two frames, the first red."""
    stream = io.BytesIO()
    red, blue = (Image.new("RGB", (30, 20), colour) for colour in ("red", "blue"))
    red.save(stream, kind, save_all=True, append_images=[blue])
    return stream.getvalue()


def of_32_bits(kind: type) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ones((2, 2), dtype=kind)).save(stream, "TIFF")
    return stream.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A small PNG that claims a size."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 1000))]
    chunks = [struct.pack(">I", len(x)) + name + x + struct.pack(">I", zlib.crc32(name + x)) for name, x in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "L"), ("PNG", "1"), ("JPEG", "CMYK"), ("GIF", "P"),
     ("WEBP", "RGB"), ("BMP", "RGB"), ("TIFF", "RGB")],
)  # fmt: skip
def test_images_of_every_kind_become_rgb(kind: str, mode: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(encoded(kind, mode))
    for source in (tmp_path / "x", encoded(kind, mode)):
        image = open_image(source)
        assert (image.mode, image.size) == ("RGB", (30, 20))


def test_an_image_is_turned_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    assert open_image(encoded("JPEG", exif=exif)).size == (20, 30)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animated_image_the_first_frame_is_taken(kind: str) -> None:
    assert open_image(animated(kind)).getpixel((5, 5)) == pytest.approx((255, 0, 0), abs=2)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_become_8_without_a_cut(kind: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, 256, 32_768, 65_535]], dtype=np.uint16)).save(stream, kind)
    assert np.asarray(open_image(stream.getvalue()))[0, :, 1].tolist() == [0, 1, 128, 255]


def test_what_is_transparent_lies_on_white() -> None:
    stream = io.BytesIO()
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    image.save(stream, "PNG")
    assert np.asarray(open_image(stream.getvalue()))[0].tolist() == [[255, 255, 255], [10, 20, 30]]
    stream = io.BytesIO()
    Image.new("P", (2, 1)).save(stream, "GIF", transparency=0)
    assert open_image(stream.getvalue()).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("draft", "size"), [(0, (400, 240)), (100, (200, 120)), (60, (100, 60)), (1, (50, 30))])
def test_a_jpeg_may_be_decoded_smaller_as_long_as_enough_is_left(draft: int, size: tuple[int, int]) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (400, 240), (10, 200, 30)).save(stream, "JPEG")
    assert open_image(stream.getvalue(), draft).size == size
    assert open_image(stream.getvalue(), draft).getpixel((5, 5)) == pytest.approx((10, 200, 30), abs=3)
    assert open_image(encoded("PNG"), draft).size == (30, 20)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "not an image of a known kind (BMP, GIF, JPEG, PNG, TIFF, WEBP)"),
        (encoded("EPS"), "not an image of a known kind"),
        (encoded("JPEG")[:-300], "damaged: OSError: image file is truncated"),
        (encoded("PNG")[:-300], "damaged: "),
        (png_of(8000, 7000), "more than 50,000,000 pixels: 8000 x 7000"),
        (png_of(12_000, 12_000), "more than 50,000,000 pixels: 12000 x 12000"),  # where Pillow only warns
        (png_of(20_000, 20_000), "more than 50,000,000 pixels"),  # where Pillow refuses
        (of_32_bits(np.int32), "pixels of 32 bits (mode I), whose range is not known"),
        (of_32_bits(np.float32), "pixels of 32 bits (mode F), whose range is not known"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    for source in (tmp_path / "x.jpg", content):
        with pytest.raises(DataError) as error:
            open_image(source)
        assert str(error.value).startswith(reason)
        assert str(tmp_path) not in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "x.png", tmp_path, tmp_path / ("x" * 5000)):
        with pytest.raises(DataError, match=r"no such file|File name too long"):
            open_image(path)


def test_the_largest_image_is_read() -> None:
    stream = io.BytesIO()
    Image.new("1", (10_000, MOST_PIXELS // 10_000)).save(stream, "PNG")
    assert open_image(stream.getvalue()).size == (10_000, 5_000)


def test_damage_anywhere_gives_an_image_or_a_reason() -> None:
    rng = random.Random(0)
    whole = [encoded(kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")]
    found = []
    for _ in range(400):
        content = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(1, 8)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        try:
            found.append(open_image(bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])).mode)
        except DataError as error:
            found.append(str(error) and "refused")
    assert set(found) == {"RGB", "refused"}


def test_without_pillow_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match=r'pillow is not installed; pip install "gtcrec\[encode\]"'):
        open_image(b"x")


class Decoded:
    """Stands for an image of 40 million pixels; counts how many of them live."""

    size = (8000, 5000)
    living = most = 0

    def __init__(self, number: int) -> None:
        self.number = number
        Decoded.living += 1
        Decoded.most = max(Decoded.most, Decoded.living)

    def __del__(self) -> None:
        Decoded.living -= 1


def test_a_function_gets_a_batch_of_large_images_in_parts() -> None:
    calls: list[int] = []

    def function(images: Sequence[Any]) -> Any:
        calls.append(len(images))
        return np.array([[image.number, 1.0] for image in images], dtype=np.float32)

    Decoded.most = 0
    found = function_encoder(function).encode(Decoded(number) for number in range(5))
    assert calls == [2, 2, 1]
    assert found[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert Decoded.most <= 4  # two at hand, one that did not fit, and one that the caller may hold
    with pytest.raises(DataError, match=r"rows of one width, found \[\[2, 2\], \[2, 2\], \[1, 1\]\]"):
        function_encoder(lambda images: np.ones((len(images), len(images)))).encode(Decoded(n) for n in range(5))
    calls.clear()
    function_encoder(function).encode([type("Small", (), {"size": (224, 224), "number": 1})()] * 32)
    assert calls == [32]


def test_the_images_of_a_batch_are_decoded_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    living: list[weakref.ref[Any]] = []
    counts: list[int] = []

    def opened(source: bytes, draft: int = 0) -> Any:
        image = open_image(source, draft)
        living.append(weakref.ref(image))
        counts.append(sum(one() is not None for one in living))
        return image

    monkeypatch.setattr(encode_batch, "open_image", opened)
    batch = pa.table({"row": list(range(8)), "content": [encoded("PNG")] * 8})
    found = encode_batch.make_encode_fn(EncodeConfig(image="image"), None, None)(batch)
    assert found["reason"].null_count == 8
    assert max(counts) <= 3  # the first, which was tried by itself, the last one and the next
