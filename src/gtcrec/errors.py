"""The package's exceptions: one tree, so that a caller can catch all of it or one branch."""

import difflib
from collections.abc import Iterable

__all__ = ["ConfigError", "DataError", "GtcrecError", "RunError", "nearest"]


class GtcrecError(Exception):
    """Base of every error that gtcrec raises on purpose; its text is meant for the user."""


class DataError(GtcrecError):
    """The input is not what it should be; the text names file, place, what was found and what was wanted."""


class ConfigError(GtcrecError):
    """A setting or a name is unknown or out of its range."""


class RunError(GtcrecError):
    """A run folder is missing, occupied, incomplete or damaged."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the known word closest to `word`, or "" when none is close.

    >>> nearest("lightgnc", ["bpr", "lightgcn"])
    " (did you mean 'lightgcn'?)"
    """
    match = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
