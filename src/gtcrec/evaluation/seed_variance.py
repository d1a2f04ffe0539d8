"""Uncertainty of a mean for which users and seeds were drawn, as a two-way random effects model has it.

An interval over users alone says what other users would show of these trained models. Other seeds train other models:
their spread is a second source of variance, which few seeds tell little about.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from gtcrec.errors import ConfigError, DataError
from gtcrec.types import Floats

__all__ = ["CrossedInterval", "crossed_interval"]


@dataclass(frozen=True)
class CrossedInterval:
    """An interval of a mean, or of a difference of means, over users and seeds.

    `p` is the two-sided probability of a value at least as far from 0, if it were 0.
    """

    low: float
    high: float
    p: float


def crossed_interval(a: Floats, b: Floats | None = None, level: float = 0.95) -> CrossedInterval | None:
    """Return the interval of mean(a), or of mean(a) - mean(b), over users and seeds.

    A value is y_us = m + user_u + seed_s + rest_us, each part of mean 0. The variance of the mean over U users and S
    seeds is V = var_user / U + var_seed / S + var_rest / (U S). The variance over users of the averages over seeds,
    divided by U, estimates the first and the last part. The mean squares of seeds and of the rest give the second,
    which counts 0 where it comes out negative. Of a difference each side adds its own. The quantile is Student's t,
    its degrees of freedom Satterthwaite's: with three seeds that dominate they are near 2. A side with one seed, such
    as a model that depends on none, adds nothing.

    Parameters
    ----------
    a, b
        Values of the same users in the same order, float64 [seeds, users]; `b` may have other seeds.
    level
        Of the interval.

    Returns
    -------
    CrossedInterval or None
        None if no side has two seeds, or for one user.

    Raises
    ------
    ConfigError
        For a level outside (0, 1).
    DataError
        For no users, values that are not finite, or different users.

    References
    ----------
    F. E. Satterthwaite 1946, An approximate distribution of estimates of variance components.

    Examples
    --------
    >>> values = np.random.default_rng(0).normal(0.3, 0.1, (3, 500)) + np.array([[-0.02], [0.0], [0.02]])
    >>> found = crossed_interval(values)
    >>> found.low < 0.27 and found.high > 0.33  # over the users alone it would be 0.29 to 0.31
    True
    """
    if not 0 < level < 1:
        raise ConfigError(f"level must lie in (0, 1), found {level}")
    sides = [a] if b is None else [a, b]
    _check_sides(sides)
    if all(len(side) < 2 for side in sides) or a.shape[1] < 2:
        return None
    averages = a.mean(axis=0) - (0.0 if b is None else b.mean(axis=0))  # [users]
    users = len(averages)
    variance = float(averages.var(ddof=1)) / users
    uncertainty = variance**2 / (users - 1)  # half the variance of the estimate of the variance
    for side in sides:
        if len(side) > 1:
            added, noise = _seed_variance(side)
            variance += added
            uncertainty += noise**2 / (len(side) - 1) if added else 0.0
    mean = float(averages.mean())
    if not variance:
        return CrossedInterval(mean, mean, float(mean == 0))
    df = variance**2 / uncertainty
    half = float(stdtrit(df, (1 + level) / 2)) * math.sqrt(variance)
    return CrossedInterval(mean - half, mean + half, float(2 * stdtr(df, -abs(mean) / math.sqrt(variance))))


def _seed_variance(values: Floats) -> tuple[float, float]:
    """Variance of the mean of values [S, U] that their seeds cause, and the mean square of seeds, over S U."""
    seeds, users = values.shape
    of_seed, of_user = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    rest = values - of_seed - of_user + values.mean()
    between = users * float(of_seed.var(ddof=1))
    within = float(np.square(rest).sum()) / ((seeds - 1) * (users - 1))
    return max(0.0, between - within) / (seeds * users), between / (seeds * users)


def _check_sides(sides: list[Floats]) -> None:
    for side in sides:
        if side.ndim != 2 or not side.size:
            raise DataError(f"expected values [seeds, users], at least one, found shape {list(side.shape)}")
        if not np.isfinite(side).all():
            raise DataError(f"values must be finite, found {side[~np.isfinite(side)][0]}")
    if len({side.shape[1] for side in sides}) > 1:
        raise DataError(f"paired values must belong to the same users, found {[side.shape[1] for side in sides]}")
