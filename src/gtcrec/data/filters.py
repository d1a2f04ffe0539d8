"""What happens to rows between a file and a data set: low ratings dropped, duplicates merged."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gtcrec.errors import DataError
from gtcrec.types import Floats, Masks

__all__ = ["Rows", "drop_low_ratings", "merge_duplicates"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of an interactions file as indices; each array has one entry a row, None where no column is.

    Users, items and places are int64 or int32 [n]; `places` say where the rows stand in the file, for messages.
    """

    users: NDArray[Any]
    items: NDArray[Any]
    places: NDArray[Any]
    labels: NDArray[np.int8] | None = None
    times: Floats | None = None
    ratings: Floats | None = None

    def __len__(self) -> int:
        return len(self.users)

    def at(self, chosen: NDArray[np.int64] | Masks) -> "Rows":
        """Return the chosen rows (indices or a mask), in that order."""
        return Rows(
            self.users[chosen],
            self.items[chosen],
            self.places[chosen],
            None if self.labels is None else self.labels[chosen],
            None if self.times is None else self.times[chosen],
            None if self.ratings is None else self.ratings[chosen],
        )


def drop_low_ratings(rows: Rows, least: float | None) -> tuple[Rows, dict[str, int]]:
    """Return the rows rated at least `least`, and notes.

    Raises `DataError` without ratings and when no row is left.
    """
    if least is None:
        return rows, {}
    if rows.ratings is None:
        raise DataError(f"data.min_rating is {least:g} but there is no rating column; set data.rating to its name")
    keep = rows.ratings >= least
    if not keep.any():
        raise DataError(
            f"data.min_rating {least:g} leaves no interaction: the highest rating is {rows.ratings.max():g}"
        )
    dropped = int((~keep).sum())
    return rows.at(keep), {"rows below min_rating": dropped} if dropped else {}


def merge_duplicates(rows: Rows, place: Callable[[int], str]) -> tuple[Rows, dict[str, int]]:
    """Return one row a user-item pair, sorted by user, then item, with its earliest time; and notes.

    Raises `DataError` for a pair whose rows have different labels: it would be in training and in test.
    """
    keys = (rows.items, rows.users) if rows.times is None else (rows.times, rows.items, rows.users)
    rows = rows.at(np.lexsort(keys))
    new = np.ones(len(rows), dtype=np.bool_)
    new[1:] = (np.diff(rows.users) != 0) | (np.diff(rows.items) != 0)
    if rows.labels is not None:
        first = np.flatnonzero(new)[np.cumsum(new) - 1]
        clash = np.flatnonzero(rows.labels != rows.labels[first])
        if len(clash):
            (one, label), (two, other) = sorted(
                (int(rows.places[row]), int(rows.labels[row])) for row in (clash[0], first[clash[0]])
            )
            raise DataError(
                f"one user-item pair has label {label} in {place(one)} and label {other} in "
                f"{place(two)}: a pair must be in one part only"
            )
    merged = int((~new).sum())
    return rows.at(new), {"duplicates merged": merged} if merged else {}
