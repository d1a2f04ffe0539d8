"""What happens to rows between a file and a data set: low ratings dropped, duplicates merged, k-core."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gtcrec.errors import DataError
from gtcrec.types import Floats, Ints, Masks

__all__ = ["Rows", "core_pairs", "drop_low_ratings", "merge_duplicates"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of an interactions file as indices; each array has one entry a row, None where no column is.

    `places` int64 [n] are the rows' places in the file, for messages.
    """

    users: Ints
    items: Ints
    places: Ints
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
            one, two = sorted((int(rows.places[clash[0]]), int(rows.places[first[clash[0]]])))
            labels = dict(zip(rows.places.tolist(), rows.labels.tolist(), strict=True))
            raise DataError(
                f"one user-item pair has label {labels[one]} in {place(one)} and label {labels[two]} in "
                f"{place(two)}: a pair must be in one part only"
            )
    merged = int((~new).sum())
    return rows.at(new), {"duplicates merged": merged} if merged else {}


def core_pairs(users: Ints, items: Ints, n_users: int, n_items: int, k: int) -> Masks:
    """Return which pairs lie in the k-core, bool [n]: there each user and each item has at least k pairs."""
    keep = np.ones(len(users), dtype=np.bool_)
    while True:
        enough_users = np.bincount(users[keep], minlength=n_users) >= k
        enough_items = np.bincount(items[keep], minlength=n_items) >= k
        kept = keep & enough_users[users] & enough_items[items]
        if (kept == keep).all():
            return keep
        keep = kept
