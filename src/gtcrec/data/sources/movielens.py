"""MovieLens (GroupLens): 100k, 1M, 10M, and the tables of comma-separated text since 20M; a folder or the archive."""

import re
from collections.abc import Callable, Iterable, Iterator
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

__all__ = ["read_movielens"]

_ITEMS = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("genres", pa.list_(pa.string())),
        ("year", pa.float64()),
        ("tags", pa.list_(pa.string())),
    ]
)
_GENRES_100K = (  # the order of the marks in u.item
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_YEAR = re.compile(r"\((\d{4})\)\s*$")
_Cells = Iterable[tuple[int, list[str]]]


def read_movielens(source: Path, faults: Faults) -> RawTables:
    """Return the tables of a MovieLens folder or .zip archive; its files say which edition it is.

    Items have `title` (with the year in brackets, as published), `genres`, `year` and, where users' tags are published,
    `tags`: the distinct ones, sorted. Raises `DataError` for a folder of something else.
    """
    files = files_in(source)
    if {"u.data", "u.item"} <= set(files):
        ratings = csv_rows(files["u.data"], faults, separator="\t")
        movies = _split_lines(files["u.item"], "|", faults, "latin-1")
        return _make_tables(files["u.data"], ratings, files["u.item"], movies, _marked_genres, {}, faults)
    if {"ratings.dat", "movies.dat"} <= set(files):
        encoding = "latin-1" if "users.dat" in files else "utf-8"  # 1M; 10M has no users.dat
        ratings, movies = (_split_lines(files[name], "::", faults, encoding) for name in ("ratings.dat", "movies.dat"))
        tags = _read_tags(files, "tags.dat", lambda file: _split_lines(file, "::", faults, encoding), faults)
        return _make_tables(files["ratings.dat"], ratings, files["movies.dat"], movies, _listed_genres, tags, faults)
    if {"ratings.csv", "movies.csv"} <= set(files):
        ratings, movies = (_rows_after_header(files[name], faults) for name in ("ratings.csv", "movies.csv"))
        tags = _read_tags(files, "tags.csv", lambda file: _rows_after_header(file, faults), faults)
        return _make_tables(files["ratings.csv"], ratings, files["movies.csv"], movies, _listed_genres, tags, faults)
    raise DataError(
        f"{source}: expected u.data and u.item, ratings.dat and movies.dat, or ratings.csv and movies.csv, "
        f"found {', '.join(list(files)[:10]) or 'nothing'}"
    )


def _make_tables(
    rated: RawFile, ratings: _Cells, listed: RawFile, movies: _Cells, genres: Callable[[list[str]], list[str]],
    tags: dict[str, list[str]], faults: Faults,
) -> RawTables:  # fmt: skip
    def movie(cells: list[str]) -> dict[str, Any]:
        title, year = cells[1].strip(), _YEAR.search(cells[1])
        return {
            "item_id": _require_id(cells[0]),
            "title": title,
            "genres": genres(cells),
            "year": float(year[1]) if year else None,
            "tags": tags.get(cells[0], []),
        }

    width = 5 + len(_GENRES_100K) if genres is _marked_genres else 3
    return RawTables(
        batched(_parsed_cells(rated, ratings, 4, _parse_rating, faults), INTERACTIONS),
        lambda folder: batched(_parsed_cells(listed, movies, width, movie, faults), _ITEMS),
    )


def _split_lines(file: RawFile, separator: str, faults: Faults, encoding: str) -> Iterator[tuple[int, list[str]]]:
    for number, text in text_lines(file, faults, encoding):
        yield number, text.rstrip("\r\n").split(separator)


def _rows_after_header(file: RawFile, faults: Faults) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows after the header."""
    rows = csv_rows(file, faults)
    if next(rows, (0, [""]))[1][0] not in ("userId", "movieId"):
        raise DataError(f"{file}: expected a header that begins with userId or movieId")
    yield from rows


def _parsed_cells(
    file: RawFile, rows: _Cells, width: int, parse: Callable[[list[str]], dict[str, Any]], faults: Faults
) -> Iterator[dict[str, Any]]:
    def checked(cells: list[str]) -> dict[str, Any]:
        if len(cells) != width:
            raise ValueError(f"has {len(cells)} cells, expected {width}")
        return parse(cells)

    return parsed_rows(file, rows, checked, faults)


def _parse_rating(cells: list[str]) -> dict[str, Any]:
    user, item, rating, time = cells
    return {
        "user_id": _require_id(user),
        "item_id": _require_id(item),
        "rating": parse_number(rating, "a number"),
        "timestamp": parse_number(time, "a number"),
    }


def _require_id(cell: str) -> str:
    if not cell:
        raise ValueError("has an empty id")
    return cell


def _marked_genres(cells: list[str]) -> list[str]:
    return [genre for genre, mark in zip(_GENRES_100K[1:], cells[6:], strict=True) if mark == "1"]


def _listed_genres(cells: list[str]) -> list[str]:
    return [] if cells[2] == "(no genres listed)" else [genre for genre in cells[2].split("|") if genre]


def _read_tags(
    files: dict[str, RawFile], name: str, read: Callable[[RawFile], _Cells], faults: Faults
) -> dict[str, list[str]]:
    """Return the distinct tags of each movie, sorted; none where no such file is."""
    if name not in files:
        return {}
    found: dict[str, set[str]] = {}

    def tag(cells: list[str]) -> dict[str, Any]:
        return {"movie": _require_id(cells[1]), "tag": " ".join(cells[2].split())}

    for row in _parsed_cells(files[name], read(files[name]), 4, tag, faults):
        if row["tag"]:
            found.setdefault(row["movie"], set()).add(row["tag"])
    return {movie: sorted(tags) for movie, tags in found.items()}
