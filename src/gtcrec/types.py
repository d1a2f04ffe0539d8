"""The values that travel between the parts: interactions, content, data sets, splits, lists, reports.

Users and items are integers from 0 here; a `Vocabulary` turns them into external ids and back. Nothing in
this module needs torch.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from gtcrec.errors import DataError

if TYPE_CHECKING:
    import torch

__all__ = [
    "Batch",
    "Dataset",
    "Floats",
    "FoldsIn",
    "Interactions",
    "Ints",
    "ItemFeatures",
    "ItemMetadata",
    "Masks",
    "Report",
    "Scorer",
    "ScoringModel",
    "Split",
    "TopK",
    "Vocabulary",
]

Ints = NDArray[np.int64]
Floats = NDArray[Any]  # float32 for content and scores, float64 for metrics
Masks = NDArray[np.bool_]

Scorer = Callable[["torch.Tensor"], "torch.Tensor"]
"""A frozen snapshot of a model: user indices int64 [b] -> scores float32 [b, n_items]."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """Distinct user-item pairs, kept sorted by user, then item.

    `users` and `items` are int64 [n]. Raises `DataError` for pairs out of range or given twice.

    >>> pairs = Interactions(np.array([1, 0]), np.array([2, 0]), n_users=2, n_items=3)
    >>> len(pairs), pairs.users.tolist(), pairs.item_counts.tolist()
    (2, [0, 1], [1, 0, 1])
    """

    users: Ints
    items: Ints
    n_users: int
    n_items: int

    def __post_init__(self) -> None:
        users, items = (np.ascontiguousarray(side, dtype=np.int64) for side in (self.users, self.items))
        if users.ndim != 1 or users.shape != items.shape:
            raise DataError(f"users and items must be two lists of one length, found {users.shape}, {items.shape}")
        for word, side, end in (("users", users, self.n_users), ("items", items, self.n_items)):
            if len(side) and not (side.min() >= 0 and side.max() < end):
                wrong = side.max() if side.max() >= end else side.min()
                raise DataError(f"{word} must lie in [0, {end}), found {wrong}")
        order = np.lexsort((items, users))
        users, items = users[order], items[order]
        twice = np.flatnonzero((np.diff(users) == 0) & (np.diff(items) == 0))
        if len(twice):
            raise DataError(f"pairs must be distinct, found user {users[twice[0]]}, item {items[twice[0]]} twice")
        object.__setattr__(self, "users", users)
        object.__setattr__(self, "items", items)

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def indptr(self) -> Ints:
        """Row ends: the items of user u are `items[indptr[u]:indptr[u + 1]]`; int64 [n_users + 1]."""
        return np.concatenate([[0], np.cumsum(self.user_counts)]).astype(np.int64)

    @cached_property
    def user_counts(self) -> Ints:
        """Number of items of each user, int64 [n_users]."""
        return np.bincount(self.users, minlength=self.n_users).astype(np.int64)

    @cached_property
    def item_counts(self) -> Ints:
        """Number of users of each item, int64 [n_items]."""
        return np.bincount(self.items, minlength=self.n_items).astype(np.int64)

    def items_of(self, user: int) -> Ints:
        """Items of one user, ascending."""
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def rows_of(self, users: Ints) -> tuple[Ints, Ints]:
        """Return the pairs of `users`, int64 [b], as (place in `users`, item), ordered by them; int64 [n] each."""
        counts = self.user_counts[users]
        row = np.repeat(np.arange(len(users)), counts)
        first = self.indptr[users] - (np.cumsum(counts) - counts)
        return row, self.items[first[row] + np.arange(len(row))]

    def contains(self, users: Ints, items: Ints) -> Masks:
        """Say which pairs (users[j], items[j]) are among these; int64 of any one shape -> bool of that shape.

        Item -1 (a place that was not filled) is in no pair.
        """
        if not len(self):
            return np.zeros(items.shape, dtype=np.bool_)
        keys = self.users * self.n_items + self.items  # ascending, because pairs are sorted
        queries = users * self.n_items + items
        place = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
        found: Masks = (keys[place] == queries) & (items >= 0)
        return found

    def matrix(self) -> csr_array:
        """Return the binary matrix, float32 CSR [n_users, n_items]."""
        ones = np.ones(len(self), dtype=np.float32)
        return csr_array((ones, self.items, self.indptr), shape=(self.n_users, self.n_items))

    def where(self, chosen: Masks) -> "Interactions":
        """Return the pairs at which `chosen` (bool [n]) is true, over the same users and items."""
        return Interactions(self.users[chosen], self.items[chosen], self.n_users, self.n_items)


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """Content of the items by modality, with a mask that says which items have it.

    `values[m]` is float32 [n_items, d_m] (rows of absent items are zero and must not be used), `present[m]`
    bool [n_items]. Any number of modalities, also none.
    """

    n_items: int
    values: Mapping[str, Floats] = field(default_factory=dict)
    present: Mapping[str, Masks] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.values) != set(self.present):
            raise DataError(f"each modality needs values and a mask, found {set(self.values) ^ set(self.present)}")
        for name, x in self.values.items():
            mask = self.present[name]
            if x.ndim != 2 or len(x) != self.n_items or x.dtype != np.float32:
                raise DataError(f"{name}: wanted float32 [{self.n_items}, d], found {x.dtype} {list(x.shape)}")
            if mask.shape != (self.n_items,) or mask.dtype != np.bool_:
                raise DataError(f"{name}: wanted a bool mask [{self.n_items}], found {mask.dtype} {list(mask.shape)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities, in a fixed order."""
        return tuple(sorted(self.values))

    def only(self, names: Iterable[str]) -> "ItemFeatures":
        """Keep the named modalities."""
        names = list(names)
        return ItemFeatures(self.n_items, {m: self.values[m] for m in names}, {m: self.present[m] for m in names})


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """External ids of users or of items: `ids[k]` is the id of index k; all int64 or all text, distinct.

    >>> Vocabulary(np.array(["ann", "bob"])).index(["bob"]).tolist()
    [1]
    """

    ids: NDArray[Any]
    word: str = "id"

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {str(external): index for index, external in enumerate(self.ids.tolist())}

    def index(self, external: Iterable[Any]) -> Ints:
        """Return the indices, int64 [n], of external ids, which are compared by their text.

        Raises `DataError` naming the first id that is not in the data.
        """
        place = self._place
        wanted = [str(one) for one in external]
        for one in wanted:
            if one not in place:
                raise DataError(f"{self.word} {one!r} is not in the data, which has {len(self)} {self.word}s")
        return np.array([place[one] for one in wanted], dtype=np.int64)

    def external(self, index: Ints) -> NDArray[Any]:
        """Return the external ids of indices."""
        return self.ids[index]


