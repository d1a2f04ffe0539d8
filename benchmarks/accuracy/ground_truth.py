"""Test what the method claims on catalogs whose truth is planted.

Every variant of a plant is trained with the same settings and budget; the best epoch is chosen on validation; test is
measured once. Users of all seeds together are paired, and p values corrected by Holm over the plant's table.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.blocks import Block
from gtcrec import data, models
from gtcrec.data.synthetic.ground_truth import (
    SyntheticTruth,
    disjoint_interests,
    null_interests,
    xor_interests,
)
from gtcrec.evaluation.evaluator import evaluate_split
from gtcrec.evaluation.protocol import EvaluateConfig
from gtcrec.evaluation.statistics import holm, paired_test
from gtcrec.models.gtc.model import GTC
from gtcrec.ops.scorers import DotScorer
from gtcrec.training.trainer import TrainConfig, fit
from gtcrec.types import Split

SEEDS = range(5)
METRICS = ("ndcg@10", "recall@20")
ORACLE = "told what matters, no model"


@dataclass(frozen=True)
class Case:
    """A plant, the settings that all of its variants share, and what differs; the first variant is the claim's."""

    draw: Callable[[int], SyntheticTruth]
    model: dict[str, Any]
    train: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    preset: str = "plain"


PARTS = {"content_weight": 1.0, "reg": 1e-2, "alignment_batch_size": 128}
PARTS_TRAIN = {"learning_rate": 5e-3, "epochs": 40, "valid_every": 5}
CASES = {
    "parts-8": Case(
        lambda seed: disjoint_interests(seed, parts=8),
        {**PARTS, "content_dim": 256},
        PARTS_TRAIN,
        {
            "user-aware, K = 16": {"num_prototypes": 16},
            "user-agnostic, K = 1": {"num_prototypes": 1},
            "condition=item_id, K = 8": {"condition": "item_id"},
            "filter=off": {"filter": "off"},
            "filter=noise_only, K = 16": {"filter": "noise_only", "num_prototypes": 16},
        },
    ),
    "parts-16": Case(
        lambda seed: disjoint_interests(seed, parts=16),
        {**PARTS, "content_dim": 512},
        PARTS_TRAIN,
        {
            "user-aware, K = 32": {"num_prototypes": 32},
            "user-agnostic, K = 1": {"num_prototypes": 1},
            "condition=item_id, K = 8": {"condition": "item_id"},
        },
    ),
    "xor": Case(
        xor_interests,
        {"content_dim": 24, "reg": 1e-3, "num_item_neighbors": 0},
        {"learning_rate": 5e-3, "epochs": 60, "valid_every": 10, "batch_size": 512},
        {
            "alignment=n": {"alignment": "n"},
            "alignment=pairwise": {"alignment": "pairwise"},
            "alignment=chain": {"alignment": "chain"},
            "alignment=none": {"alignment": "none"},
            "n, weight 0.05": {"alignment": "n", "alignment_weight": 0.05},
            "pairwise, weight 0.05": {"alignment": "pairwise", "alignment_weight": 0.05},
            "chain, weight 0.05": {"alignment": "chain", "alignment_weight": 0.05},
        },
    ),
    "blend-8": Case(
        lambda seed: disjoint_interests(seed, parts=8),
        {"content_dim": 256, "num_prototypes": 16},
        {"learning_rate": 2e-3, "epochs": 40, "patience": 12},
        {
            "default": {},
            "diffusions untrained": {"diffusion_weight": 0.0},
            "no content diffusion": {"interest_weight": 0.0},
            "no history diffusion": {"history_weight": 0.0},
            "one filter for all, K = 1": {"num_prototypes": 1},
            "linear part alone": {"embedding_weight": 0.0, "history_weight": 0.0, "interest_weight": 0.0},
        },
        preset="default",
    ),
    "chance": Case(
        null_interests,
        {"reg": 1e-2},
        {"learning_rate": 1e-2, "epochs": 60, "valid_every": 10},
        {
            "default": {},
            "user-agnostic, K = 1": {"num_prototypes": 1},
            "alignment=pairwise": {"alignment": "pairwise"},
            "alignment=none": {"alignment": "none"},
        },
    ),
}


def measure(names: Sequence[str], runs: Path) -> dict[str, Block]:
    """Train the variants that have no result yet, and return the table of each plant."""
    return {name: _measured(name, CASES[name], runs, SEEDS) for name in names or CASES}


def measure_quick(runs: Path) -> dict[str, Block]:
    """The same of a tiny plant, with two variants, two seeds and one epoch."""
    whole = CASES["parts-8"]
    variants = {name: whole.variants[name] for name in ("user-aware, K = 16", "filter=off")}
    case = replace(whole, variants=variants, train={**whole.train, "epochs": 1, "valid_every": 1}, draw=_draw_quick)
    return {"quick": _measured("quick", case, runs / "planted", range(2))}


def _draw_quick(seed: int) -> SyntheticTruth:
    return disjoint_interests(seed, n_users=200)


def _measured(name: str, case: Case, runs: Path, seeds: Sequence[int]) -> Block:
    for seed in seeds:
        train_variants(name, case, runs, seed)
    return table_block(name, case, runs, seeds)


