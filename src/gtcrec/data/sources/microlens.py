"""MicroLens (Westlake University): pairs of users and videos, titles, covers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from gtcrec.data.formats.columns import parse_number
from gtcrec.data.sources.raw_files import (
    INTERACTIONS,
    Faults,
    RawFile,
    RawTables,
    batched,
    csv_rows,
    files_in,
    parsed_rows,
    text_lines,
)
from gtcrec.errors import DataError

__all__ = ["read_microlens"]

_ITEMS = pa.schema(
    [("item_id", pa.string()), ("title", pa.string()), ("category", pa.string()), ("image", pa.string())]
)
_PAIRS = INTERACTIONS.remove(INTERACTIONS.get_field_index("rating"))
_NAMES = {  # of columns, in the files of different sizes
    "user_id": ("user", "userid", "user_id"),
    "item_id": ("item", "itemid", "item_id", "video", "videoid", "video_id"),
    "timestamp": ("timestamp",),
}
_ENDS = (".jpg", ".jpeg", ".png")


def read_microlens(source: Path, faults: Faults) -> RawTables:
    """Return the tables of a MicroLens folder: `*_pairs.csv` or `*_pairs.tsv`, `*title*.csv` and, if there, covers.

    Times of the .csv are published in milliseconds and become seconds; the .tsv has none, so that the place in the
    user's list (0, 1, ...) stands for the time. `image` is the path of a cover in a folder `*covers*`, relative to
    `source`; `category` comes from `tags_to_summary.csv`. Raises `DataError` for a folder without pairs or titles.
    """
    files = files_in(source)
    pairs = _choose_file(source, files, "pairs", "_pairs.csv", "_pairs.tsv")
    titles = _choose_file(source, files, "titles", "_titles.csv", "_title.csv", "_title_en.csv")
    rows = _rows_with_times(pairs, faults) if pairs.name.endswith(".csv") else _rows_in_order(pairs, faults)
    summary = files.get("tags_to_summary.csv")
    categories = dict(_id_text_rows(summary, faults)) if summary else {}
    covers = _cover_paths(source)
    item_rows = (
        {"item_id": item, "title": title, "category": categories.get(item, ""), "image": covers.get(item, "")}
        for item, title in _id_text_rows(titles, faults)
    )
    return RawTables(batched(rows, _PAIRS), lambda folder: batched(item_rows, _ITEMS))


def _choose_file(source: Path, files: dict[str, RawFile], what: str, *ends: str) -> RawFile:
    """Return the file with the first of the ends that any has; raises `DataError` for none and for several."""
    for end in ends:
        found = [file for name, file in files.items() if name.endswith(end)]
        if len(found) > 1:
            raise DataError(f"{source}: expected one file of {what}, found {', '.join(file.name for file in found)}")
        if found:
            return found[0]
    listed = ", ".join(list(files)[:10]) or "nothing"
    raise DataError(f"{source}: expected a file of {what} ({', '.join('*' + end for end in ends)}), found {listed}")


def _rows_with_times(file: RawFile, faults: Faults) -> Iterator[dict[str, Any]]:
    rows = csv_rows(file, faults)
    header = [cell.strip().lower() for cell in next(rows, (0, []))[1]]
    places = {
        role: next((header.index(name) for name in names if name in header), -1) for role, names in _NAMES.items()
    }
    if -1 in places.values():
        raise DataError(f"{file}: expected a header such as user,item,timestamp, found {','.join(header) or 'nothing'}")

    def parse(cells: list[str]) -> dict[str, Any]:
        if len(cells) != len(header):
            raise ValueError(f"has {len(cells)} cells, the header has {len(header)}")
        user, item, time = (cells[places[role]].strip() for role in _NAMES)
        if not user or not item:
            raise ValueError("has an empty id")
        return {"user_id": user, "item_id": item, "timestamp": parse_number(time, "a time") / 1000}

    return parsed_rows(file, rows, parse, faults)


def _rows_in_order(file: RawFile, faults: Faults) -> Iterator[dict[str, Any]]:
    for number, text in text_lines(file, faults):
        user, tab, items = text.strip().partition("\t")
        if not tab or not items.split():
            faults.bad_line(f"{file}: line {number}", "must have a user, a tab and the items")
            continue
        for place, item in enumerate(items.split()):
            yield {"user_id": user, "item_id": item, "timestamp": float(place)}


def _id_text_rows(file: RawFile, faults: Faults) -> Iterator[tuple[str, str]]:
    """Yield id and text of each row, with or without a header; commas in the text may stand unquoted, as published."""
    for k, (number, cells) in enumerate(csv_rows(file, faults)):
        item, text = cells[0].strip(), ",".join(cells[1:]).strip()
        if k == 0 and item.lower() in _NAMES["item_id"]:
            continue
        if not item or len(cells) < 2:
            faults.bad_line(f"{file}: line {number}", f"must have an id and a text, found {cells}")
            continue
        yield item, text


def _cover_paths(source: Path) -> dict[str, str]:
    """Return the paths of covers by item, relative to the source."""
    if not source.is_dir():
        return {}
    return {
        file.stem: file.relative_to(source).as_posix()
        for folder in sorted(source.glob("*covers*"))
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in _ENDS
    }
