"""Dividing interactions into training, validation and test parts."""

import math
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gtcrec.errors import DataError
from gtcrec.types import Dataset, Floats, Ints, Split

__all__ = ["SplitConfig", "assign", "split"]

_STREAM = 2  # keeps these draws apart from others that start from the same seed
_SMALL = 10  # users with fewer interactions give one to validation and one to test


class SplitConfig(BaseModel):
    """How to divide the interactions.

    `label`: as the data's labels say. `random`: per user by `ratios` (train, valid, test). `leave_one_out`:
    each user's last interaction to test, the one before to validation (in random order without times).
    `user_time`: per user by `ratios` in order of time. `global_time`: at two moments that cut all times by
    `ratios`. `cold_items`: items at random by `ratios`, each with all of its interactions, so that validation and test
    have items that training never sees. `auto`: `label` where the data has labels, else `random`. The seed also orders
    equal times.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Literal["auto", "label", "random", "leave_one_out", "user_time", "global_time", "cold_items"] = "auto"
    ratios: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]
    ] = (0.8, 0.1, 0.1)  # fmt: skip
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(sum(self.ratios) - 1) > 1e-9:
            raise ValueError(f"ratios must add up to 1, found {self.ratios}, which add up to {sum(self.ratios):g}")
        return self


_DEFAULT = SplitConfig()


def split(dataset: Dataset, config: SplitConfig = _DEFAULT) -> Split:
    """Divide the interactions into parts; each pair lands in exactly one.

    Raises `DataError` when the data lacks what the strategy needs or nothing is left for training.
    """
    strategy = _strategy(dataset, config)
    parts = assign(dataset, config)
    pairs = dataset.interactions
    train, valid, test = (pairs.where(parts == part) for part in range(3))
    if not len(train):
        raise DataError(f"split {strategy!r} leaves no training interaction of {len(pairs)}")
    counts = {"train": len(train), "valid": len(valid), "test": len(test)}
    return Split(train, valid, test, dataset.features, {**config.model_dump(mode="json"), "used": strategy, **counts})


def assign(dataset: Dataset, config: SplitConfig = _DEFAULT) -> NDArray[np.int8]:
    """Return the part of each pair of `dataset.interactions`, int8 [n]: 0 train, 1 valid, 2 test.

    Depends on the pairs, their times and the seed alone, not on the order of rows in a file.
    """
    strategy, times, pairs = _strategy(dataset, config), dataset.times, dataset.interactions
    if strategy == "label":
        if dataset.labels is None:
            raise DataError("split 'label' needs labels, the data has none; set data.label to the column's name")
        return dataset.labels
    if strategy in ("user_time", "global_time") and times is None:
        raise DataError(f"split {strategy!r} needs times, the data has none; set data.time to the column's name")
    if strategy == "global_time" and times is not None:
        return _cut(times, config.ratios)
    if strategy == "cold_items":
        return _by_item(pairs.n_items, config)[pairs.items]
    draws = np.random.default_rng([_STREAM, config.seed]).random(len(pairs))
    # Random draws order equal times: the item's index would make some items "the last" more often.
    keys = (draws, pairs.users) if strategy == "random" or times is None else (draws, times, pairs.users)
    from_end = np.empty(len(pairs), dtype=np.int64)  # 0 for the last pair of its user
    from_end[np.lexsort(keys)] = pairs.indptr[1:][pairs.users] - 1 - np.arange(len(pairs))
    n_valid, n_test = _sizes(pairs.user_counts, config.ratios, strategy == "leave_one_out")
    return _label(from_end, n_valid[pairs.users], n_test[pairs.users])


def _strategy(dataset: Dataset, config: SplitConfig) -> str:
    if config.strategy != "auto":
        return config.strategy
    return "random" if dataset.labels is None else "label"


def _sizes(counts: Ints, ratios: tuple[float, float, float], one_each: bool) -> tuple[Ints, Ints]:
    """Return how many pairs of each user go to validation and to test, each int64 [n_users].

    A part whose ratio is 0 gets none. A user with two pairs has none for
    validation, with one pair trains only.
    """
    small = np.ones_like(counts)
    n_valid, n_test = (
        small
        if one_each
        else np.where(counts < _SMALL, 1, np.maximum(1, np.floor(counts * ratio + 1e-9))).astype(np.int64) * (ratio > 0)
        for ratio in ratios[1:]
    )
    n_test = np.minimum(n_test, counts - 1)
    return np.minimum(n_valid, counts - 1 - n_test), n_test


def _by_item(n: int, config: SplitConfig) -> NDArray[np.int8]:
    """The part of each item, int8 [n_items]; sizes by ratio, rounded down for validation and test."""
    n_valid, n_test = (math.floor(n * ratio + 1e-9) for ratio in config.ratios[1:])
    order = np.random.default_rng([_STREAM, config.seed]).permutation(n)
    return _label(order, np.int64(n_valid), np.int64(n_test))


def _label(from_end: Ints, n_valid: Ints | np.int64, n_test: Ints | np.int64) -> NDArray[np.int8]:
    return np.where(from_end < n_test, 2, np.where(from_end < n_test + n_valid, 1, 0)).astype(np.int8)


def _cut(times: Floats, ratios: tuple[float, float, float]) -> NDArray[np.int8]:
    """Cut at the times below which the ratios of all pairs lie; equal times stay together."""
    ends = np.append(np.sort(times), np.inf)
    shares = np.floor(len(times) * np.cumsum(ratios[:2]) + 1e-9).astype(np.int64)
    first, second = ends[np.minimum(shares, len(times))]
    return np.where(times < first, 0, np.where(times < second, 1, 2)).astype(np.int8)
