"""What notebooks show: lists with pictures and titles, and a run at a glance."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from gtcrec.errors import ConfigError, DataError
from gtcrec.reporting.html import data_uri, fill_template, image_uri
from gtcrec.reporting.run_comparison import evaluation_table
from gtcrec.reporting.run_record import read_run_record
from gtcrec.reporting.tables import Table
from gtcrec.types import Dataset
from gtcrec.types.display import html_table

__all__ = ["ItemCards", "run_html", "show_items"]

_MOST = 200  # cards: a notebook holds each picture
_SIDE = 160  # pixels of a picture's longer side


@dataclass(frozen=True, eq=False)
class ItemCards:
    """Lists of items, which a notebook shows with pictures; made by `show_items`."""

    lists: pa.Table
    dataset: Dataset

    def __repr__(self) -> str:
        return f"ItemCards({len(self.lists):,} items)"

    def _repr_html_(self) -> str:
        owner, item, *rest = self.lists.slice(0, _MOST).columns
        metadata = self.dataset.item_metadata
        places = self.dataset.items.index(item.to_pylist())
        found = metadata.of(places) if metadata else None
        rows: dict[str, list[dict[str, Any]]] = {}
        for place, (name, one) in enumerate(zip(owner.to_pylist(), item.to_pylist(), strict=True)):
            picture = found.images[place] if found else None
            card = {
                "item": one,
                "title": found.titles[place] if found else "",
                "picture": _thumbnail(picture) if picture else None,
                "score": rest[-1][place].as_py() if rest else None,
            }
            rows.setdefault(str(name), []).append(card)
        return fill_template("cards.html", rows=rows, left_out=max(0, len(self.lists) - _MOST))


def show_items(lists: pa.Table | Sequence[Any], dataset: Dataset) -> ItemCards:
    """Return lists as a notebook shows them with pictures and titles, a row of cards for each user.

    Parameters
    ----------
    lists : pyarrow.Table, or sequence of item ids
        What `recommend` or `similar_items` returned. At most 200 items are shown.
    dataset : Dataset
        It knows titles and pictures.

    Returns
    -------
    ItemCards

    Raises
    ------
    DataError
        For an item that the data do not have.
    ConfigError
        For a table of other columns.

    Examples
    --------
    >>> catalog = gtcrec.data.make_catalog(n_users=60, n_items=40).dataset
    >>> model = gtcrec.Recommender("popular").fit(catalog)
    >>> gtcrec.show_items(model.recommend("u0001", k=3), catalog)
    ItemCards(3 items)
    """
    if not isinstance(lists, pa.Table):
        lists = pa.table({"list": [""] * len(lists), "item_id": list(map(str, lists))})
    if len(lists.column_names) < 2 or not lists.column_names[1].endswith("item_id"):
        raise ConfigError(f"expected a table that recommend or similar_items returned, found {lists.column_names}")
    dataset.items.index(lists.column(1).to_pylist())
    return ItemCards(lists, dataset)


def run_html(folder: Path, facts: Sequence[Sequence[str]], finished: bool) -> str:
    """Return the facts of a run as a table and, once it has ended, what it measured."""
    html = html_table(facts, caption=folder.name)
    if not finished:
        return html
    record = read_run_record(folder)
    return html + _table_html(evaluation_table(record.final, f"{record.part}, {record.final.users:,} users"))


def _table_html(table: Table) -> str:
    rows = [[f"{cell.text} ({cell.detail})" if cell.detail else cell.text for cell in row] for row in table.rows]
    return html_table(rows, table.headers, table.title)


def _thumbnail(path: Path) -> Markup | None:
    """Return a small copy of an image as a data address; the image itself without Pillow, None if it has no pixels."""
    from gtcrec.data.features.images import open_image

    try:
        image = open_image(path, _SIDE)
    except ConfigError:
        return image_uri(path)
    except DataError:
        return None
    image.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return data_uri(stream.getvalue(), "image/jpeg")
