"""Rank all items for each user, and measure the lists under a stated protocol.

The test pairs of a `Split` are read in one place, `evaluate_split(..., on="test")`.

A report has these slices. Only relevant items of the group count: `items: cold` (without a training pair),
`items: head` (the most popular fifth of the others, equal counts by ascending item), `items: tail` (the
rest). All relevant items count: `users: low`, `users: mid`, `users: high` (thirds of the evaluated users by
training pairs; equal counts stay together, so a third may be empty). Each holds `users`, their number, and
the metrics; one without users is left out.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from pydantic import ValidationError

from gtcrec.errors import ConfigError, DataError, config_error
from gtcrec.evaluation.metrics import compute, compute_lists, hits, longest
from gtcrec.evaluation.protocol import PROTOCOLS, EvaluateConfig, masked_parts
from gtcrec.evaluation.slices import item_slices, mean_metrics, user_slices
from gtcrec.evaluation.statistics import bootstrap_intervals
from gtcrec.ops.topk import recommend
from gtcrec.types import Interactions, Ints, Masks, Report, ReportContext, Scorer, ScoringModel, Split

__all__ = ["evaluate", "evaluate_scorer", "evaluate_split", "recommend", "validation_users"]


_DEFAULT = EvaluateConfig()


def evaluate(
    model: ScoringModel,
    split: Split,
    on: Literal["valid", "test"] = "valid",
    metrics: Sequence[str] = (),
    *,
    protocol: str = "mmrec",
    seed: int = 0,
) -> Report:
    """Measure a model on a split, by full ranking of all items.

    Parameters
    ----------
    model : Recommender or any model with `scorer()`
        Over the users and items of the split.
    split : Split
        The training interactions are masked.
    on : {"valid", "test"}
        "test" unseals the test interactions: the one final call, after everything has been chosen.
    metrics : sequence of str
        Names such as "recall@20" and "ndcg@10"; the usual ones if not given.
    protocol : {"mmrec", "recbole", "strict"}
        What is masked at test, and which users take part.
    seed : int
        Draws the bootstrap of the intervals.

    Returns
    -------
    Report
        `report["ndcg@20"]` is a mean over users, `report.per_user` has each user's value.

    Raises
    ------
    ConfigError
        For an unknown metric, part or protocol.
    DataError
        For a part without interactions.

    Examples
    --------
    >>> split = gtcrec.split(gtcrec.data.make_catalog(n_users=60, n_items=40).dataset)
    >>> model = gtcrec.Recommender("popular").fit(split)
    >>> gtcrec.evaluate(model, split, metrics=["recall@20"]).means.keys()
    dict_keys(['recall@20'])
    """
    try:
        config = EvaluateConfig(protocol=protocol)
    except ValidationError as error:
        raise config_error(error, "evaluate", EvaluateConfig) from error
    return evaluate_split(model.scorer(), split, on, config, seed, metrics)


def evaluate_scorer(
    scorer: Scorer,
    relevant: Interactions,
    train: Interactions,
    config: EvaluateConfig = _DEFAULT,
    exclude: Sequence[Interactions] = (),
    seed: int = 0,
    metrics: Sequence[str] = (),
    details: bool = True,
    users: Sequence[int] | Ints = (),
) -> Report:
    """Measure the full ranking of all items against the relevant pairs.

    Users without a relevant item are left out, cold users as the protocol says.

    Parameters
    ----------
    scorer
        Maps user indices, int64 [b], to scores, float32 [b, n_items].
    relevant
        The pairs to be found.
    train
        The training pairs: masked, and what makes an item or a user cold.
    config
        Protocol, candidates, metrics and bootstrap resamples.
    exclude
        Other pairs that are masked.
    seed
        Draws the bootstrap.
    metrics
        Names such as `recall@20`, in place of those of `config`.
    details
        False leaves out intervals, lists, slices and fingerprints, for use during training.
    users
        If any, the only users that are measured.

    Returns
    -------
    Report
        Means, values of each user, and the context.

    Raises
    ------
    DataError
        For no relevant pair, no user left, one of `users` who is left out, a relevant pair that is masked, or
        different sizes.

    Examples
    --------
    >>> train = Interactions(np.array([0, 1]), np.array([0, 1]), n_users=2, n_items=3)
    >>> relevant = Interactions(np.array([0, 1]), np.array([1, 0]), n_users=2, n_items=3)
    >>> scores = torch.tensor([[0.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    >>> evaluate_scorer(lambda users: scores[users], relevant, train, metrics=["recall@1"], details=False)
    Report(users=2, recall@1=0.5000)
    """
    _check_pairs(relevant, train, exclude)
    candidates = _candidate_items(train, config)
    if config.candidates != "all":
        relevant = relevant.where(candidates[relevant.items])
        scorer = partial(_score_candidates, scorer, torch.from_numpy(candidates))
    everyone = _measurable_users(relevant, train, config)
    chosen = np.unique(users).astype(np.int64)
    users = chosen if len(chosen) else everyone
    for user in np.setdiff1d(chosen, everyone)[:1]:
        raise DataError(f"user {user} cannot be measured: without a relevant item, or left out by {config.protocol}")
    names, catalog_names = tuple(metrics) or config.metrics, config.lists if details else ()
    lists = recommend(scorer, users, longest([*names, *catalog_names]), (train, *exclude), config.block)
    is_hit = hits(lists, relevant)
    per_user = compute(names, is_hit, relevant.user_counts[users])
    context = _context(users, everyone, relevant, (train, *exclude), config, seed)
    report = Report(users, per_user, mean_metrics(per_user), context=context)
    if not details:
        return report
    return replace(
        report,
        intervals=bootstrap_intervals(per_user, np.random.default_rng(seed), resamples=config.resamples),
        lists=compute_lists(catalog_names, lists, train),
        slices={**item_slices(lists, is_hit, relevant, train, names), **user_slices(report, train)},
        context=replace(context, fingerprints={"relevant": _fingerprint(relevant), "train": _fingerprint(train)}),
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
    """Measure on the validation pairs or, as the one final call, on the test pairs, masked by protocol.

    Parameters
    ----------
    scorer, config, seed, metrics, details, users
        As of `evaluate`.
    split
        Training, validation and test pairs.
    on
        "valid" or "test": whose pairs are to be found.

    Returns
    -------
    Report
        Its `context.on` says which pairs, `context.masked` what was masked.

    Raises
    ------
    ConfigError
        For any other word than valid or test.
    DataError
        As `evaluate`.

    Examples
    --------
    >>> from gtcrec.types import ItemFeatures
    >>> train, valid, test = (Interactions(np.array([0]), np.array([item]), n_users=1, n_items=3) for item in range(3))
    >>> split = Split(train, valid, test, ItemFeatures(3), {})
    >>> report = evaluate_split(lambda users: torch.tensor([[0.0, 2.0, 1.0]]), split, "valid", metrics=["hit@1"])
    >>> report["hit@1"], report.context.masked
    (1.0, ('train',))
    """
    if on not in ("valid", "test"):
        raise ConfigError(f"on must be 'valid' or 'test', found {on!r}")
    masked = masked_parts(config, on)
    relevant = split.final_test() if on == "test" else split.valid
    exclude = (split.valid,) if "valid" in masked else ()
    report = evaluate_scorer(scorer, relevant, split.train, config, exclude, seed, metrics, details, users)
    return replace(report, context=replace(report.context, on=on, masked=masked))


def validation_users(split: Split, config: EvaluateConfig = _DEFAULT, at_most: int = 0, seed: int = 0) -> Ints:
    """Return the users that validation measures, ascending; at most `at_most` (0: all), drawn from `seed`."""
    relevant = split.valid.where(_candidate_items(split.train, config)[split.valid.items])
    everyone = _measurable_users(relevant, split.train, config)
    if not 0 < at_most < len(everyone):
        return everyone
    return np.sort(np.random.default_rng(seed).choice(everyone, at_most, replace=False))


def _check_pairs(relevant: Interactions, train: Interactions, exclude: Sequence[Interactions]) -> None:
    for masked in (train, *exclude):
        if (masked.n_users, masked.n_items) != (relevant.n_users, relevant.n_items):
            raise DataError(
                f"relevant and masked pairs must be over the same users and items, "
                f"found {relevant.n_users} x {relevant.n_items} and {masked.n_users} x {masked.n_items}"
            )
        for row in np.flatnonzero(masked.contains(relevant.users, relevant.items))[:1]:
            pair = f"user {relevant.users[row]}, item {relevant.items[row]}"
            raise DataError(f"a relevant pair must not be masked as well, found {pair}")


def _candidate_items(train: Interactions, config: EvaluateConfig) -> Masks:
    """Which items are ranked, bool [n_items]."""
    if config.candidates == "all":
        return np.ones(train.n_items, dtype=np.bool_)
    cold: Masks = train.item_counts == 0
    return cold if config.candidates == "cold" else ~cold


def _score_candidates(scorer: Scorer, candidates: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
    scores = scorer(users)
    return scores.masked_fill(~candidates.to(scores.device), -torch.inf)


def _measurable_users(relevant: Interactions, train: Interactions, config: EvaluateConfig) -> Ints:
    if not len(relevant):
        among = "" if config.candidates == "all" else f" of {config.candidates} items"
        raise DataError(f"evaluation needs at least one relevant pair{among}, found none")
    cold_users = PROTOCOLS[config.protocol].cold_users
    users = np.flatnonzero((relevant.user_counts > 0) & ((train.user_counts > 0) | cold_users))
    if not len(users):
        raise DataError(
            f"protocol {config.protocol} expects users with training pairs, found none with a relevant pair"
        )
    return users


def _context(
    users: Ints,
    everyone: Ints,
    relevant: Interactions,
    masked: Sequence[Interactions],
    config: EvaluateConfig,
    seed: int,
) -> ReportContext:
    protocol = asdict(PROTOCOLS[config.protocol])
    return ReportContext(
        users="all" if len(users) == len(everyone) else f"{len(users)} of {len(everyone)}",
        protocol={**protocol, "masked_at_test": list(protocol["masked_at_test"])},
        candidates=config.candidates,
        seed=seed,
        intervals={"level": 0.95, "method": "percentile bootstrap over users", "resamples": config.resamples},
        counts={
            "users": len(users),
            "users left out as cold": int(np.count_nonzero(relevant.user_counts)) - len(everyone),
            "items": int(np.count_nonzero(_candidate_items(masked[0], config))),
            "relevant pairs": int(relevant.user_counts[users].sum()),
            "masked pairs": sum(map(len, masked)),
        },
    )


def _fingerprint(pairs: Interactions) -> str:
    total = hashlib.sha256(f"{pairs.n_users} {pairs.n_items};".encode())
    total.update(pairs.users.tobytes())
    total.update(pairs.items.tobytes())
    return total.hexdigest()
