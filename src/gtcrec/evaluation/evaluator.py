"""Rank all items for each user, measure the lists under a stated protocol, compare models.

The test pairs of a `Split` are read in one place, `evaluate_split(..., on="test")`.

A report has these slices. Only liked items of the group count: `items: cold` (without a training pair),
`items: head` (the most popular fifth of the others, equal counts by ascending item), `items: tail` (the
rest). All liked items count: `users: low`, `users: mid`, `users: high` (thirds of the evaluated users by
training pairs; equal counts stay together, so a third may be empty). Each holds `users`, their number, and
the metrics; one without users is left out.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from gtcrec.errors import ConfigError, DataError
from gtcrec.evaluation.metrics import compute, compute_lists, hits, longest
from gtcrec.evaluation.protocol import PROTOCOLS, EvaluateConfig
from gtcrec.evaluation.slices import _item_slices, _means, _user_slices
from gtcrec.evaluation.statistics import bootstrap_intervals
from gtcrec.ops.topk import recommend
from gtcrec.types import Interactions, Ints, Masks, Report, Scorer, Split

__all__ = ["evaluate", "evaluate_split", "recommend", "valid_users"]


_DEFAULT = EvaluateConfig()


def evaluate(
    scorer: Scorer,
    liked: Interactions,
    train: Interactions,
    config: EvaluateConfig = _DEFAULT,
    exclude: Sequence[Interactions] = (),
    seed: int = 0,
    metrics: Sequence[str] = (),
    details: bool = True,
    users: Sequence[int] | Ints = (),
) -> Report:
    """Measure the full ranking of all items against the liked pairs, with `train` and `exclude` masked.

    Users without a liked item are left out, cold users as the protocol says. `metrics` replaces those of
    the config; `details=False` leaves out intervals, lists, slices and fingerprints, for use during
    training. `seed` draws the bootstrap. `users`, if any, are the only ones measured. Raises `DataError` for no
    liked pairs, no user left, one of `users` who is left out, a liked pair that is masked, or different sizes.
    """
    _check(liked, train, exclude)
    ranked = _candidates(train, config)
    if config.candidates != "all":
        liked, scorer = liked.where(ranked[liked.items]), partial(_score_only, scorer, torch.from_numpy(ranked))
    everyone = _users(liked, train, config)
    chosen = np.unique(users).astype(np.int64)
    users = chosen if len(chosen) else everyone
    for user in np.setdiff1d(chosen, everyone)[:1]:
        raise DataError(f"user {user} cannot be measured: without a liked item, or left out by {config.protocol}")
    wanted, wanted_lists = tuple(metrics) or config.metrics, config.lists if details else ()
    lists = recommend(scorer, users, longest([*wanted, *wanted_lists]), (train, *exclude), config.block)
    found = hits(lists, liked)
    per_user = compute(wanted, found, liked.user_counts[users])
    about = _about(users, everyone, liked, (train, *exclude), config, seed)
    report = Report(users, per_user, _means(per_user), {}, {}, {}, about)
    if not details:
        return report
    return replace(
        report,
        intervals=bootstrap_intervals(per_user, np.random.default_rng(seed), resamples=config.resamples),
        lists=compute_lists(wanted_lists, lists, train),
        slices={**_item_slices(lists, found, liked, train, wanted), **_user_slices(report, train)},
        about={**about, "fingerprints": {"liked": _fingerprint(liked), "train": _fingerprint(train)}},
    )


def evaluate_split(
    scorer: Scorer,
    split: Split,
    on: Literal["valid", "test"],
    config: EvaluateConfig = _DEFAULT,
    seed: int = 0,
    metrics: Sequence[str] = (),
    details: bool = True,
    users: Sequence[int] | Ints = (),
) -> Report:
    """Evaluate on the validation pairs or, as the one final call, on the test pairs, masked by protocol.

    `Report.about["on"]` says which, `about["masked"]` what was masked. Raises as `evaluate`, and
    `ConfigError` for any other word than valid or test.
    """
    if on not in ("valid", "test"):
        raise ConfigError(f"on must be 'valid' or 'test', found {on!r}")
    masked = PROTOCOLS[config.protocol].masked_at_test if on == "test" else ("train",)
    liked = split.final_test() if on == "test" else split.valid
    exclude = (split.valid,) if "valid" in masked else ()
    report = evaluate(scorer, liked, split.train, config, exclude, seed, metrics, details, users)
    return replace(report, about={"on": on, "masked": list(masked), **report.about})


def valid_users(split: Split, config: EvaluateConfig = _DEFAULT, at_most: int = 0, seed: int = 0) -> Ints:
    """Return the users that validation measures, ascending; at most `at_most` (0: all), drawn from `seed`."""
    everyone = _users(split.valid.where(_candidates(split.train, config)[split.valid.items]), split.train, config)
    if not 0 < at_most < len(everyone):
        return everyone
    return np.sort(np.random.default_rng(seed).choice(everyone, at_most, replace=False))


def _check(liked: Interactions, train: Interactions, exclude: Sequence[Interactions]) -> None:
    for masked in (train, *exclude):
        if (masked.n_users, masked.n_items) != (liked.n_users, liked.n_items):
            raise DataError(
                f"liked and masked pairs must be over the same users and items, "
                f"found {liked.n_users} x {liked.n_items} and {masked.n_users} x {masked.n_items}"
            )
        for row in np.flatnonzero(masked.contains(liked.users, liked.items))[:1]:
            pair = f"user {liked.users[row]}, item {liked.items[row]}"
            raise DataError(f"a liked pair must not be masked as well, found {pair}")


def _candidates(train: Interactions, config: EvaluateConfig) -> Masks:
    """Which items are ranked, bool [n_items]."""
    if config.candidates == "all":
        return np.ones(train.n_items, dtype=np.bool_)
    cold: Masks = train.item_counts == 0
    return cold if config.candidates == "cold" else ~cold


def _score_only(scorer: Scorer, ranked: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
    scores = scorer(users)
    return scores.masked_fill(~ranked.to(scores.device), -torch.inf)


def _users(liked: Interactions, train: Interactions, config: EvaluateConfig) -> Ints:
    if not len(liked):
        among = "" if config.candidates == "all" else f" of {config.candidates} items"
        raise DataError(f"evaluation needs at least one liked pair{among}, found none")
    cold_users = PROTOCOLS[config.protocol].cold_users
    users = np.flatnonzero((liked.user_counts > 0) & ((train.user_counts > 0) | cold_users))
    if not len(users):
        raise DataError(f"protocol {config.protocol} wants users with training pairs, found none with a liked pair")
    return users


def _about(
    users: Ints, everyone: Ints, liked: Interactions, masked: Sequence[Interactions], config: EvaluateConfig, seed: int
) -> dict[str, Any]:
    protocol = asdict(PROTOCOLS[config.protocol])
    return {
        "users": "all" if len(users) == len(everyone) else f"{len(users)} of {len(everyone)}",
        "protocol": {**protocol, "masked_at_test": list(protocol["masked_at_test"])},
        "candidates": config.candidates,
        "seed": seed,
        "intervals": {
            "level": 0.95,
            "method": "percentile bootstrap over users",
            "resamples": config.resamples,
        },
        "counts": {
            "users": len(users),
            "users left out as cold": int(np.count_nonzero(liked.user_counts)) - len(everyone),
            "items": int(np.count_nonzero(_candidates(masked[0], config))),
            "liked pairs": int(liked.user_counts[users].sum()),
            "masked pairs": sum(map(len, masked)),
        },
    }


def _fingerprint(pairs: Interactions) -> str:
    total = hashlib.sha256(f"{pairs.n_users} {pairs.n_items};".encode())
    total.update(pairs.users.tobytes())
    total.update(pairs.items.tobytes())
    return total.hexdigest()
