"""What is asked of a ranking: how many items from which place on, and which of them may be listed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from gtcrec.errors import ConfigError
from gtcrec.serving.item_filters import matching_items, parse_filter
from gtcrec.types import Ints

__all__ = ["ListRequest"]


@dataclass(frozen=True)
class ListRequest:
    """The `k` items after the first `offset` of a ranking, diversified by the weight `diversity`.

    Only items of `items`, if given, may be listed, none of `exclude`, and those alone that the filter `where` keeps.
    Raises `ConfigError` for a number out of range.
    """

    k: int = 10
    exclude_seen: bool = True
    items: Sequence[Any] | None = None
    exclude: Sequence[Any] | None = None
    where: str | None = None
    offset: int = 0
    diversity: float = 0.0

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"k must be at least 1, found {self.k}")
        if self.offset < 0:
            raise ConfigError(f"offset must be at least 0, found {self.offset}")
        if not 0 <= self.diversity < 1:
            raise ConfigError(f"diversity must lie in [0, 1), found {self.diversity:g}")

    @property
    def end(self) -> int:
        """How many items of the ranking are needed."""
        return self.k + self.offset

    def candidates(
        self, index: Callable[[Sequence[Any]], Ints], n_items: int, item_columns: Callable[[], pa.Table]
    ) -> Ints | None:
        """Return the items that may be listed, by index and ascending; None for all.

        `index` returns the indices of ids, `item_columns` the items table. Raises `DataError` for an unknown id,
        `ConfigError` for a filter that cannot be read.
        """
        chosen = None if self.items is None else np.unique(index(self.items))
        if self.where is not None:
            table = item_columns()
            kept = matching_items(table, parse_filter(self.where, table.schema))
            chosen = kept if chosen is None else np.intersect1d(chosen, kept)
        if self.exclude:
            chosen = np.setdiff1d(np.arange(n_items) if chosen is None else chosen, index(self.exclude))
        return chosen
