"""Dividing interactions into training, validation and test parts."""

import math
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gtcrec.errors import DataError, config_error
from gtcrec.types import Dataset, Floats, Interactions, Ints, Split
from gtcrec.types.arrays import pair_order

__all__ = ["SplitConfig", "assign", "require_test", "require_validation", "split"]

_STREAM = 2  # keeps these draws apart from others that start from the same seed
_STEPS = 1 << 12  # of a key, so many that few pairs of a user share one
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

    strategy: Literal["auto", "label", "random", "leave_one_out", "user_time", "global_time", "cold_items"] = Field(
        "auto", description="auto, label, random, leave_one_out, user_time, global_time or cold_items"
    )
    ratios: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]
    ] = Field((0.8, 0.1, 0.1), description="shares of training, validation and test")  # fmt: skip
    seed: Annotated[int, Field(ge=0, description="draws the split, and orders equal times")] = 0

    @model_validator(mode="after")
    def _check_ratios(self) -> Self:
        if abs(sum(self.ratios) - 1) > 1e-9:
            raise ValueError(f"ratios must add up to 1, found {self.ratios}, which add up to {sum(self.ratios):g}")
        return self


_DEFAULT = SplitConfig()


def split(
    dataset: Dataset,
    config: SplitConfig | None = None,
    *,
    strategy: str = "auto",
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> Split:
    """Divide the interactions into training, validation and test; each pair lands in exactly one.

    Parameters
    ----------
    dataset : Dataset
        What `load_dataset` returns.
    config : SplitConfig, optional
        In place of the three that follow.
    strategy : str
        "label": as the data's labels say. "random": per user by `ratios`. "leave_one_out": each user's last interaction
        to test, the one before to validation. "user_time": per user in order of time. "global_time": at two moments.
        "cold_items": items with all of their interactions. "auto": "label" where the data have labels, else "random".
    ratios : tuple of three floats
        Shares of training, validation and test.
    seed : int
        Draws the split, and orders equal times.

    Returns
    -------
    Split
        `train` and `valid`; the test part is behind `final_test()`.

    Raises
    ------
    ConfigError
        For an unknown strategy, or ratios that do not add up to 1.
    DataError
        When the data lack what the strategy needs, or nothing is left for training.

    Examples
    --------
    >>> dataset = gtcrec.data.make_catalog(n_users=30, n_items=40).dataset
    >>> parts = gtcrec.split(dataset, strategy="leave_one_out")
    >>> len(parts.valid), len(parts.final_test())
    (30, 30)
    """
    if config is None:
        try:
            config = SplitConfig(strategy=strategy, ratios=ratios, seed=seed)
        except ValidationError as error:
            raise config_error(error, "split", SplitConfig) from error
    used, parts = _resolve_strategy(dataset, config), assign(dataset, config)
    pairs = dataset.interactions.identified(dataset.users, dataset.items)
    train, valid, test = (pairs.where(parts == part) for part in range(3))
    if not len(train):
        raise DataError(f"split {used!r} leaves no training interaction of {len(pairs)}")
    counts = {"train": len(train), "valid": len(valid), "test": len(test)}
    facts = {**config.model_dump(mode="json"), "used": used, **counts}
    return Split(train, valid, test, dataset.features, facts, dataset.item_metadata)


def assign(dataset: Dataset, config: SplitConfig = _DEFAULT) -> NDArray[np.int8]:
    """Return the part of each pair of `dataset.interactions`, int8 [n]: 0 train, 1 valid, 2 test.

    Depends on the pairs, their times and the seed alone, not on the order of rows in a file.
    """
    strategy, times, pairs = _resolve_strategy(dataset, config), dataset.times, dataset.interactions
    if strategy == "label":
        if dataset.labels is None:
            raise DataError("split 'label' needs labels, the data has none; set data.label to the column's name")
        return dataset.labels
    if strategy in ("user_time", "global_time") and times is None:
        raise DataError(f"split {strategy!r} needs times, the data has none; set data.time to the column's name")
    if strategy == "global_time" and times is not None:
        return _cut_by_time(times, config.ratios)
    if strategy == "cold_items":
        return _split_items(pairs.n_items, config)[pairs.items]
    draws = np.random.default_rng([_STREAM, config.seed]).random(len(pairs))
    # Random draws order equal times: the item's index would make some items "the last" more often.
    order = _order_of_users(pairs, draws, *([] if strategy == "random" or times is None else [times]))
    from_end = np.empty(len(pairs), dtype=np.int64)  # 0 for the last pair of its user
    from_end[order] = pairs.indptr[1:][pairs.users] - 1 - np.arange(len(pairs))
    n_valid, n_test = _part_sizes(pairs.user_counts, config.ratios, strategy == "leave_one_out")
    return _label_from_end(from_end, n_valid[pairs.users], n_test[pairs.users])


def require_validation(split: Split) -> None:
    """Raise `DataError` for a split without validation pairs, on which training is chosen; it says what to set."""
    if not len(split.valid):
        raise DataError(
            f"split {split.how['used']!r} leaves no interaction for validation, by which training is chosen, beside "
            f"{len(split.train):,} for training; {_way_to(split, 1)}"
        )


def require_test(split: Split) -> None:
    """Raise `DataError` for a split without test pairs, on which nothing can be evaluated; it says what to set."""
    if not split.has_test:
        raise DataError(
            f"split {split.how['used']!r} leaves no interaction for test, beside {len(split.train):,} for training and "
            f"{len(split.valid):,} for validation; {_way_to(split, 2)}"
        )


def _way_to(split: Split, label: int) -> str:
    """Return what gives a split the part that a label marks."""
    used = split.how["used"]
    if used == "label":
        return f"mark some interactions with label {label}, or set split.strategy=random, which draws all parts anew"
    if used == "leave_one_out":
        return "only users with three interactions or more give one; set split.strategy=random"
    return "set split.ratios, such as [0.8, 0.1, 0.1]"


def _order_of_users(pairs: Interactions, *keys: Floats) -> Ints:
    """Return `np.lexsort((*keys, pairs.users))`, int64 [n].

    The last key is cut to steps so fine that with the user, and the row if there is room, they fill an int64. The keys
    themselves decide within a step.
    """
    first = keys[-1]
    low, span = (float(first.min()), float(np.ptp(first))) if len(first) else (0.0, 0.0)
    if not (math.isfinite(span) and 0 < pairs.n_users < 1 << 60):
        return np.lexsort((*keys, pairs.users))
    room, rows = 2.0**61 / pairs.n_users, 2 * len(pairs) + 1
    scale = (room / rows if room >= rows * _STEPS else room) / span if span > 1e-200 else 0.0
    steps = np.floor((first - low) * scale).astype(np.int64)
    return pair_order(pairs.users, steps, *keys)


def _resolve_strategy(dataset: Dataset, config: SplitConfig) -> str:
    if config.strategy != "auto":
        return config.strategy
    return "random" if dataset.labels is None else "label"


def _part_sizes(counts: Ints, ratios: tuple[float, float, float], one_each: bool) -> tuple[Ints, Ints]:
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


def _split_items(n: int, config: SplitConfig) -> NDArray[np.int8]:
    """The part of each item, int8 [n_items]; sizes by ratio, rounded down for validation and test."""
    n_valid, n_test = (math.floor(n * ratio + 1e-9) for ratio in config.ratios[1:])
    order = np.random.default_rng([_STREAM, config.seed]).permutation(n)
    return _label_from_end(order, np.int64(n_valid), np.int64(n_test))


def _label_from_end(from_end: Ints, n_valid: Ints | np.int64, n_test: Ints | np.int64) -> NDArray[np.int8]:
    return np.where(from_end < n_test, 2, np.where(from_end < n_test + n_valid, 1, 0)).astype(np.int8)


def _cut_by_time(times: Floats, ratios: tuple[float, float, float]) -> NDArray[np.int8]:
    """Cut at the times below which the ratios of all pairs lie; equal times stay together."""
    ends = np.append(np.sort(times), np.inf)
    shares = np.floor(len(times) * np.cumsum(ratios[:2]) + 1e-9).astype(np.int64)
    first, second = ends[np.minimum(shares, len(times))]
    return np.where(times < first, 0, np.where(times < second, 1, 2)).astype(np.int8)
