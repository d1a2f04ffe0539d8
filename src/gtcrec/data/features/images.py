"""Images as they come: opened with care, since files from a shop's feed are broken, foreign or huge."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from gtcrec.errors import ConfigError, DataError

__all__ = ["MOST_PIXELS", "open_image"]

MOST_PIXELS = 50_000_000
"""Larger images are refused: a small file can unfold to gigabytes."""

_KINDS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # no EPS: Pillow would start another program for it


def open_image(source: Path | bytes, draft: int = 0) -> Any:
    """Return the image (a PIL.Image) as RGB and upright, the first frame where there are several.

    What is transparent lies on white; 16 bits a channel become 8. If `draft` is not 0, a JPEG may be decoded smaller,
    at 1/2, 1/4 or 1/8, as long as both its sides keep `draft` pixels: that spares most of the time.

    Raises `DataError` whose text says why it cannot be read, and `ConfigError` without Pillow.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ConfigError('pillow is not installed; pip install "gtcrec[encode]"') from error
    Image.init()
    kinds = [kind for kind in _KINDS if kind in Image.OPEN]  # builds of Pillow differ
    try:
        _refuse_absent(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is no matter, and our limit is below Pillow's warning
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=kinds) as image:
                _refuse_large(image.size)
                if draft:
                    image.draft(None, (draft, draft))  # nothing happens to other formats
                return _as_rgb(ImageOps.exif_transpose(image))
    except (DataError, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(f"not an image of a known kind ({', '.join(kinds)})") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"more than {MOST_PIXELS:,} pixels") from error
    except Exception as error:  # Pillow raises errors of many kinds, SyntaxError among them, on broken files
        raise DataError(f"damaged: {type(error).__name__}: {error}") from error


def _refuse_absent(source: Path | bytes) -> None:
    if isinstance(source, Path) and not source.is_file():
        raise DataError("no such file")
    if not (source.stat().st_size if isinstance(source, Path) else len(source)):
        raise DataError("the file is empty")


def _refuse_large(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise DataError(f"more than {MOST_PIXELS:,} pixels: {size[0]} x {size[1]}")


def _as_8_bits(image: Any) -> Any:
    """Return a grey image of 16 bits as 8 bits, with its transparent value as a second channel."""
    from PIL import Image

    values = np.asarray(image)
    grey = Image.fromarray((values // 256).astype(np.uint8))
    if not isinstance(clear := image.info.get("transparency"), int):
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))))


def _as_rgb(image: Any) -> Any:
    """Return an image as RGB; Pillow by itself would cut 16 bits off at 255 and show what is transparent."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        image = _as_8_bits(image)
    if image.mode in ("I", "F"):
        raise DataError(f"pixels of 32 bits (mode {image.mode}), whose range is not known")
    if not image.has_transparency_data:
        return image.convert("RGB")
    upper = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", upper.size, "white"), upper).convert("RGB")
