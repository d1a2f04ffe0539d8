"""The package's exceptions: one tree, so that a caller can catch all of it or one branch."""

import difflib
import re
import reprlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = [
    "UNSEEN",
    "ConfigError",
    "DataError",
    "GtcrecError",
    "InUseError",
    "RunError",
    "WriteError",
    "config_error",
    "first_fault",
    "nearest",
    "nearest_id",
    "shortened",
    "visible",
]


UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SPELLED = 5000  # ids
_LONG_WORD = 1000  # letters; paths are shorter, but for the oddest
_LONG_TEXT = 4000
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200


class GtcrecError(Exception):
    """Base of every error that gtcrec raises on purpose; its text, for the user, is one line of bounded length."""

    def __str__(self) -> str:
        return _bounded(visible(" ".join(self._text().splitlines())))

    def _text(self) -> str:
        return super().__str__()


class DataError(GtcrecError):
    """The input is not what it should be; the text names file, place, what was expected and what was found."""


class ConfigError(GtcrecError):
    """A setting or a name is unknown or out of its range."""


class RunError(GtcrecError):
    """A run folder is missing, occupied, incomplete or damaged."""


class InUseError(RunError):
    """Another process writes to the same folder or file."""


class WriteError(GtcrecError):
    """A file or a folder cannot be written: the disk is full or read-only, or a permission is missing."""

    def __init__(self, path: object, reason: str = "") -> None:
        super().__init__(path, reason)
        self.reason = reason

    def _text(self) -> str:
        path, reason = self.args
        return f"{path}: cannot be written: {reason}" if reason else str(path)


def _bounded(text: str) -> str:
    """Return a text without the middle of a word, or of all, that is longer than anyone reads."""
    words = re.sub(
        rf"\S{{{_LONG_WORD + 1},}}", lambda found: f"{found[0][: _LONG_WORD // 2]}...{found[0][-100:]}", text
    )
    return words if len(words) <= _LONG_TEXT else f"{words[: _LONG_TEXT - 500]} ... {words[-400:]}"


def visible(text: str) -> str:
    """Return text with escapes for what a terminal would obey: control characters, marks of direction, half pairs.

    >>> print(visible("mug\\x1b[2J"))
    mug\\x1b[2J
    """
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the known word closest to `word`, or "" when none is close.

    >>> nearest("lightgnc", ["bpr", "lightgcn"])
    " (did you mean 'lightgcn'?)"
    """
    match = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def nearest_id(word: str, known: Iterable[str]) -> str:
    """Return what `nearest` does of an id: first one that differs by leading zeros, case, blanks or ".0" alone.

    Spelling is compared with some of many ids, since that takes long.

    >>> nearest_id("7", ["006", "007"])
    " (did you mean '007'?)"
    """
    ids, bare = list(known), _bare_id(word)
    same = [one for one in ids if _bare_id(one) == bare][:1]
    return f" (did you mean {same[0]!r}?)" if same else nearest(word, ids[:_SPELLED])


def _bare_id(word: str) -> str:
    return word.strip().casefold().removesuffix(".0").lstrip("0")


def config_error(error: "ValidationError", where: object = "", kind: Any = None) -> ConfigError:
    """Return a pydantic error in our words: `where` it arose, then its first fault.

    `kind`, the pydantic model that was read, adds the nearest known key to an unknown one.
    """
    fault = first_fault(error, kind)
    return ConfigError(f"{where}: {fault}" if where else fault)


def first_fault(error: "ValidationError", kind: Any = None) -> str:
    """Return the first fault of a pydantic error: the dotted key, what was expected and what was found."""
    first = error.errors(include_url=False)[0]
    place = [part for part in first["loc"] if part != "[key]"]
    key, text = ".".join(map(str, place)), first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = _known_keys(kind, place[:-1])
        return f"unknown key {key!r}{nearest(str(place[-1]), known)}" + (
            f"; known: {', '.join(known)}" if known else ""
        )
    if not key:  # a fault of several keys together, or of the file as a whole: the text says which
        return text
    return f"{key}: {text}" if first["type"] == "missing" else f"{key}: {text}, found {shortened(first['input'])}"


def shortened(value: Any) -> str:
    """Return the repr of a value in one line, of long ones the beginning.

    >>> shortened(list(range(1000)))
    '[0, 1, 2, 3, 4, 5, ...]'
    """
    return " ".join(_SHORT.repr(value).split())


def _known_keys(kind: Any, place: Sequence[int | str]) -> list[str]:
    """The keys at a place of a pydantic model; none if there is no model."""
    models = _nested_models(kind)
    for part in place:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields:  # else a name in a mapping or a place in a list
            models = [model for one in fields for model in _nested_models(one.annotation)]
    return list(dict.fromkeys(key for model in models for key in model.model_fields))


def _nested_models(annotation: Any) -> list[Any]:
    """The pydantic models in an annotation, whatever holds them."""
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [model for part in get_args(annotation) for model in _nested_models(part)]
