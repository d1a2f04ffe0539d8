"""Several runs by share of the users, and how often the lists of each are clicked.

The variant of a user follows from a hash of the user's id: no state, the same in every process and after a restart.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gtcrec.serving.http.events import VariantCounts

__all__ = ["VariantResult", "assign", "click_through_rate", "compare_variants", "confidence_radius"]

_TIGHTEST = 100.0  # the variance, in clicks squared, at which the interval is as narrow as it can be


@dataclass(frozen=True)
class VariantResult:
    """The click-through of a variant: shown lists with a click among all shown lists, with its interval.

    `difference` is that to the first variant, with its interval; None for the first.
    """

    users: int
    lists: int
    clicked: int
    rate: float | None
    interval: tuple[float, float]
    difference: tuple[float, float, float] | None


def assign(user: str, shares: Sequence[float]) -> int:
    """Return the index of a user's variant; index 0 has what the shares of the others leave.

    >>> 900 < sum(assign(f"u{n}", [0.9, 0.1]) for n in range(10_000)) < 1100
    True
    """
    place = int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest()) / 2**64
    border = 1.0
    for index in range(len(shares) - 1, 0, -1):
        border -= shares[index]
        if place >= border:
            return index
    return 0


def confidence_radius(counts: VariantCounts, alpha: float = 0.05) -> float:
    """Return how far the rate may lie from the truth at any of infinitely many looks, but with probability alpha.

    The normal mixture of Robbins, in the form of Howard et al. 2021, "Time-uniform, nonparametric, nonasymptotic
    confidence sequences", eq. 14, over the variance of users' sums, for lists of one user depend on each other. The
    variance is estimated, so that the statement holds asymptotically (Waudby-Smith et al. 2021).

    >>> round(confidence_radius(VariantCounts(1000, 1000, 100, (1000, 100, 100))), 3)
    0.029
    """
    if not counts.lists:
        return math.inf
    rate = counts.clicked / counts.lists
    shown, product, clicked = counts.squares
    variance = clicked - 2 * rate * product + rate**2 * shown  # sum over users of (clicked - rate * lists)²
    rho = _TIGHTEST / (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha)))
    total = max(variance, 0.0) + rho
    return math.sqrt(total * (math.log(total / rho) - 2 * math.log(alpha))) / counts.lists


def click_through_rate(counts: VariantCounts, alpha: float = 0.05) -> tuple[float | None, float, float]:
    """Return the rate and its interval, within [0, 1]."""
    if not counts.lists:
        return None, 0.0, 1.0
    rate, radius = counts.clicked / counts.lists, confidence_radius(counts, alpha)
    return rate, max(0.0, rate - radius), min(1.0, rate + radius)


def compare_variants(
    counts: Mapping[str, VariantCounts], names: Sequence[str], alpha: float = 0.05
) -> dict[str, VariantResult]:
    """Return the result of each variant by name; the first is what the others are compared with.

    Each interval holds with probability 1 - alpha at all looks together. Those of the differences join the intervals
    of two variants at alpha / 2 each.
    """
    results: dict[str, VariantResult] = {}
    base = counts.get(names[0], VariantCounts())
    for name in names:
        one = counts.get(name, VariantCounts())
        rate, low, high = click_through_rate(one, alpha)
        difference = None
        if name != names[0] and one.lists and base.lists:
            middle = one.clicked / one.lists - base.clicked / base.lists
            radius = confidence_radius(one, alpha / 2) + confidence_radius(base, alpha / 2)
            difference = (middle, max(-1.0, middle - radius), min(1.0, middle + radius))
        results[name] = VariantResult(one.users, one.lists, one.clicked, rate, (low, high), difference)
    return results
