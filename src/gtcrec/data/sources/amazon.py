"""Amazon Reviews of 2014, 2018 and 2023 (McAuley Lab): reviews and metadata, a record a line."""

import ast
import html
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from gtcrec.data.formats.json_values import parse_json, replace_surrogates
from gtcrec.data.sources.raw_files import INTERACTIONS, Faults, RawFile, RawTables, batched, parsed_rows, text_lines
from gtcrec.errors import DataError, shortened

__all__ = ["parse_record", "read_amazon"]

_ITEMS = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("features", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("brand", pa.string()),
        ("price", pa.float64()),
        ("image_url", pa.string()),
    ]
)
_CODE = re.compile(r"(?is)<(script|style)\b.*?(</\1\s*>|\Z)")
_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")
_PRICE = re.compile(r"\$?\s*([0-9][0-9,]*(?:\.[0-9]+)?)")
_REAL = (int, float)
_Parse = Callable[[dict[str, Any], Faults], dict[str, Any]]
_PAGE_CODE = "getTime"  # titles of 2018 that are pieces of a page's script hold this word


def read_amazon(sources: Sequence[Path], faults: Faults) -> RawTables:
    """Return the tables of review files and metadata files, each known by its first record; `.gz` or not.

    Items are `parent_asin` in 2023, else `asin`. Times are seconds. Raises `DataError` unless there are both kinds.
    """
    reviews: list[RawFile] = []
    metadata: list[RawFile] = []
    for source in sources:
        if not source.is_file():
            raise DataError(f"{source}: no such file")
        (reviews if _holds_reviews(RawFile(source)) else metadata).append(RawFile(source))
    if not reviews or not metadata:
        missing = "metadata" if reviews else "reviews"
        raise DataError(
            f"expected files of reviews and of metadata, found no {missing} in {', '.join(map(str, sources))}"
        )
    return RawTables(
        batched(_parsed_records(reviews, _parse_review, faults), INTERACTIONS),
        lambda folder: batched(_parsed_records(metadata, _parse_item, faults), _ITEMS),
    )


def parse_record(text: str) -> dict[str, Any]:
    """Return a record written as JSON or, as the metadata of 2014, as a Python literal, which is parsed, not run.

    Raises `ValueError` for anything else.
    """
    try:
        record = parse_json(text)
    except (ValueError, RecursionError):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # texts with \\/ and the like
                record = replace_surrogates(text, ast.literal_eval(text.strip()))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise ValueError("is neither JSON nor a Python literal") from None
    if not isinstance(record, dict):
        raise ValueError(f"must hold a record, found {type(record).__name__}")
    return record


def _holds_reviews(file: RawFile) -> bool:
    for _, text in text_lines(file, Faults(skip=True)):
        try:
            record = parse_record(text)
        except ValueError:
            continue
        if {"reviewerID", "user_id"} & set(record):
            return True
        if {"asin", "parent_asin"} & set(record):
            return False
        raise DataError(f"{file}: expected Amazon reviews or metadata, found a record of {', '.join(map(str, record))}")
    raise DataError(f"{file}: expected a record a line, found none that can be read")


def _parsed_records(files: Sequence[RawFile], parse: _Parse, faults: Faults) -> Iterator[dict[str, Any]]:
    for file in files:
        yield from parsed_rows(file, text_lines(file, faults), lambda text: parse(parse_record(text), faults), faults)


def _parse_review(record: dict[str, Any], faults: Faults) -> dict[str, Any]:
    newer = "user_id" in record  # 2023
    return {
        "user_id": _required_text(record, "user_id" if newer else "reviewerID"),
        "item_id": _required_text(record, "parent_asin" if newer else "asin"),
        "rating": _required_number(record, "rating" if newer else "overall"),
        "timestamp": _required_number(record, "timestamp") / 1000
        if newer
        else _required_number(record, "unixReviewTime"),
    }


def _parse_item(record: dict[str, Any], faults: Faults) -> dict[str, Any]:
    title = _clean_text(record.get("title"))
    if _PAGE_CODE in title:
        faults.notes["titles that are page code, left out"] += 1
        title = ""
    return {
        "item_id": _required_text(record, "parent_asin" if "parent_asin" in record else "asin"),
        "title": title,
        "description": _clean_text(record.get("description")),
        "features": _clean_text(record.get("features", record.get("feature"))),
        "categories": _distinct_categories(record.get("categories", record.get("category"))),
        "brand": _clean_text(record.get("brand", record.get("store"))),
        "price": _parse_price(record.get("price"), faults),
        "image_url": _image_url(record),
    }


def _required_text(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"must have text in {key!r}, found {shortened(value)}")
    return value


def _required_number(record: dict[str, Any], key: str) -> float:
    value = record.get(key)
    number = _finite(value)
    if number is None:
        raise ValueError(f"must have a number in {key!r}, found {shortened(value)}")
    return number


def _finite(value: Any) -> float | None:
    """Return a number as float, None for what is none or beyond the range of one."""
    try:
        number = float(value) if isinstance(value, _REAL) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _clean_text(value: Any) -> str:
    """Return text, or texts joined by a blank, without markup and with single blanks."""
    texts = value if isinstance(value, list) else [value]
    joined = " ".join(text for text in texts if isinstance(text, str))
    return " ".join(_TAG.sub(" ", _CODE.sub(" ", html.unescape(joined))).split())


def _distinct_categories(value: Any) -> list[str]:
    """Return the distinct categories of a list, or of the lists of paths of 2014, in their order."""
    names = value if isinstance(value, list) else [value]
    flat = [name for one in names for name in (one if isinstance(one, list) else [one])]
    return list(dict.fromkeys(filter(None, map(_clean_text, flat))))


def _parse_price(value: Any, faults: Faults) -> float | None:
    """Return one price; a range, or page code where the price should be, is none and is counted."""
    if (number := _finite(value)) is not None:
        return number
    if value in (None, "", "None", "—"):
        return None
    if isinstance(value, str) and (found := _PRICE.fullmatch(value.strip())):
        price = float(found[1].replace(",", ""))
        if math.isfinite(price):
            return price
    faults.notes["prices that are no number, left out"] += 1
    return None


def _image_url(record: dict[str, Any]) -> str:
    """Return the address of the first image, "" without one."""
    found: Any = record.get("imUrl") or record.get("imageURLHighRes") or record.get("imageURL") or record.get("images")
    for _ in range(3):  # 2023: a list of records of addresses, or a record of lists
        if isinstance(found, list):
            found = found[0] if found else ""
        elif isinstance(found, dict):
            found = found.get("large") or found.get("hi_res") or found.get("thumb") or ""
    return found if isinstance(found, str) else ""
