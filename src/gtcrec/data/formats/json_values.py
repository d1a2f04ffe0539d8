"""Values of JSON as the cells of a table: nothing that was written is lost."""

import json
import math
from decimal import Decimal, InvalidOperation
from typing import Any

__all__ = ["json_cell", "parse_exact_json", "parse_json", "replace_surrogates", "whole_text"]


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, as `replace_surrogates` leaves it."""
    return replace_surrogates(text, json.loads(text))


def _exact_number(text: str) -> float | Decimal:
    """Return a number with a point or an exponent: as float where that holds all its digits."""
    number = float(text)
    try:
        exact = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"no number is so large or so small: {text[:40]}") from error
    return number if math.isfinite(number) and Decimal(repr(number)) == exact else exact


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {max(keys, key=keys.count)!r} stands twice in one object")
    return found


_EXACT = json.JSONDecoder(parse_float=_exact_number, object_pairs_hook=_distinct_keys)


def parse_exact_json(text: str) -> Any:
    """Return the value of a JSON text as `parse_json`, all digits of its numbers kept.

    Raises `ValueError` also for a key that stands twice in one object: one of its values would be lost.
    """
    return replace_surrogates(text, _EXACT.decode(text))


def replace_surrogates(text: str, value: Any) -> Any:
    """Return the value of a literal with question marks for half surrogate pairs, which no UTF-8 can hold."""
    lower = text.lower()
    return _without_surrogates(value) if "\\ud" in lower or "\\u0000d" in lower else value


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list | tuple):
        return [_without_surrogates(one) for one in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(one) for key, one in value.items()}
    return value


def json_cell(value: Any, separator: str | None) -> str | list[str] | None:
    """Return a JSON value as text, None for null and NaN; with a separator as a list of texts.

    Raises `ValueError` for an object, and for a list without a separator or inside a list.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if separator is not None:
        if not isinstance(value, list):
            return str(json_cell(value, None)).split(separator)
        return [str(cell) for one in value if (cell := json_cell(one, None)) is not None]
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return whole_text(value)
    if isinstance(value, Decimal):
        is_whole = -300 < value.adjusted() < 300 and value == value.to_integral_value()
        return format(value.to_integral_value(), "f") if is_whole else str(value)
    if isinstance(value, int | float):
        return repr(value)
    raise ValueError(f"must hold a number or text, found {'a list' if isinstance(value, list) else 'an object'}")


def whole_text(number: float) -> str:
    """Return a whole number without point and exponent, with the digits that tell it from other floats.

    >>> whole_text(12.0), whole_text(3.001197302064703e16)
    ('12', '30011973020647030')
    """
    return str(int(number)) if abs(number) < 2**53 else format(Decimal(repr(number)), "f").removesuffix(".0")
