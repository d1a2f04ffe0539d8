"""What users of the library hand over, ids and data of several kinds, as the values that the library works with."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gtcrec.errors import DataError
from gtcrec.types import Dataset, Interactions, ItemFeatures, Split, Vocabulary

__all__ = ["as_list", "as_lists", "as_split", "check_new_items", "join_item_columns", "with_ids"]


def as_list(ids: Any) -> list[Any]:
    """Return one id, or several in any collection, as a list."""
    if isinstance(ids, str | bytes | int | np.generic) or not isinstance(ids, Iterable):
        return [ids]
    return ids.to_pylist() if isinstance(ids, pa.Array | pa.ChunkedArray) else list(ids)


def as_lists(histories: Sequence[Any]) -> list[list[Any]]:
    """Return one history, or several, as a list of lists of ids."""
    nested = [isinstance(one, Iterable) and not isinstance(one, str | bytes) for one in as_list(histories)]
    return [as_list(one) for one in histories] if nested and all(nested) else [as_list(histories)]


def as_split(
    train: Split | Dataset | Interactions, features: ItemFeatures | None, valid: Interactions | None
) -> tuple[Split, Vocabulary, Vocabulary, pa.Table | None]:
    """Return what `fit` was given as a split, with the ids and the items table that belong to it."""
    metadata = None if isinstance(train, Interactions) else train.item_metadata
    if isinstance(train, Dataset):
        pairs, content = train.interactions.identified(train.users, train.items), train.features
    elif isinstance(train, Split):
        pairs, content, valid = train.train, train.features, train.valid if valid is None else valid
    else:
        pairs, content = train, ItemFeatures(train.n_items)
    content = content if features is None else features
    nobody = np.zeros(0, dtype=np.int64)
    valid = Interactions(nobody, nobody, pairs.n_users, pairs.n_items) if valid is None else valid
    for word, found in (("valid", (valid.n_users, valid.n_items)), ("item_features", (pairs.n_users, content.n_items))):
        if found != (pairs.n_users, pairs.n_items):
            raise DataError(
                f"{word}: expected {pairs.n_users} users and {pairs.n_items} items as in train, "
                f"found {found[0]} and {found[1]}"
            )
    users = pairs.user_ids or Vocabulary(np.arange(pairs.n_users), "user")
    items = pairs.item_ids or Vocabulary(np.arange(pairs.n_items), "item")
    sealed = Interactions(nobody, nobody, pairs.n_users, pairs.n_items)
    return Split(pairs, valid, sealed, content, {}), users, items, metadata and metadata.table()


def with_ids(ids: pa.Array, columns: pa.Table | None) -> pa.Table:
    """Return the items table with its ids as the first column."""
    return pa.table({"item_id": ids}) if columns is None else columns.add_column(0, "item_id", ids)


def join_item_columns(known: pa.Table | None, n_known: int, new: pa.Table | None, n_new: int) -> pa.Table | None:
    """Return the items table with the rows of new items after the others; what one of them lacks is null.

    Raises `DataError` for another number of rows than `n_new` and a column of another type.
    """
    if new is not None and len(new) != n_new:
        raise DataError(f"item columns: expected {n_new} rows, one a new item, found {len(new)}")
    if known is None and new is None:
        return None
    known = _blank_rows(new, n_known) if known is None else known
    new = _blank_rows(known, n_new) if new is None else new
    try:
        return pa.concat_tables([known, new], promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"item columns: expected the types of the items table, found others: {error}") from error


def _blank_rows(like: pa.Table, n: int) -> pa.Table:
    return like.slice(0, 0).take(pa.nulls(n, pa.int64()))


def check_new_items(
    ids: list[Any], given: Mapping[str, Any], items: Vocabulary, features: ItemFeatures
) -> ItemFeatures:
    """Return the content of new items, checked against that of the known ones."""
    known = set(map(str, items.ids.tolist()))
    for one in ids:
        if str(one) in known or [str(other) for other in ids].count(str(one)) > 1:
            raise DataError(f"item {one!r} is known already; add_items takes new ids, each once")
    if sorted(given) != sorted(features.names):
        raise DataError(f"expected content of {', '.join(features.names)}, found {', '.join(given) or 'none'}")
    values, present = {}, {}
    for name, rows in given.items():
        x = np.atleast_2d(np.asarray(rows, dtype=np.float32))
        expected = (len(ids), features.values[name].shape[1])
        if x.shape != expected or not np.isfinite(x).all():
            raise DataError(f"{name}: expected finite numbers {list(expected)}, found {list(x.shape)}")
        values[name], present[name] = x, np.any(x != 0, axis=1)
    return ItemFeatures(len(ids), values, present)
