"""Lists of users that the training had, from the vectors that a saved model keeps.

Imports neither torch nor, as `pyarrow.array` does, pandas: both take longer than to answer. `TrainedModel` answers
everything else, and the same up to the rounding of scores.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gtcrec.errors import ConfigError, DataError
from gtcrec.experiments.model_bundle import StoredVectors, is_bundle, read_vectors, stored_ids, with_ids
from gtcrec.serving.diversity import POOL, cosines, diversify
from gtcrec.serving.list_request import ListRequest
from gtcrec.types import Floats, Ints, TopK, Vocabulary

__all__ = ["StoredLists", "best_items"]


class StoredLists:
    """The lists of a model whose scores are inner products, by external ids."""

    def __init__(self, stored: StoredVectors) -> None:
        self._stored = stored

    @classmethod
    def open(cls, folder: Path) -> "StoredLists | None":
        """Open a saved recommender or a finished run; None if it keeps no vectors.

        Raises `RunError` when a file is missing, damaged or edited.
        """
        stored = read_vectors(folder) if is_bundle(folder) else None
        return None if stored is None else cls(stored)

    def recommend(self, users: Sequence[str], request: ListRequest) -> pa.Table:
        """Return the best items of users by id: columns user_id, item_id, rank int32, score float32.

        Raises `DataError` for an id that the training did not have.
        """
        stored, index = self._stored, _index(self._stored.users, users, "user")
        candidates = request.candidates(
            lambda ids: _index(stored.items, ids, "item"), len(stored.items), self._items_table
        )
        lists = [self._best(user, request, candidates) for user in index.tolist()]
        counts = [len(items) for items, _ in lists]
        items, scores = (np.concatenate([one[side] for one in lists]) for side in (0, 1))
        ranks = np.concatenate([np.arange(1, count + 1, dtype=np.int32) for count in counts]) + np.int32(request.offset)
        columns = {
            "user_id": stored.users.take(_number_column(np.repeat(index, counts))),
            "item_id": stored.items.take(_number_column(items)),
            "rank": _number_column(ranks),
            "score": _number_column(scores),
        }
        return pa.table(columns)

    def titles_of(self, items: Sequence[Any]) -> list[str]:
        """Return the titles of items by id; an empty list if the data have none."""
        titles = self._stored.titles
        if titles is None:
            return []
        found = titles.take(_number_column(_index(self._stored.items, items, "item"))).to_pylist()
        return [title or "" for title in found]

    def _items_table(self) -> pa.Table:
        return with_ids(self._stored.items.cast(pa.string()), self._stored.item_columns)

    def _best(self, user: int, request: ListRequest, candidates: Ints | None) -> tuple[Ints, Floats]:
        scores = self._stored.item_vectors @ self._stored.user_vectors[user]
        if np.isnan(scores).any():
            raise DataError(f"a score of user {self._stored.users[user].as_py()!r} is NaN")
        if candidates is not None:
            chosen = np.zeros(len(scores), dtype=np.bool_)
            chosen[candidates] = True
            scores[~chosen] = -np.inf
        if request.exclude_seen:
            scores[self._stored.seen_by(user)] = -np.inf
        items, best = best_items(scores, max(request.end, POOL) if request.diversity else request.end)
        if request.diversity:
            lists = TopK(np.array([user]), items[None], best[None])
            lists = diversify(lists, request.diversity, self._similarity_among, request.end)
            items, best = lists.items[0], lists.scores[0]
        return items[request.offset : request.end], best[request.offset : request.end]

    def _similarity_among(self, items: Ints) -> Floats:
        return cosines(self._stored.item_vectors[items])


def best_items(scores: Floats, k: int) -> tuple[Ints, Floats]:
    """Return the items of the k largest scores [n_items], best first, ties by ascending item, and these scores.

    An item scored -inf is none of them. Raises `ConfigError` for k < 1.

    >>> best_items(np.array([0.5, 2.0, -np.inf, 2.0]), k=2)[0].tolist()
    [1, 3]
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, found {k}")
    place = max(0, len(scores) - k)
    border = np.partition(scores, place)[place]
    items = np.flatnonzero((scores >= border) & (scores > -np.inf))
    best = items[np.argsort(-scores[items], kind="stable")[:k]]
    return best, scores[best]


def _index(known: pa.ChunkedArray, ids: Sequence[Any], word: str) -> Ints:
    """Return the places of ids, compared by their text; as `Vocabulary.index`, without a table of all ids."""
    texts = [str(one) for one in ids]
    if not pa.types.is_integer(known.type):
        sought = _text_column(texts)
    elif all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", one) for one in texts):
        sought = _number_column(np.array([int(one) for one in texts], dtype=np.int64))
    else:
        sought = _number_column(np.zeros(0, dtype=np.int64))
    found = pc.index_in(sought, value_set=known)
    if found.null_count or len(found) < len(texts):
        return Vocabulary(stored_ids(known), word).index(texts)  # which names the first that is unknown
    return np.array(found.to_pylist(), dtype=np.int64)


def _number_column(values: np.ndarray[Any, Any]) -> pa.Array:
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, buffer])


def _text_column(texts: Sequence[str]) -> pa.Array:
    encoded = [one.encode() for one in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))
