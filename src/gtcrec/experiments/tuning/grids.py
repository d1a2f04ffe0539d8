"""How the values of a setting go on beyond the first and the last that a search space names.

A winner at an edge says that the grid was too narrow. So a study goes on with the next values outside, one setting at a
time, while the winner stands there.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gtcrec.errors import ConfigError
from gtcrec.experiments.config import RunConfig
from gtcrec.experiments.tuning.space import apply_settings, value_of
from gtcrec.models.base import SearchSpace

__all__ = ["Grid", "beyond", "extend_grids", "next_values", "open_edges"]

ALIKE = ("embedding_dim",)
"""Settings whose values are the same for all models, so that none may have more than another."""


@dataclass(frozen=True)
class Grid:
    """A setting's values, and those outside, nearest first; `extend` of them on each side may be tried.

    A value has a place: 0 to n - 1 in the grid, negative below it, n and more above it.
    """

    values: tuple[Any, ...]
    below: tuple[Any, ...] = ()
    above: tuple[Any, ...] = ()
    extend: int = 0

    def value(self, place: int) -> Any:
        """Return the value at a place."""
        if place < 0:
            return self.below[-1 - place]
        return (*self.values, *self.above)[place]

    def outside(self, place: int) -> int:
        """Return how many steps outside of the grid a place is; 0: inside."""
        return max(-place, place - len(self.values) + 1, 0)

    def exists(self, place: int) -> bool:
        """Return whether there is a value at a place."""
        return -len(self.below) <= place < len(self.values) + len(self.above)


def extend_grids(base: RunConfig, space: SearchSpace, extend: int) -> dict[str, Grid]:
    """Return the grids of a space, each with what lies outside, as far as the setting's limits allow.

    Beyond the `extend` values that may be tried stands one more, which shows whether an edge is open.
    """
    grids = {}
    for key, values in space.items():
        ordered = key not in ALIKE and _is_ordered(values)
        below, above = (
            tuple(itertools.islice(_allowed(base, key, side), extend + 1)) if ordered else ()
            for side in (values[::-1], values)
        )
        grids[key] = Grid(values, below, above, extend)
    return grids


def open_edges(places: Mapping[str, int], tried: Sequence[Mapping[str, int]], grids: Mapping[str, Grid]) -> list[str]:
    """Return the settings whose place is an edge of all that was tried, beyond which there are further values."""
    return list(dict.fromkeys(key for key, _ in _steps_outside(places, tried, grids)))


def beyond(
    places: Mapping[str, int], tried: Sequence[Mapping[str, int]], grids: Mapping[str, Grid]
) -> dict[str, int] | None:
    """Return the next untried places: those of the best trial with one setting a step outside; None if none is left."""
    for key, place in _steps_outside(places, tried, grids):
        moved = {**places, key: place}
        if grids[key].outside(place) <= grids[key].extend and moved not in tried:
            return moved
    return None


def next_values(values: Sequence[float]) -> Iterator[float]:
    """Yield the values that follow distinct ordered ones, rising or falling, without end.

    The step is the last two values' ratio where the ratios of the values vary less than their differences, else the
    difference. A 0 at the start of rising values takes no part, as it stands for "off".

    >>> import itertools
    >>> list(itertools.islice(next_values([0.01, 0.1, 1.0]), 2)), list(itertools.islice(next_values([1, 2, 3]), 2))
    ([10.0, 100.0], [4, 5])
    """
    positive = [value for value in values if value != 0]
    if len(positive) < 2:
        positive = list(values)
    before, last = positive[-2:]
    if values[-1] == 0:
        return
    whole = all(isinstance(value, int) for value in values)
    by_ratio = _by_ratio(positive)
    while True:
        step = last * last / before if by_ratio else 2 * last - before
        rounded = float(f"{step:.3g}")
        before, last = last, round(rounded) if whole else rounded
        if last == before:
            return
        yield last


def _by_ratio(values: Sequence[float]) -> bool:
    """Whether ratios vary less than differences, relative to their means; of two, whether one is 4 times more."""
    if min(values) <= 0:
        return False
    if len(values) == 2:
        return max(values) >= 4 * min(values)
    steps = [np.abs(np.diff(np.log(values))), np.abs(np.diff(values))]
    ratios, differences = (float(step.std() / step.mean()) for step in steps)
    return ratios < differences - 1e-9


def _is_ordered(values: Sequence[Any]) -> bool:
    """Whether values are rising numbers, two or more."""
    if len(values) < 2 or any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        return False
    return all(low < high for low, high in itertools.pairwise(values))


def _allowed(base: RunConfig, key: str, values: Sequence[float]) -> Iterator[float]:
    """The values that follow, up to the first that the setting does not take."""
    for value in next_values(values):
        try:
            if value_of(apply_settings(base, {key: value}), key) != value:
                return
        except ConfigError:
            return
        yield value


def _steps_outside(
    places: Mapping[str, int], tried: Sequence[Mapping[str, int]], grids: Mapping[str, Grid]
) -> Iterator[tuple[str, int]]:
    """Each setting at an edge with the place next to it outside."""
    for key, grid in grids.items():
        low = min(0, *(one[key] for one in tried), places[key])
        high = max(len(grid.values) - 1, *(one[key] for one in tried), places[key])
        for edge, outside in ((low, low - 1), (high, high + 1)):
            if places[key] == edge and grid.exists(outside):
                yield key, outside
