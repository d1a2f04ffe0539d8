"""What is known of users and items: interactions, content, ids, and their division into parts."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gtcrec.errors import DataError, nearest_id
from gtcrec.types.arrays import Floats, Ints, Masks, pair_keys
from gtcrec.types.display import html_table

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy.sparse import csr_array

__all__ = ["Dataset", "Interactions", "ItemFeatures", "ItemMetadata", "Split", "Vocabulary"]


@dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """Distinct user-item pairs, kept sorted by user, then item.

    Parameters
    ----------
    users, items : numpy.ndarray
        int64 [n] each: pair j is (users[j], items[j]), both counted from 0.
    n_users, n_items : int
        How many there are, those without a pair included.
    user_ids, item_ids : Vocabulary, optional
        External ids, if known.

    Raises
    ------
    DataError
        For pairs out of range or given twice.

    Examples
    --------
    >>> pairs = Interactions(np.array([1, 0]), np.array([2, 0]), n_users=2, n_items=3)
    >>> pairs
    Interactions(2 pairs of 2 users and 3 items)
    >>> pairs.users.tolist(), pairs.item_counts.tolist()
    ([0, 1], [1, 0, 1])
    """

    users: Ints
    items: Ints
    n_users: int
    n_items: int
    user_ids: "Vocabulary | None" = None
    item_ids: "Vocabulary | None" = None

    def __post_init__(self) -> None:
        users, items = (np.ascontiguousarray(side, dtype=np.int64) for side in (self.users, self.items))
        if users.ndim != 1 or users.shape != items.shape:
            raise DataError(f"users and items must be two lists of one length, found {users.shape}, {items.shape}")
        for word, side, end in (("users", users, self.n_users), ("items", items, self.n_items)):
            if len(side) and not (side.min() >= 0 and side.max() < end):
                wrong = side.max() if side.max() >= end else side.min()
                raise DataError(f"{word} must lie in [0, {end}), found {wrong}")
        users, items = _sorted_pairs(users, items, self.n_users, self.n_items)
        twice = np.flatnonzero((np.diff(users) == 0) & (np.diff(items) == 0))
        if len(twice):
            raise DataError(f"pairs must be distinct, found user {users[twice[0]]}, item {items[twice[0]]} twice")
        object.__setattr__(self, "users", users)
        object.__setattr__(self, "items", items)

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self) -> str:
        return f"Interactions({len(self):,} pairs of {self.n_users:,} users and {self.n_items:,} items)"

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

    def matrix(self) -> "csr_array":
        """Return the binary matrix, float32 CSR [n_users, n_items]."""
        from scipy.sparse import csr_array

        ones = np.ones(len(self), dtype=np.float32)
        return csr_array((ones, self.items, self.indptr), shape=(self.n_users, self.n_items))

    def where(self, chosen: Masks) -> "Interactions":
        """Return the pairs at which `chosen` (bool [n]) is true, over the same users and items."""
        return self._unchecked(users=self.users[chosen], items=self.items[chosen])

    def identified(self, user_ids: "Vocabulary", item_ids: "Vocabulary") -> "Interactions":
        """Return the same pairs with the external ids of their users and items."""
        return self._unchecked(user_ids=user_ids, item_ids=item_ids)

    def _unchecked(self, **changes: Any) -> "Interactions":
        """Return a copy with changes that leave its pairs distinct, in order and in range, which costs a few sorts."""
        found = object.__new__(Interactions)
        for one in fields(self):
            object.__setattr__(found, one.name, changes.get(one.name, getattr(self, one.name)))
        return found


def _sorted_pairs(users: Ints, items: Ints, n_users: int, n_items: int) -> tuple[Ints, Ints]:
    """Return the pairs by user, then item, in arrays of their own."""
    keys = pair_keys(users, items, n_users, n_items)
    if keys is None:
        order = np.lexsort((items, users))
        return users[order], items[order]
    if (keys[1:] >= keys[:-1]).all():
        return users.copy(), items.copy()
    keys.sort()
    users = keys // n_items
    return users, keys - users * n_items


@dataclass(frozen=True, eq=False, repr=False)
class ItemFeatures:
    """Content of the items by modality, with a mask that says which items have it.

    Parameters
    ----------
    n_items : int
        Number of items.
    values : mapping
        Modality -> float32 [n_items, d_m]; rows of items that lack the modality are zero and not used. Any number of
        modalities, also none.
    present : mapping
        Modality -> bool [n_items].

    Raises
    ------
    DataError
        For a matrix or mask of another shape or type.

    Examples
    --------
    >>> ItemFeatures(2, {"text": np.ones((2, 4), dtype=np.float32)}, {"text": np.array([True, False])})
    ItemFeatures(2 items, text: 1 x 4)
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
                raise DataError(f"{name}: expected float32 [{self.n_items}, d], found {x.dtype} {list(x.shape)}")
            if mask.shape != (self.n_items,) or mask.dtype != np.bool_:
                raise DataError(f"{name}: expected a bool mask [{self.n_items}], found {mask.dtype} {list(mask.shape)}")

    def __repr__(self) -> str:
        sizes = [f"{m}: {int(self.present[m].sum()):,} x {self.values[m].shape[1]}" for m in self.names]
        return f"ItemFeatures({self.n_items:,} items{''.join(f', {size}' for size in sizes)})"

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
        expected = [str(one) for one in external]
        for one in expected:
            if one not in place:
                found = f"which has {len(self)} {self.word}s{nearest_id(one, place)}"
                raise DataError(f"{self.word} {one!r} is not in the data, {found}")
        return np.array([place[one] for one in expected], dtype=np.int64)

    def external(self, index: Ints) -> NDArray[Any]:
        """Return the external ids of indices."""
        return self.ids[index]