@dataclass(frozen=True, eq=False)
class ItemMetadata:
    """What a person sees of an item: title and image file (either may be missing); one entry per item."""

    titles: tuple[str, ...]
    images: tuple[Path | None, ...]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A catalogue as read: interactions with their labels and times, content, external ids.

    `labels` int8 [n] (0 train, 1 valid, 2 test) and `times` float64 [n] belong to the pairs of
    `interactions`, in its order; each is None when the source has no such column. `notes` says what reading
    merged, dropped or ignored.
    """

    name: str
    interactions: Interactions
    features: ItemFeatures
    users: Vocabulary
    items: Vocabulary
    labels: NDArray[np.int8] | None = None
    times: Floats | None = None
    item_metadata: ItemMetadata | None = None
    notes: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over ids, pairs, labels, times and content: equal exactly for equal data."""
        total = hashlib.sha256()

        def add(name: str, array: NDArray[Any] | None) -> None:
            if array is not None:
                total.update(f"{name} {array.dtype} {array.shape};".encode())
                total.update(np.ascontiguousarray(array).tobytes())

        for name, vocabulary in (("users", self.users), ("items", self.items)):
            total.update(f"{name}:{len(vocabulary)};".encode())
            total.update("\x00".join(map(str, vocabulary.ids.tolist())).encode())
        add("pairs.users", self.interactions.users)
        add("pairs.items", self.interactions.items)
        add("labels", self.labels)
        add("times", self.times)
        for m in self.features.names:
            add(f"{m}.values", self.features.values[m])
            add(f"{m}.present", self.features.present[m])
        return total.hexdigest()


class Split:
    """Training and validation pairs and the content. Test pairs come out of one explicit call only.

    Whatever chooses a setting looks at `train`, `valid` and `features`; `final_test()` is for the one
    evaluation at the end.
    """

    def __init__(
        self,
        train: Interactions,
        valid: Interactions,
        test: Interactions,
        features: ItemFeatures,
        how: Mapping[str, Any],
    ) -> None:
        self.train = train
        self.valid = valid
        self.features = features
        self.how = how
        self.__test = test

    def final_test(self) -> Interactions:
        """Return the test pairs."""
        return self.__test

    def __repr__(self) -> str:
        return f"Split(train={len(self.train)}, valid={len(self.valid)}, test={len(self.__test)}, how={dict(self.how)})"


@dataclass(frozen=True, eq=False)
class TopK:
    """Ranked lists: row b belongs to `users[b]`; places that could not be filled hold item -1, score -inf.

    `users` int64 [b], `items` int64 [b, k], `scores` float32 [b, k], best first, ties by ascending item.
    """

    users: Ints
    items: Ints
    scores: Floats

    @property
    def k(self) -> int:
        return int(self.items.shape[1])


@dataclass(frozen=True, eq=False)
class Report:
    """What an evaluation found.

    `per_user[name]` float64 [b] are the metrics of `users[b]`; `means` their averages; `intervals` 95 %
    bootstrap intervals of those; `lists` the metrics of all lists together (coverage, Gini); `slices` means over groups
    of users and items; `about` says on what and how it was measured.
    """

    users: Ints
    per_user: Mapping[str, Floats]
    means: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    lists: Mapping[str, float]
    slices: Mapping[str, Mapping[str, float]]
    about: Mapping[str, Any]

    def __getitem__(self, metric: str) -> float:
        return self.means[metric]


@runtime_checkable
class ScoringModel(Protocol):
    """What every model offers. Models that are trained by gradient add `loss(batch, rng)`."""

    def scorer(self) -> Scorer:
        """Return a snapshot of the model as it is now; later training does not change it."""
        ...


@runtime_checkable
class FoldsIn(Protocol):
    """What models offer that can score users whom the training did not have."""

    def fold_in(self, liked: csr_array) -> "torch.Tensor":
        """Return the scores float32 [b, n_items] of users by the items that they like: binary [b, n_items]."""
        ...


class Batch(NamedTuple):
    """One training step's triples, int64 [b] each: users, items they like, items they do not like."""

    users: "torch.Tensor"
    positives: "torch.Tensor"
    negatives: "torch.Tensor"
