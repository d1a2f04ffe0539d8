"""Uncertainty of averages over users: bootstrap intervals, paired sign-flip tests, Holm's correction."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from gtcrec.errors import ConfigError, DataError
from gtcrec.types import Floats

__all__ = ["PairedTest", "bootstrap_interval", "bootstrap_intervals", "holm", "paired_test", "paired_tests"]

Key = TypeVar("Key", bound=Hashable)

_CELLS = 1 << 22  # numbers held at once: 32 MiB, whatever the number of users


@dataclass(frozen=True)
class PairedTest:
    """What pairing two models user by user shows.

    `difference` is mean(a) - mean(b), `base` is mean(b), [`low`, `high`] a bootstrap interval of the
    difference, `p` the two-sided probability of a difference at least as large if, for each user, it were a
    coin's toss which of the two values belongs to which model.
    """

    difference: float
    base: float
    low: float
    high: float
    p: float

    @property
    def relative(self) -> float | None:
        """The difference as a share of mean(b); None where that is 0."""
        return self.difference / self.base if self.base else None

    @property
    def relative_interval(self) -> tuple[float, float] | None:
        """The bounds of the difference as shares of mean(b); None where that is 0."""
        return (self.low / self.base, self.high / self.base) if self.base else None


def bootstrap_interval(
    values: Floats, rng: np.random.Generator, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """Return the percentile bootstrap interval (low, high) of the mean of `values`, float64 [n].

    Raises `DataError` for no values or values that are not finite, `ConfigError` for a level outside (0, 1)
    or less than one resample.

    >>> low, high = bootstrap_interval(np.arange(100.0), np.random.default_rng(0))
    >>> 43 < low < 45 and 54 < high < 56
    True
    """
    return bootstrap_intervals({"values": values}, rng, level, resamples)["values"]


def bootstrap_intervals(
    columns: Mapping[Key, Floats], rng: np.random.Generator, level: float = 0.95, resamples: int = 2000
) -> dict[Key, tuple[float, float]]:
    """Return the interval of each column, name -> (low, high); all columns float64 [n].

    One draw of users serves all columns, so that many metrics cost little more than one. Raises as
    `bootstrap_interval`.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level must lie in (0, 1), found {level}")
    _check_resamples(resamples)
    for name, column in columns.items():
        _check_values(str(name), column)
    if not columns:
        return {}
    means = _resampled_means(list(columns.values()), resamples, rng)
    tail = (1 - level) / 2
    lows, highs = np.quantile(means, [tail, 1 - tail], axis=0).tolist()
    return {name: (low, high) for name, low, high in zip(columns, lows, highs, strict=True)}


def paired_test(
    a: Floats, b: Floats, rng: np.random.Generator, resamples: int = 10_000, bootstrap: int = 2000
) -> PairedTest:
    """Compare two models by their values for the same users, float64 [n] each, in the same order.

    p = (1 + number of sign flips at least as extreme) / (1 + `resamples`), so it is never 0; the interval
    is a 95 % percentile bootstrap of the paired difference from `bootstrap` resamples. Raises `DataError`
    for no values, values that are not finite or different lengths, `ConfigError` for less than one resample.
    """
    return _tests([(a, b)], rng, resamples, bootstrap)[0]


def paired_tests(
    pairs: Sequence[tuple[Floats, Floats]], seed: int | np.random.Generator
) -> list[tuple[PairedTest, float]]:
    """Test pairs (a, b); returns each test with its p after Holm's correction over them all.

    A number as `seed` gives every test the same draws, made once if all are of one length; a generator goes on from
    test to test. Raises as `paired_test`.
    """
    alike = not isinstance(seed, np.random.Generator) and len({a.shape for a, _ in pairs}) == 1
    groups = [pairs] if alike else [[pair] for pair in pairs]
    tests = [test for group in groups for test in _tests(group, np.random.default_rng(seed))]
    return list(zip(tests, holm([test.p for test in tests]).tolist(), strict=True))


def holm(p: Sequence[float] | Floats) -> Floats:
    """Return Holm's adjusted p values, float64 [m], in the order given: they bound the family-wise error.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise DataError(f"p values must lie in [0, 1], found {values.tolist()}")
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def _tests(
    pairs: Sequence[tuple[Floats, Floats]], rng: np.random.Generator, resamples: int = 10_000, bootstrap: int = 2000
) -> list[PairedTest]:
    """Test pairs of one length, all with the same draws; each gets the result that it would get alone."""
    for a, b in pairs:
        if a.shape != b.shape:
            raise DataError(f"paired values must belong to the same users, found {a.shape} and {b.shape}")
        _check_values("a", a)
        _check_values("b", b)
    _check_resamples(resamples)
    differences = [a - b for a, b in pairs]
    named = {str(number): one for number, one in enumerate(differences)}
    intervals = bootstrap_intervals(named, rng, resamples=bootstrap).values()
    drawn = rng.bit_generator.state
    tests = []
    for (_, b), difference, (low, high) in zip(pairs, differences, intervals, strict=True):
        rng.bit_generator.state = drawn
        p = _sign_flip_p(difference, resamples, rng)
        tests.append(PairedTest(float(difference.mean()), float(b.mean()), low, high, p))
    return tests


def _resampled_means(columns: Sequence[Floats], resamples: int, rng: np.random.Generator) -> Floats:
    """Means of m columns [n] over users drawn with replacement, float64 [resamples, m]."""
    n = len(columns[0])
    rows = max(1, _CELLS // n)
    means = np.empty((resamples, len(columns)))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        times = np.empty((size, n))  # how often each user was drawn
        for row in times:
            row[:] = np.bincount(rng.integers(0, n, n), minlength=n)
        for number, column in enumerate(columns):  # one by one: a column's sums do not depend on which others there are
            means[start : start + size, number] = times @ column / n
    return means


def _sign_flip_p(differences: Floats, resamples: int, rng: np.random.Generator) -> float:
    moved = differences[differences != 0]  # users without a difference stay as they are under any flip
    if not len(moved):
        return 1.0
    total = moved.sum()
    # Sums that are equal on paper may differ in the last bits; they count as equally extreme.
    limit = abs(total) - 1e-12 * np.abs(moved).sum()
    rows = max(1, _CELLS // len(moved))
    extreme = 0
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), -(-len(moved) // 8))
        coins = rng.integers(0, 256, shape, dtype=np.uint8)
        kept = np.unpackbits(coins, axis=1, count=len(moved)).astype(np.float64)  # [rows, users]
        extreme += int(np.count_nonzero(np.abs(2 * (kept @ moved) - total) >= limit))
    return (1 + extreme) / (1 + resamples)


def _check_values(name: str, values: Floats) -> None:
    if values.ndim != 1 or not len(values):
        raise DataError(f"{name}: expected at least one value in one dimension, found shape {list(values.shape)}")
    if not np.isfinite(values).all():
        raise DataError(f"{name}: values must be finite, found {values[~np.isfinite(values)][0]}")


def _check_resamples(resamples: int) -> None:
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1, found {resamples}")
