"""Rank all items for each user, measure the lists under a stated protocol, compare models.

The test pairs of a `Split` are read in one place, `evaluate_split(..., on="test")`.

A report has these slices. Only liked items of the group count: `items: cold` (without a training pair),
`items: head` (the most popular fifth of the others, equal counts by ascending item), `items: tail` (the
rest). All liked items count: `users: low`, `users: mid`, `users: high` (thirds of the evaluated users by
training pairs; equal counts stay together, so a third may be empty). Each holds `users`, their number, and
the metrics; one without users is left out.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator

from gtcrec.errors import ConfigError, DataError, nearest
from gtcrec.evaluation.metrics import LIST_METRICS, USER_METRICS, compute, compute_lists, hits, longest, parse
from gtcrec.evaluation.statistics import PairedTest, bootstrap_intervals, paired_tests
from gtcrec.ops.topk import recommend
from gtcrec.types import Floats, Interactions, Ints, Masks, Report, Scorer, Split, TopK, Vocabulary

__all__ = [
    "PROTOCOLS",
    "Comparison",
    "EvaluateConfig",
    "Protocol",
    "compare",
    "evaluate",
    "evaluate_split",
    "per_user_table",
    "recommend",
    "report_from",
    "report_to_json",
    "valid_users",
]

_HEAD = 0.2  # the usual border of the long tail: the most popular fifth of the items


@dataclass(frozen=True)
class Protocol:
    """The choices that change published numbers: what is masked, who takes part, which MAP is printed.

    `masked_at_test` names the parts whose pairs are never recommended when testing (on validation it is
    always the training pairs alone); `cold_users` says whether users without training pairs take part;
    `printed_as_map` is our name of the metric that the field's tool of that name prints as MAP.
    """

    name: str
    masked_at_test: tuple[str, ...]
    cold_users: bool
    printed_as_map: str
    ranking: str = "all items"
    ties: str = "ascending item"


PROTOCOLS: Mapping[str, Protocol] = {
    "mmrec": Protocol("mmrec", masked_at_test=("train",), cold_users=False, printed_as_map="map_cut"),
    "recbole": Protocol("recbole", masked_at_test=("train", "valid"), cold_users=True, printed_as_map="map_cut"),
    "strict": Protocol("strict", masked_at_test=("train", "valid"), cold_users=True, printed_as_map="map"),
}


class EvaluateConfig(BaseModel):
    """What is measured and how; `block` is the number of users scored at once, 0 = by memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["mmrec", "recbole", "strict"] = "mmrec"
    candidates: Literal["all", "cold", "warm"] = Field(
        "all", description="the items that are ranked; cold: those without a training pair, warm: the others"
    )
    metrics: tuple[str, ...] = tuple(
        f"{kind}@{k}" for kind in ("recall", "ndcg", "precision", "map", "map_cut") for k in (5, 10, 20, 50)
    )
    lists: tuple[str, ...] = tuple(f"{kind}@{k}" for kind in LIST_METRICS for k in (10, 20))
    resamples: int = Field(2000, ge=1)
    block: int = Field(0, ge=0)

    @field_validator("metrics")
    @classmethod
    def _know_metrics(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ConfigError("metrics must name at least one metric, found none")
        return tuple(name for name in names if parse(name, USER_METRICS))

    @field_validator("lists")
    @classmethod
    def _know_lists(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if parse(name, LIST_METRICS))


_DEFAULT = EvaluateConfig()


@dataclass(frozen=True)
class Comparison:
    """Two models, a metric, their paired test, and its p after Holm's correction over all pairs of models."""

    name_a: str
    name_b: str
    metric: str
    test: PairedTest
    p_holm: float


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


def _means(per_user: Mapping[str, Floats]) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in per_user.items()}


def _fingerprint(pairs: Interactions) -> str:
    total = hashlib.sha256(f"{pairs.n_users} {pairs.n_items};".encode())
    total.update(pairs.users.tobytes())
    total.update(pairs.items.tobytes())
    return total.hexdigest()


def _item_slices(
    lists: TopK, found: Masks, liked: Interactions, train: Interactions, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    by_count = np.argsort(-train.item_counts, kind="stable")
    cold = train.item_counts == 0
    head = np.zeros(train.n_items, dtype=np.bool_)
    head[by_count[: int(np.ceil(_HEAD * np.count_nonzero(~cold)))]] = True
    slices = {}
    for word, group in (("cold", cold), ("tail", ~cold & ~head), ("head", head)):
        n_liked = liked.where(group[liked.items]).user_counts[lists.users]
        rows = n_liked > 0
        if rows.any():
            means = _means(compute(names, (found & group[lists.items])[rows], n_liked[rows]))
            slices[f"items: {word}"] = {"users": float(np.count_nonzero(rows)), **means}
    return slices


def _user_slices(report: Report, train: Interactions) -> dict[str, dict[str, float]]:
    counts = train.user_counts[report.users]
    borders = np.quantile(counts, [1 / 3, 2 / 3])
    third = np.searchsorted(borders, counts)  # [b], 0 up to and including the first border
    slices = {}
    for number, word in enumerate(("low", "mid", "high")):
        rows = third == number
        if rows.any():
            means = _means({name: values[rows] for name, values in report.per_user.items()})
            slices[f"users: {word}"] = {"users": float(np.count_nonzero(rows)), **means}
    return slices


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


def report_to_json(report: Report) -> dict[str, Any]:
    """Return all of a report but its per-user values, in types that JSON has."""
    return {
        "users": len(report.users),
        "means": dict(report.means),
        "intervals": {name: list(interval) for name, interval in report.intervals.items()},
        "lists": dict(report.lists),
        "slices": {name: dict(means) for name, means in report.slices.items()},
        "about": dict(report.about),
    }


def per_user_table(report: Report, ids: Vocabulary) -> pa.Table:
    """Return a row per user: column `user` with external ids, then a float64 column per metric."""
    return pa.table({"user": pa.array(ids.external(report.users)), **report.per_user})


def report_from(found: Mapping[str, Any], table: pa.Table, ids: Vocabulary) -> Report:
    """Return the report that `report_to_json` and `per_user_table` were made from.

    Raises `DataError` when the two do not belong together or a part is missing.
    """
    wanted = ["user", *found.get("means", ())]
    if table.column_names != wanted or table.num_rows != found.get("users"):
        raise DataError(
            f"the report has {found.get('users')} users and the columns {wanted}, "
            f"the table {table.num_rows} users and {table.column_names}"
        )
    missing = [part for part in ("intervals", "lists", "slices", "about") if part not in found]
    if missing:
        raise DataError(f"the report lacks {', '.join(missing)}")
    per_user = {name: table[name].to_numpy() for name in table.column_names[1:]}
    intervals = {name: (low, high) for name, (low, high) in found["intervals"].items()}
    users = ids.index(table["user"].to_pylist())
    return Report(users, per_user, found["means"], intervals, found["lists"], found["slices"], found["about"])
