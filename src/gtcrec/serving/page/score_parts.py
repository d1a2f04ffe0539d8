"""What scores are made of, and the list that is left when a part is taken out of every score."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Bar", "Part", "ScoredItem", "leave_out", "mark_moves", "measure", "part_names", "scored_items"]

COLORS = 6  # of parts; the style sheet has as many, and more parts begin again


@dataclass(frozen=True)
class Part:
    """A summand of a score."""

    name: str
    value: float
    color: int


@dataclass(frozen=True)
class ScoredItem:
    """An item of a list, with what its score is made of; `parts` add up to `score`, none where a model has none.

    `near` are items of the history, first those that count most: by what they add to the score if `from_linear`, else
    by how alike their content is. `move` says how many places the item rose against another list; it is None where that
    list lacks the item, or there is none.
    """

    item: str
    rank: int
    score: float
    parts: tuple[Part, ...] = ()
    near: tuple[tuple[str, float], ...] = ()
    from_linear: bool = False
    move: int | None = None


@dataclass(frozen=True)
class Bar:
    """The scale that bars of scores share: what is below zero goes to the left of `zero`, in per cent of the width."""

    zero: float
    per_unit: float

    def segments(self, parts: Sequence[Part]) -> list[tuple[float, float, int]]:
        """Return left end, width and color of each part: those above zero rightward, the others leftward.

        >>> Bar(20.0, 10.0).segments([Part("a", 3.0, 0), Part("b", -1.0, 1)])
        [(20.0, 30.0, 0), (10.0, 10.0, 1)]
        """
        right = left = self.zero
        found = []
        for part in parts:
            width = abs(part.value) * self.per_unit
            if part.value < 0:
                left -= width
            found.append((left if part.value < 0 else right, width, part.color))
            if part.value >= 0:
                right += width
        return [(round(start, 3), round(width, 3), color) for start, width, color in found]


def scored_items(rows: Sequence[Mapping[str, Any]]) -> list[ScoredItem]:
    """Return the rows of an answer with their explanations, if they have any."""
    names = part_names(rows)
    color = {name: place % COLORS for place, name in enumerate(names)}
    found = []
    for row in rows:
        explained = row.get("explanation")
        if explained is None:
            found.append(ScoredItem(row["item"], row["rank"], row["score"]))
            continue
        sums: dict[str, float] = {}
        for one in explained["parts"]:
            sums[_source(one)] = sums.get(_source(one), 0.0) + one["value"]
        parts = tuple(Part(name, value, color[name]) for name, value in sums.items())
        shares = tuple((str(one["item"]), one["value"]) for one in explained["because"])
        near = shares or tuple((str(one["item"]), one["similarity"]) for one in explained["nearest"])
        found.append(ScoredItem(row["item"], row["rank"], explained["score"], parts, near, bool(shares)))
    return found


def part_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of all parts of an answer, in their order."""
    explained = (row.get("explanation") or {"parts": ()} for row in rows)
    return list(dict.fromkeys(_source(part) for one in explained for part in one["parts"]))


def _source(part: Mapping[str, Any]) -> str:
    """What of the item a part reads: of a blend's "history: text" and "embedding: text" that is "text"."""
    return str(part["view"]).rpartition(": ")[2]


def leave_out(items: Sequence[ScoredItem], names: Collection[str]) -> list[ScoredItem]:
    """Return items without some parts of their scores, ordered by what is left.

    >>> a = ScoredItem("a", 1, 3.0, (Part("identity", 1.0, 0), Part("image", 2.0, 1)))
    >>> b = ScoredItem("b", 2, 2.0, (Part("identity", 1.5, 0), Part("image", 0.5, 1)))
    >>> [(one.item, one.rank, one.score) for one in leave_out([a, b], ["image"])]
    [('b', 1, 1.5), ('a', 2, 1.0)]
    """
    left = []
    for one in items:
        gone = sum(part.value for part in one.parts if part.name in names)
        parts = tuple(part for part in one.parts if part.name not in names)
        left.append(replace(one, score=one.score - gone, parts=parts))
    ordered = sorted(left, key=lambda one: -one.score)
    return [replace(one, rank=rank) for rank, one in enumerate(ordered, 1)]


def mark_moves(items: Sequence[ScoredItem], before: Sequence[ScoredItem]) -> list[ScoredItem]:
    """Return items with the places that they rose against the list before."""
    rank = {one.item: one.rank for one in before}
    return [replace(one, move=rank[one.item] - one.rank if one.item in rank else None) for one in items]


def measure(items: Sequence[ScoredItem]) -> Bar:
    """Return the scale on which the longest bars of a page just fit."""
    below = max((sum(-part.value for part in one.parts if part.value < 0) for one in items), default=0.0)
    above = max((sum(part.value for part in one.parts if part.value > 0) for one in items), default=0.0)
    per_unit = 100 / (below + above or 1.0)
    return Bar(below * per_unit, per_unit)
