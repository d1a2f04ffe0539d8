"""What pages show of a run's users and items: cards with title, facts and picture, found by words."""

import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gtcrec.serving.http.live import LoadedRun
from gtcrec.serving.page.pictures import Pictures, image_folder

__all__ = ["Card", "Catalog", "shown_value"]

_HUES = 8  # of tiles that stand for pictures; the style sheet has a colour for each
_LONGEST = 40  # letters of a fact on a card
_FEW, _MANY = 8, 40  # items of the history of users that the first page proposes


@dataclass(frozen=True)
class Card:
    """An item as a page shows it; `letters` and `hue` make the tile of one without a picture."""

    id: str
    title: str
    facts: tuple[str, ...]
    picture: bool
    letters: str
    hue: int


class Catalog:
    """The users and items of one run.

    Parameters
    ----------
    run : LoadedRun
    images : pathlib.Path, optional
        Where image paths begin; those that name no file of it begin in the folder of the run's data.
    """

    def __init__(self, run: LoadedRun, images: Path | None = None) -> None:
        self._recommender = run.recommender
        self.columns = run.recommender.item_columns
        self.item_ids, self.user_ids = run.recommender.item_ids, run.recommender.user_ids
        self._row = {item: row for row, item in enumerate(self.item_ids)}
        self._user = {user: row for row, user in enumerate(self.user_ids)}
        self.pictures = Pictures(self.columns, *filter(None, (images, image_folder(run.folder))))

    @cached_property
    def titles(self) -> list[str]:
        """A title for each item, its id where it has none."""
        if "title" not in self.columns.column_names:
            return self.item_ids
        titles = self.columns["title"].to_pylist()
        return [title or item for title, item in zip(titles, self.item_ids, strict=True)]

    @cached_property
    def _short_columns(self) -> list[str]:
        """Columns whose values fit on a card."""
        found = []
        for name in self.columns.column_names:
            column = self.columns[name]
            if name in ("item_id", "title", "image") or column.null_count == len(column):
                continue
            if not pa.types.is_string(column.type) or pc.mean(pc.utf8_length(column)).as_py() <= _LONGEST:
                found.append(name)
        return found

    @cached_property
    def example_filter(self) -> str:
        """A filter that some items pass: what a number is below, or the most frequent value of a short text."""
        for name in sorted(self._short_columns, key=lambda one: pa.types.is_string(self.columns[one].type)):
            column = self.columns[name].drop_null()
            if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
                return f"{name} < {pc.approximate_median(column).as_py():.0f}"
            if pa.types.is_string(column.type):
                value = pc.mode(column.dictionary_encode().combine_chunks().indices, 1)
                word = column.dictionary_encode().combine_chunks().dictionary[value[0].as_py()["mode"]].as_py()
                return f"{name} = '{word.replace(chr(39), chr(39) * 2)}'"
        return ""

    def card(self, item: str) -> Card:
        """Return the card of an item; of an unknown one it shows the id."""
        row = self._row.get(item)
        title = item if row is None else self.titles[row]
        facts = (
            [] if row is None else [shown_value(self.columns[name][row].as_py()) for name in self._short_columns[:2]]
        )
        letters = "".join(word[0] for word in title.split()[:2]).upper()
        picture = self.pictures.find(item) is not None
        short = tuple(fact for fact in facts if fact and len(fact) <= _LONGEST)
        return Card(item, title, short, picture, letters, zlib.crc32(item.encode()) % _HUES)

    def facts(self, item: str) -> list[tuple[str, str]]:
        """Return all columns of an item as name and text; none for an unknown one."""
        row = self._row.get(item)
        if row is None:
            return []
        names = [name for name in self.columns.column_names if name not in ("item_id", "title", "image")]
        pairs = [(name, shown_value(self.columns[name][row].as_py())) for name in names]
        return [(name, value) for name, value in pairs if value]

    def history(self, user: str) -> list[str]:
        """Return the items of a user's training interactions; none of an unknown user."""
        row = self._user.get(user)
        return [] if row is None else [self.item_ids[item] for item in self._seen.items_of(row).tolist()]

    def popular_items(self, count: int) -> list[str]:
        """Return the items with the most training interactions."""
        order = np.argsort(-self._seen.item_counts, kind="stable")[:count]
        return [self.item_ids[item] for item in order.tolist()]

    def some_users(self, count: int) -> list[str]:
        """Return users whose history is neither short nor long, spread evenly over all of these."""
        counts = self._seen.user_counts
        fitting = np.flatnonzero((counts >= _FEW) & (counts <= _MANY))
        fitting = fitting if len(fitting) >= count else np.arange(len(counts))
        places = np.linspace(0, len(fitting) - 1, min(count, len(fitting))).round().astype(int)
        return [self.user_ids[user] for user in fitting[places].tolist()]

    def find_items(self, text: str, count: int) -> list[str]:
        """Return items whose title or id holds a text, in any case; those that begin with it come first."""
        return [self.item_ids[row] for row in _matches([pa.array(self.titles), pa.array(self.item_ids)], text, count)]

    def find_users(self, text: str, count: int) -> list[str]:
        """Return users whose id holds a text, in any case; those that begin with it come first."""
        return [self.user_ids[row] for row in _matches([pa.array(self.user_ids)], text, count)]

    @property
    def n_interactions(self) -> int:
        """How many pairs the training had."""
        return len(self._seen)

    @cached_property
    def _seen(self) -> Any:
        return self._recommender.interactions


def shown_value(value: Any) -> str:
    """Return a cell as people read it; "" for an empty one.

    >>> [shown_value(cell) for cell in (None, 12.5, 1995, "Drama|Comedy", True)]
    ['', '12.50', '1995', 'Drama, Comedy', 'yes']
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:.2f}"
    return str(value).replace("|", ", ")


def _matches(columns: list[pa.Array], text: str, count: int) -> list[int]:
    """Return rows of which a column holds the text, at most `count`: rows that begin with it, then by length."""
    hits = np.zeros(len(columns[0]), dtype=np.bool_)
    for column in columns:
        hits |= pc.match_substring(column, text, ignore_case=True).to_numpy(zero_copy_only=False)
    found = np.flatnonzero(hits).tolist()
    words = text.casefold()

    def order(row: int) -> tuple[bool, int, int]:
        cells = [column[row].as_py() for column in columns]
        return not any(cell.casefold().startswith(words) for cell in cells), len(cells[0]), row

    return sorted(found[: 50 * count], key=order)[:count]