def train_variants(name: str, case: Case, runs: Path, seed: int) -> None:
    """Train the variants of a plant that have no result yet; each leaves one file."""
    plant = case.draw(seed)
    split = data.split(plant.dataset)
    if plant.relevant:
        _store(_path(runs, name, ORACLE, seed), evaluate(oracle_scorer(plant, split), split), None, None)
    for variant, settings in case.variants.items():
        path = _path(runs, name, variant, seed)
        if path.exists():
            continue
        config = models.make_config("gtc", case.model | settings, case.preset)
        model = models.build_model("gtc", split.train, split.features, config, seed)
        training = fit(model, split, TrainConfig(**case.train, valid_metric=METRICS[0], seed=seed))
        best = training.best.number if training.best else None
        per_user = evaluate(model.scorer(), split)
        _store(path, per_user, best, mask_auc(model, plant))
        print(name, variant, seed, {m: round(float(np.mean(v)), 4) for m, v in per_user.items()}, flush=True)


def evaluate(scorer: Any, split: Split) -> dict[str, list[float]]:
    """Each test user's metrics."""
    report = evaluate_split(scorer, split, "test", EvaluateConfig(resamples=1), metrics=METRICS)
    return {metric: report.per_user[metric].tolist() for metric in METRICS}


def oracle_scorer(plant: SyntheticTruth, split: Split) -> DotScorer:
    """What no model knows: the mean of the contents of a user's items, in the columns that the user cares about."""
    ((m, relevant),) = plant.relevant.items()
    x = split.features.values[m]
    y = (x - x.mean(axis=0)) / x.std(axis=0)
    mean = (split.train.matrix() @ y) / split.train.user_counts[:, None]
    return DotScorer(torch.from_numpy((mean * relevant).astype(np.float32)), torch.from_numpy(y))


@torch.no_grad()
def mask_auc(model: Any, plant: SyntheticTruth) -> float | None:
    """Chance that a column that a user cares about has a smaller spread than one that the user does not, all users."""
    filters = model.interest if isinstance(model, GTC) else model.content
    if not plant.relevant or filters is None or filters.config.filter == "off":
        return None
    if model.config.condition != "user_history":
        return None
    (name, relevant), chances = next(iter(plant.relevant.items())), []
    with model.scoring("interest") if isinstance(model, GTC) else nullcontext():
        spread = filters[name].interest(torch.arange(len(relevant))).spread.numpy()
    for one, cares in zip(spread, relevant, strict=True):
        n = cares.sum()
        chances.append((rankdata(-one)[cares].sum() - n * (n + 1) / 2) / (n * (len(one) - n)))
    return float(np.mean(chances))


def table_block(name: str, case: Case, runs: Path, seeds: Sequence[int]) -> Block:
    """The plant's table: each variant against the first."""
    oracle = [ORACLE] if _path(runs, name, ORACLE, seeds[0]).exists() else []
    names = [*case.variants, *oracle]
    results = {v: [json.loads(_path(runs, name, v, seed).read_text(encoding="utf-8")) for seed in seeds] for v in names}
    base = names[0]
    users = {
        v: {m: np.concatenate([run["per_user"][m] for run in runs]) for m in METRICS} for v, runs in results.items()
    }
    compared = _differences(users, base)
    rows = []
    for variant, stored in results.items():
        cells = [variant]
        for m in METRICS:
            means = [float(np.mean(run["per_user"][m])) for run in stored]
            cells += [f"{np.mean(means):.4f} ± {np.std(means, ddof=1):.4f}", *compared.get((variant, m), ("–", "–"))]
        aucs = [run["auc"] for run in stored if run["auc"] is not None]
        rows.append([*cells, f"{np.mean(aucs):.3f}" if aucs else "–"])
    settings, training = (
        ", ".join(f"{key}={value}" for key, value in values.items()) or "defaults"
        for values in (case.model, case.train)
    )
    headers = ["variant", *(cell for m in METRICS for cell in (m, "to the first", "p")), "AUC"]
    return Block([f"Settings: {settings}; training: {training}."], headers, rows)


def _differences(
    users: Mapping[str, Mapping[str, NDArray[np.float64]]], base: str
) -> dict[tuple[str, str], tuple[str, str]]:
    """The relative difference from the base with its interval, and p after Holm's correction over the table."""
    rng = np.random.default_rng(0)
    tests = {(v, m): paired_test(users[v][m], users[base][m], rng) for v in users if v != base for m in METRICS}
    corrected = holm([test.p for test in tests.values()])
    cells = {}
    for ((variant, m), test), p in zip(tests.items(), corrected, strict=True):
        mean = users[base][m].mean()
        shares = [100 * value / mean for value in (test.difference, test.low, test.high)]
        cells[variant, m] = ("{:+.1f} % [{:+.1f}, {:+.1f}]".format(*shares), f"{p:.4f}")
    return cells


def _store(path: Path, per_user: Mapping[str, Sequence[float]], best_epoch: int | None, auc: float | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"best_epoch": best_epoch, "auc": auc, "per_user": per_user}), encoding="utf-8")


def _path(runs: Path, name: str, variant: str, seed: int) -> Path:
    return runs / name / f"{variant.replace(' ', '')}-{seed}.json"
