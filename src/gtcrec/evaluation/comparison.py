"""Paired tests of models measured on the same users."""

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from gtcrec.errors import ConfigError, DataError, nearest
from gtcrec.evaluation.seed_variance import crossed_interval
from gtcrec.evaluation.statistics import PairedTest, holm, paired_tests
from gtcrec.types import Floats, Report

__all__ = [
    "SIGNIFICANT",
    "BaselineComparison",
    "PairedDifference",
    "compare",
    "compare_to_baseline",
    "correct_together",
]

SIGNIFICANT = 0.05
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class PairedDifference:
    """A paired test of model `name` against model `base`: mean difference, 95 % interval, p, p after correction.

    `interval` and `p` are over users. `seed_interval` and `p_seeds` are over users and seeds, None where no side has
    two seeds. `p_holm` corrects the larger p.
    """

    name: str
    base: str
    metric: str
    difference: float
    interval: tuple[float, float]
    p: float
    p_holm: float
    seed_interval: tuple[float, float] | None = None
    p_seeds: float | None = None

    @property
    def wider_p(self) -> float:
        """The larger of the two p: that over users, and that over users and seeds."""
        return max(self.p, self.p_seeds or 0.0)

    @property
    def wider_interval(self) -> tuple[float, float]:
        """The wider of the two intervals."""
        return max(self.interval, self.seed_interval or self.interval, key=lambda one: one[1] - one[0])


class BaselineComparison(NamedTuple):
    """A paired test; the difference and its 95 % interval over users as shares of the baseline's mean.

    Both are None where that mean is 0.
    """

    test: PairedDifference
    relative: float | None
    interval: tuple[float, float] | None

    @property
    def wider_interval(self) -> tuple[float, float] | None:
        """The wider interval as shares of the baseline's mean; None where that is 0."""
        if self.relative is None or self.interval is None:
            return None
        shares = (self.relative, self.test.difference), *zip(self.interval, self.test.interval, strict=True)
        inverse = next((share / value for share, value in shares if value), 0.0)  # of the baseline's mean
        low, high = (bound * inverse for bound in self.test.wider_interval)
        return low, high


def compare(
    reports: Mapping[str, Report],
    metrics: str | Sequence[str],
    baseline: str | None = None,
    correction: Literal["holm", "none"] = "holm",
    seed: int = 0,
) -> list[PairedDifference]:
    """Test models in pairs, user by user: each against `baseline`, or every pair of them.

    Each test is a sign-flip test with a bootstrap interval of the mean difference. One draw of users and signs serves
    all pairs and metrics.

    Parameters
    ----------
    reports
        Model name -> its report; all on the same users and relevant pairs.
    metrics
        Names such as `ndcg@20`, or one of them.
    baseline
        The model that each other is tested against; None tests every pair, in the order of `reports`.
    correction
        "holm" bounds the family-wise error over all pairs and metrics; "none" leaves `p_holm` at `p`.
    seed
        Draws resamples and sign flips.

    Returns
    -------
    list of PairedDifference
        A metric after the other; `difference` is mean(name) - mean(base).

    Raises
    ------
    ConfigError
        For fewer than two reports, an unknown baseline, or a metric that a report lacks.
    DataError
        When the users or the relevant pairs differ.

    Examples
    --------
    >>> users, values = np.arange(100), np.linspace(0, 1, 100)
    >>> a, b = (Report(users, {"ndcg@10": x}, {"ndcg@10": x.mean()}) for x in (values, values - 0.25))
    >>> (test,) = compare({"ease": a, "gtc": b}, metrics=["ndcg@10"], baseline="ease")
    >>> test.name, test.base, round(test.difference, 4), test.p_holm < 0.001
    ('gtc', 'ease', -0.25, True)
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    pairs = _model_pairs(reports, baseline)
    for name, report in reports.items():
        for metric in names:
            if metric not in report.per_user:
                near, known = nearest(metric, report.per_user), ", ".join(report.per_user)
                raise ConfigError(f"{metric!r} was not measured in {name}{near}; found {known}")
    orders = {name: np.argsort(report.users) for name, report in reports.items()}
    for name, base in pairs:
        _check_same_users(reports, name, base)

    def values(name: str, metric: str) -> Floats:
        return reports[name].per_user[metric][orders[name]]

    rows = [(name, base, metric) for metric in names for name, base in pairs]
    columns = [(values(name, metric), values(base, metric)) for name, base, metric in rows]
    tested = paired_tests(columns, seed)
    tests = [_difference(*row, test, p_holm) for row, (test, p_holm) in zip(rows, tested, strict=True)]
    return tests if correction == "holm" else [replace(test, p_holm=test.p) for test in tests]


def compare_to_baseline(
    baseline: str, metric: str, pairs: Mapping[str, tuple[Floats, Floats]], seed: int = 0
) -> dict[str, BaselineComparison]:
    """Test each of several models against `baseline` on one metric, Holm's correction over the models.

    `pairs` are name -> (values, values of the baseline for the same users), float64 [b] or [seeds, b] each. Values of
    several seeds are averaged for each user, and their spread is a source of variance beside the users. `seed` draws
    every test alike. Raises as `paired_test`. `correct_together` corrects over several metrics.
    """
    sides = {name: tuple(map(np.atleast_2d, pair)) for name, pair in pairs.items()}
    tested = paired_tests([(a.mean(axis=0), b.mean(axis=0)) for a, b in sides.values()], seed)
    found = {}
    for (name, (a, b)), (test, p) in zip(sides.items(), tested, strict=True):
        both = crossed_interval(a, b)
        difference = _difference(name, baseline, metric, test, p)
        if both:
            difference = replace(difference, seed_interval=(both.low, both.high), p_seeds=both.p)
        found[name] = BaselineComparison(difference, test.relative, test.relative_interval)
    return correct_together(found)


def correct_together(comparisons: Mapping[Key, BaselineComparison]) -> dict[Key, BaselineComparison]:
    """Return comparisons with Holm's correction over them all, as one table shows them."""
    adjusted = holm([one.test.wider_p for one in comparisons.values()]).tolist()
    return {
        key: one._replace(test=replace(one.test, p_holm=p))
        for (key, one), p in zip(comparisons.items(), adjusted, strict=True)
    }


def _difference(name: str, base: str, metric: str, test: PairedTest, p_holm: float) -> PairedDifference:
    return PairedDifference(name, base, metric, test.difference, (test.low, test.high), test.p, p_holm)


def _model_pairs(reports: Mapping[str, Report], baseline: str | None) -> list[tuple[str, str]]:
    if len(reports) < 2:
        raise ConfigError(f"a comparison needs at least two reports, found {len(reports)}")
    if baseline is None:
        return list(itertools.combinations(reports, 2))
    if baseline not in reports:
        near = nearest(baseline, reports)
        raise ConfigError(f"baseline {baseline!r} is not among the reports{near}: {', '.join(reports)}")
    return [(name, baseline) for name in reports if name != baseline]


def _check_same_users(reports: Mapping[str, Report], name_a: str, name_b: str) -> None:
    a, b = reports[name_a], reports[name_b]
    only_a, only_b = np.setdiff1d(a.users, b.users), np.setdiff1d(b.users, a.users)
    if len(only_a) or len(only_b):
        raise DataError(
            f"{name_a!r} and {name_b!r} were measured on different users: "
            f"{len(only_a)} are only in the first, {len(only_b)} only in the second"
        )
    sums = {report.context.fingerprints.get("relevant", "") for report in (a, b)} - {""}
    if len(sums) > 1:
        raise DataError(f"{name_a!r} and {name_b!r} were measured on different relevant pairs")
