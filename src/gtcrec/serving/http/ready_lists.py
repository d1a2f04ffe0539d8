"""Lists computed ahead of the requests, or for all requests that wait, by one product each.

An answer is a slice of the ready list, from which the items of the user's events are taken out. Leaving an item out
changes no other item's score, so that the slice equals what `Recommender.recommend` returns.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Executor
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gtcrec.serving.recommender import Recommender

__all__ = ["RankedItems", "ReadyLists", "rows_of"]

RankedItems = list[tuple[str, float]]
"""Items by id with their scores, best first."""

_SMALLEST = 4  # users of a product: smaller ones add up in another order, and differ in the last bit from larger ones
_LARGEST = 1024


class ReadyLists:
    """The best unseen items of users, of one recommender.

    Parameters
    ----------
    recommender : Recommender
    n_items : int
        Length of the lists.
    n_users : int
        How many lists to hold; the one that was not asked for longest makes room.

    Examples
    --------
    >>> model = gtcrec.Recommender("ease").fit(gtcrec.data.make_catalog(n_users=60, n_items=40).dataset)
    >>> lists = ReadyLists(model, n_items=10, n_users=100)
    >>> lists.fill(["u0001"])
    >>> [item for item, _ in lists.cut("u0001", n=2)] == model.recommend("u0001", k=2)["item_id"].to_pylist()
    True
    """

    def __init__(self, recommender: Recommender, n_items: int, n_users: int) -> None:
        self._recommender, self._n_items, self._n_users = recommender, n_items, n_users
        self.users, self.items = frozenset(recommender.user_ids), frozenset(recommender.item_ids)
        self._ids = recommender.item_ids
        self._array = pa.array(self._ids, pa.string())
        self._quoted = [json.dumps(item, ensure_ascii=False) for item in self._ids]
        self._index = {item: index for index, item in enumerate(self._ids)}
        self._lists: OrderedDict[str, tuple[Any, Any]] = OrderedDict()  # of indices and scores: small, and no garbage
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._task: asyncio.Task[None] | None = None

    def fill(self, users: Sequence[str]) -> None:
        """Compute the lists of users, who are known to the recommender."""
        for start in range(0, len(users), _LARGEST):
            some = list(users[start : start + _LARGEST])
            padded = some + some[:1] * (_SMALLEST - len(some))
            table = self._recommender.recommend(padded, k=self._n_items)
            # By columns: a loop over rows would hold the interpreter, and the requests meanwhile would wait for it.
            items = pc.index_in(table["item_id"], self._array).to_numpy()
            scores = table["score"].to_numpy()
            starts = np.flatnonzero(table["rank"].to_numpy() == 1)
            owners = table["user_id"].take(starts).to_pylist()
            bounds = pairwise([*starts.tolist(), len(items)])
            places = dict(zip(owners, bounds, strict=True))
            for user in some:
                first, end = places.get(user, (0, 0))
                self._lists[user] = items[first:end].copy(), scores[first:end].copy()
        while len(self._lists) > self._n_users:
            self._lists.popitem(last=False)

    def cut(self, user: str, n: int, offset: int = 0, without: Collection[str] = ()) -> RankedItems | None:
        """Return a user's items at the ranks offset + 1 to offset + n, `without` these; None if the list is too short.

        It is too short also if the user has none.
        """
        found = self._slice(user, n, offset, without)
        return None if found is None else [(self._ids[index], score) for index, score in found]

    def text(self, user: str, n: int, without: Collection[str] = ()) -> str | None:
        """Return the first n items as the JSON of an answer's `items`; None as `cut`.

        >>> model = gtcrec.Recommender("ease").fit(gtcrec.data.make_catalog(n_users=60, n_items=40).dataset)
        >>> lists = ReadyLists(model, n_items=10, n_users=100)
        >>> lists.fill(["u0001"])
        >>> [row["rank"] for row in json.loads(lists.text("u0001", n=2))]
        [1, 2]
        """
        found = self._slice(user, n, 0, without)
        if found is None:
            return None
        quoted = self._quoted
        rows = [
            f'{{"item": {quoted[index]}, "rank": {rank}, "score": {score!r}}}'
            for rank, (index, score) in enumerate(found, 1)
        ]
        return f"[{', '.join(rows)}]"

    def _slice(self, user: str, n: int, offset: int, without: Collection[str]) -> Iterable[tuple[int, float]] | None:
        """The items of `cut` by index with their scores."""
        try:
            items, scores = self._lists[user]
            self._lists.move_to_end(user)
        except KeyError:
            return None
        end = offset + n
        if end + len(without) > len(items) == self._n_items:
            return None
        if without:
            kept = ~np.isin(items, [self._index[item] for item in without if item in self._index])
            items, scores = items[kept], scores[kept]
        return zip(items[offset:end].tolist(), scores[offset:end].tolist(), strict=True)

    async def prepare(self, user: str, executor: Executor) -> None:
        """Have the list of a user computed, together with those of all who wait meanwhile."""
        if user in self._lists:
            return
        loop = asyncio.get_running_loop()
        if user not in self._waiting:
            self._waiting[user] = loop.create_future()
        future = self._waiting[user]
        if self._task is None:
            self._task = loop.create_task(self._fill_waiting(executor))
        await asyncio.shield(future)

    async def _fill_waiting(self, executor: Executor) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, {}
                try:
                    await loop.run_in_executor(executor, self.fill, list(waiting))
                except Exception as error:
                    for future in waiting.values():
                        future.set_exception(error)
                for future in waiting.values():
                    if not future.done():
                        future.set_result(None)
        finally:
            self._task = None


def rows_of(table: pa.Table) -> dict[str, RankedItems]:
    """Return the lists of a table of `recommend`, user by user.

    >>> rows_of(pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "rank": [1, 2], "score": [2.0, 1.0]}))
    {'u': [('a', 2.0), ('b', 1.0)]}
    """
    found: dict[str, dict[str, float]] = {}
    columns = (table[name].to_pylist() for name in ("user_id", "item_id", "score"))
    for user, item, score in zip(*columns, strict=True):
        found.setdefault(user, {})[item] = score
    return {user: list(items.items()) for user, items in found.items()}
