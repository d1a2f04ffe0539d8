"""Pictures of items, by the item's id alone: no request names a path."""

from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from gtcrec.data.formats.item_metadata import find_inside, is_file
from gtcrec.errors import GtcrecError
from gtcrec.runtime.yaml_reader import read_yaml

__all__ = ["Pictures", "image_folder", "media_type"]

_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif")


class Pictures:
    """The image files of a run's items.

    Parameters
    ----------
    columns : pyarrow.Table
        The items table with `item_id`; its column `image`, if any, has paths relative to a folder.
    *folders : pathlib.Path
        Where they lie; the first that has the file gives it. An item without a path has the file `images/ID.jpg`, or
        of another ending, if it is there.

    Examples
    --------
    >>> Pictures(pa.table({"item_id": ["p1"]})).find("p1") is None
    True
    """

    def __init__(self, columns: pa.Table, *folders: Path) -> None:
        self._folders = folders
        named = columns["image"].to_pylist() if "image" in columns.column_names else [None] * len(columns)
        self._paths = dict(zip(columns["item_id"].to_pylist(), named, strict=True))
        self.find = lru_cache(maxsize=50_000)(self._find)

    def _find(self, item: str) -> Path | None:
        """Return the file of an item's picture, None for an unknown item or one without."""
        if item not in self._paths:
            return None
        named = self._paths[item]
        paths = [str(named)] if named else [f"images/{item}.{ending}" for ending in _ENDINGS]
        for place in (find_inside(folder, path) for folder in self._folders for path in paths):
            if place is not None and is_file(place):
                return place
        return None


def image_folder(run: Path) -> Path | None:
    """Return the folder of a run's data, None for a saved model, which names none, or where the data are gone."""
    try:
        place = Path(read_yaml(run / "config.yaml")["data"]["path"])
    except (GtcrecError, OSError, KeyError, TypeError):
        return None
    folder = place.parent if is_file(place) else place
    return folder if folder.is_dir() else None


def media_type(path: Path) -> str | None:
    """Return the type of an image by its first bytes; None for what is no PNG, JPEG, GIF or WebP."""
    with path.open("rb") as stream:
        start = stream.read(12)
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return "image/webp"
    return next((kind for signature, kind in _SIGNATURES.items() if start.startswith(signature)), None)