@dataclass(frozen=True, eq=False)
class ItemMetadata:
    """What a person sees of an item: title and image file (either may be missing); one entry per item.

    `columns` are those of the items table but the ids, a row an item: what filters ask about.
    """

    titles: tuple[str, ...]
    images: tuple[Path | None, ...]
    columns: "pa.Table | None" = None

    def table(self) -> "pa.Table":
        """Return `columns`, or where there are none a table of the titles."""
        import pyarrow as pa

        return pa.table({"title": self.titles}) if self.columns is None else self.columns

    def of(self, items: Ints) -> "ItemMetadata":
        """Return the metadata of some items, by index and in their order."""
        titles, images = (tuple(side[item] for item in items.tolist()) for side in (self.titles, self.images))
        return ItemMetadata(titles, images, None if self.columns is None else self.columns.take(items))


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A catalog as read: interactions with their labels and times, content, external ids.

    Parameters
    ----------
    name : str
        What pages call it.
    interactions : Interactions
        All pairs.
    features : ItemFeatures
        The items' content.
    users, items : Vocabulary
        External ids.
    labels : numpy.ndarray, optional
        int8 [n], in the order of the pairs: 0 train, 1 valid, 2 test.
    times : numpy.ndarray, optional
        float64 [n], in the order of the pairs: seconds.
    item_metadata : ItemMetadata, optional
        Titles and images.
    notes : mapping
        What reading merged, dropped or ignored -> how often.

    Examples
    --------
    >>> pairs = Interactions(np.array([0]), np.array([1]), n_users=1, n_items=2)
    >>> Dataset("tiny", pairs, ItemFeatures(2), Vocabulary(np.array(["ann"])), Vocabulary(np.array(["mug", "tea"])))
    Dataset('tiny', 1 users, 2 items, 1 interactions)
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

    def __repr__(self) -> str:
        sizes = f"{len(self.users):,} users, {len(self.items):,} items, {len(self.interactions):,} interactions"
        widths = "".join(f", {m}: {self.features.values[m].shape[1]}" for m in self.features.names)
        return f"Dataset({self.name!r}, {sizes}{widths})"

    def _repr_html_(self) -> str:
        rows = [("users", len(self.users)), ("items", len(self.items)), ("interactions", len(self.interactions))]
        cells = [(name, f"{count:,}") for name, count in rows]
        for m in self.features.names:
            present = int(self.features.present[m].sum())
            cells.append((f"content: {m}", f"{self.features.values[m].shape[1]} wide, {present:,} items have it"))
        return html_table(cells, caption=self.name)

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

    Whatever chooses a setting looks at `train`, `valid` and `features`; `final_test()` is for the one evaluation at the
    end.

    Parameters
    ----------
    train, valid, test : Interactions
        Over the same users and items.
    features : ItemFeatures
        The items' content.
    how : mapping
        How the interactions were divided.
    item_metadata : ItemMetadata, optional
        Titles and images.

    Examples
    --------
    >>> pairs = Interactions(np.array([0, 0, 0]), np.array([0, 1, 2]), n_users=1, n_items=3)
    >>> parts = [pairs.where(pairs.items == item) for item in range(3)]
    >>> Split(*parts, ItemFeatures(3), {}).final_test().items.tolist()
    [2]
    """

    def __init__(
        self,
        train: Interactions,
        valid: Interactions,
        test: Interactions,
        features: ItemFeatures,
        how: Mapping[str, Any],
        item_metadata: ItemMetadata | None = None,
    ) -> None:
        self.item_metadata = item_metadata
        self.train = train
        self.valid = valid
        self.features = features
        self.how = how
        self.__test = test

    @property
    def has_test(self) -> bool:
        """Whether there is any test pair."""
        return len(self.__test) > 0

    def final_test(self) -> Interactions:
        """Return the test pairs."""
        return self.__test

    def __repr__(self) -> str:
        return f"Split(train={len(self.train)}, valid={len(self.valid)}, test={len(self.__test)}, how={dict(self.how)})"
