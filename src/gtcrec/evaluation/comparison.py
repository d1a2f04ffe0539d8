"""Paired tests of models measured on the same users."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gtcrec.errors import ConfigError, DataError, nearest
from gtcrec.evaluation.statistics import PairedTest, paired_tests
from gtcrec.types import Floats, Report

__all__ = ["BaselineComparison", "Comparison", "PairedDifference", "compare", "compare_to_baseline"]


@dataclass(frozen=True)
class Comparison:
    """Two models, a metric, their paired test, and its p after Holm's correction over all pairs of models."""

    name_a: str
    name_b: str
    metric: str
    test: PairedTest
    p_holm: float


def compare(reports: Mapping[str, Report], metric: str, rng: np.random.Generator) -> list[Comparison]:
    """Test every pair of models on the users that both were measured on, in the order of `reports`.

    Raises `ConfigError` for fewer than two reports or a metric that one lacks, `DataError` when the users
    or the liked pairs differ.
    """
    if len(reports) < 2:
        raise ConfigError(f"a comparison needs at least two reports, found {len(reports)}")
    for name, report in reports.items():
        if metric not in report.per_user:
            near = nearest(metric, report.per_user)
            raise ConfigError(f"report {name!r} has no metric {metric!r}{near}, it has {', '.join(report.per_user)}")
    pairs = list(itertools.combinations(reports, 2))
    tested = paired_tests([_aligned(reports, a, b, metric) for a, b in pairs], rng)
    return [Comparison(a, b, metric, test, p) for (a, b), (test, p) in zip(pairs, tested, strict=True)]


def _aligned(reports: Mapping[str, Report], name_a: str, name_b: str, metric: str) -> tuple[Floats, Floats]:
    a, b = reports[name_a], reports[name_b]
    only_a, only_b = np.setdiff1d(a.users, b.users), np.setdiff1d(b.users, a.users)
    if len(only_a) or len(only_b):
        raise DataError(
            f"{name_a!r} and {name_b!r} were measured on different users: "
            f"{len(only_a)} are only in the first, {len(only_b)} only in the second"
        )
    liked_a, liked_b = (report.about.get("fingerprints", {}).get("liked", "") for report in (a, b))
    if liked_a and liked_b and liked_a != liked_b:
        raise DataError(f"{name_a!r} and {name_b!r} were measured on different liked pairs")
    return a.per_user[metric][np.argsort(a.users)], b.per_user[metric][np.argsort(b.users)]


SIGNIFICANT = 0.05


@dataclass(frozen=True)
class PairedDifference:
    """A paired test of run `name` against run `base`: mean difference, 95 % interval, p, p after Holm."""

    name: str
    base: str
    metric: str
    difference: float
    interval: tuple[float, float]
    p: float
    p_holm: float


class BaselineComparison(NamedTuple):
    """A paired test; the difference and its 95 % interval as shares of the base's mean, None where that is 0."""

    test: PairedDifference
    relative: float | None
    interval: tuple[float, float] | None


def compare_to_baseline(
    base: str, metric: str, pairs: Mapping[str, tuple[Floats, Floats]], seed: int = 0
) -> dict[str, BaselineComparison]:
    """Test each of several models against `base` on one metric, Holm's correction over the models.

    `pairs` are name -> (values, values of `base` for the same users), float64 [b] each; `seed` draws every test
    alike. Raises as `paired_test`.
    """
    tested = paired_tests(list(pairs.values()), seed)
    found = {}
    for name, (test, p_holm) in zip(pairs, tested, strict=True):
        difference = PairedDifference(name, base, metric, test.difference, (test.low, test.high), test.p, p_holm)
        found[name] = BaselineComparison(difference, test.relative, test.relative_interval)
    return found
