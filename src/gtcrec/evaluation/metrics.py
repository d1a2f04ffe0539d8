"""Ranking metrics: a matrix of hits becomes one number per user; all lists together become one number.

A name is a kind and a list length, as in `recall@20`. With hits h_1..h_k of a list (1 = relevant), L relevant
items of the user and P_i = (h_1 + .. + h_i) / i:

| kind | value |
|---|---|
| `recall` | Σ h_i / L |
| `precision` | Σ h_i / k |
| `hit` | 1 if any h_i is 1, else 0 |
| `mrr` | 1 / place of the first hit, 0 if there is none |
| `ndcg` | Σ h_i / log2(i + 1), divided by its largest possible value, Σ 1 / log2(i + 1) up to min(L, k) |
| `map` | Σ h_i P_i / L, as trec_eval |
| `map_cut` | Σ h_i P_i / min(L, k), what MMRec and RecBole print as MAP |

Over all lists: `coverage` is the share of the catalogue that is in at least one list; `gini` the Gini
coefficient of how often each item is listed (0 = all equally often; items never listed count); `novelty`
the mean of -log2(share of the users who have the item in training) over all listed items.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gtcrec.errors import ConfigError, DataError, nearest
from gtcrec.types import Floats, Interactions, Ints, Masks, TopK

__all__ = [
    "CATALOG_METRICS",
    "RANKING_METRICS",
    "Metric",
    "check_length",
    "compute",
    "compute_lists",
    "cut_of",
    "headline_cut",
    "hits",
    "kind_of",
    "longest",
    "parse",
]

UNSEEN_USERS = 0.5
"""How many users an item that nobody has in training counts for in `novelty`: one bit above one user."""


@dataclass(frozen=True)
class Metric:
    """A kind of metric and the length of the list that it reads."""

    kind: str
    k: int


def parse(name: str, known: Iterable[str]) -> Metric:
    """Return the metric of a name, whose kind must be one of `known`.

    Raises `ConfigError` for an unknown kind or a length that is not a positive whole number.

    >>> parse("recall@20", RANKING_METRICS)
    Metric(kind='recall', k=20)
    """
    known = list(known)
    kind, at, k = name.partition("@")
    if kind not in known:
        raise ConfigError(f"unknown metric {name!r}{nearest(kind, known)}, expected one of {', '.join(known)} with @k")
    if not at:
        raise ConfigError(f"metric {name!r} needs the length of the list, as in '{name}@20'")
    if not re.fullmatch("[1-9][0-9]*", k):
        raise ConfigError(f"metric {name!r}: k must be a positive whole number, found {k!r}")
    return Metric(kind, int(k))


def longest(names: Iterable[str]) -> int:
    """Return the largest k of metric names of either sort, 0 when there are none."""
    return max((parse(name, [*RANKING_METRICS, *CATALOG_METRICS]).k for name in names), default=0)


def check_length(name: str, known: Iterable[str], k: int) -> Metric:
    """Return the metric of a name; raises as `parse`, and where lists of `k` items are too short for it."""
    metric = parse(name, known)
    if metric.k > k:
        raise ConfigError(f"{name} needs lists of {metric.k} items, found lists of {k}")
    return metric


def hits(lists: TopK, relevant: Interactions) -> Masks:
    """Say which places of the lists hold a relevant item, bool [b, k]."""
    row, items = relevant.rows_of(lists.users)
    is_hit = np.zeros(lists.items.shape, dtype=np.bool_)
    for place in range(lists.k):  # one place of every list at a time: lists are longer than users have relevant items
        is_hit[row[lists.items[row, place] == items], place] = True
    return is_hit


def compute(names: Iterable[str], hits: Masks, n_relevant: Ints) -> dict[str, Floats]:
    """Return the named metrics of each user, name -> float64 [b].

    `hits` bool [b, k_max] says which places of the lists hold a relevant item, `n_relevant` int64 [b] how many
    relevant items the user has in all. Raises `ConfigError` for a bad name or one that needs longer lists,
    `DataError` for a user with no relevant item or fewer than the list holds.

    >>> values = compute(["recall@2", "ndcg@2"], np.array([[False, True]]), np.array([2]))
    >>> values["recall@2"].tolist(), values["ndcg@2"].round(4).tolist()
    ([0.5], [0.3869])
    """
    metrics = {name: check_length(name, RANKING_METRICS, hits.shape[1]) for name in names}
    n_hits = hits.sum(axis=1)
    for row in np.flatnonzero((n_relevant < 1) | (n_hits > n_relevant))[:1]:
        raise DataError(
            f"each user needs at least one relevant item and as many as hits, "
            f"found {n_relevant[row]} relevant and {n_hits[row]} hits (row {row})"
        )
    some = np.flatnonzero(n_hits)  # most users have no hit, and every metric is 0 then
    gains, relevant = hits[some].astype(np.float64), n_relevant[some].astype(np.float64)
    values = {name: np.zeros(len(hits)) for name in metrics}
    for name, metric in metrics.items():
        values[name][some] = RANKING_METRICS[metric.kind](gains[:, : metric.k], relevant)
    return values


def compute_lists(names: Iterable[str], lists: TopK, train: Interactions) -> dict[str, float]:
    """Return the named metrics of all lists together; places that hold item -1 do not count.

    `novelty` takes an item that nobody has in training as had by half a user. Raises `ConfigError` for a
    bad name or one that needs longer lists, `DataError` when no list holds an item.
    """
    values = {}
    for name in names:
        metric = check_length(name, CATALOG_METRICS, lists.k)
        listed = lists.items[:, : metric.k]
        exposure = np.bincount(listed[listed >= 0], minlength=train.n_items)
        if not exposure.any():
            raise DataError(f"{name} needs at least one recommended item, found {len(lists.users)} empty lists")
        values[name] = CATALOG_METRICS[metric.kind](exposure, train)
    return values


def _ndcg(gains: Floats, relevant: Floats) -> Floats:
    k = gains.shape[1]
    discount = 1 / np.log2(np.arange(2, k + 2))  # [k]
    ideal = np.cumsum(discount)[np.minimum(relevant, k).astype(np.int64) - 1]  # [b]
    values: Floats = (gains * discount).sum(axis=1) / ideal
    return values


def _precision_sum(gains: Floats) -> Floats:
    """Σ h_i P_i of each list, float64 [b]."""
    sums: Floats = (gains * gains.cumsum(axis=1) / np.arange(1, gains.shape[1] + 1)).sum(axis=1)
    return sums


def _gini(exposure: Ints) -> float:
    n = len(exposure)
    weight = 2 * np.arange(1, n + 1) - n - 1
    return float((weight * np.sort(exposure)).sum() / (n * exposure.sum()))


def _novelty(exposure: Ints, train: Interactions) -> float:
    users = np.where(train.item_counts > 0, train.item_counts, UNSEEN_USERS)
    return float((exposure * -np.log2(users / train.n_users)).sum() / exposure.sum())


RANKING_METRICS: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "recall": lambda gains, relevant: gains.sum(axis=1) / relevant,
    "ndcg": _ndcg,
    "precision": lambda gains, relevant: gains.sum(axis=1) / gains.shape[1],
    "map": lambda gains, relevant: _precision_sum(gains) / relevant,
    "map_cut": lambda gains, relevant: _precision_sum(gains) / np.minimum(relevant, gains.shape[1]),
    "mrr": lambda gains, relevant: gains.max(axis=1) / (gains.argmax(axis=1) + 1),
    "hit": lambda gains, relevant: gains.max(axis=1),
}
"""Kind -> function of gains float64 [b, k] (1 = hit) and number of relevant items float64 [b]."""

CATALOG_METRICS: Mapping[str, Callable[[Ints, Interactions], float]] = {
    "coverage": lambda exposure, train: float(np.count_nonzero(exposure) / len(exposure)),
    "gini": lambda exposure, train: _gini(exposure),
    "novelty": _novelty,
}
"""Kind -> function of the number of lists that hold each item, int64 [n_items], and the training pairs."""


def headline_cut(names: Sequence[str]) -> str:
    """Return the cut-off that summaries show: 20 where it was measured, else the largest."""
    cuts = sorted({cut_of(name) for name in names if "@" in name}, key=int)
    return "20" if "20" in cuts or not cuts else cuts[-1]


def cut_of(metric: str) -> str:
    """Return the cut-off of a metric's name: "20" of "recall@20", "" where there is none."""
    return metric.partition("@")[2]


def kind_of(metric: str) -> str:
    """Return the kind of a metric's name: "recall" of "recall@20"."""
    return metric.partition("@")[0]
