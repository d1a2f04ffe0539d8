"""Test what the method claims on catalogues whose truth is planted, and write docs/results/planted.md.

    python benchmarks/planted.py run     # about half an hour of one core; what is done already is kept
    python benchmarks/planted.py write

Every variant of a plant is trained with the same settings and budget; the best epoch is chosen on validation; test is
measured once. Users of all seeds together are paired, and p values corrected by Holm over the plant's table.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from gtcrec import data, models
from gtcrec.data.plants import Plant, plant_chance, plant_parts, plant_xor
from gtcrec.evaluate import EvaluateConfig, evaluate_split
from gtcrec.statistics import holm, paired_test
from gtcrec.train import TrainConfig, fit

RESULTS = Path("runs/planted")
PAGE = Path("docs/results/planted.md")
SEEDS = range(5)
METRICS = ("ndcg@10", "recall@20")


@dataclass(frozen=True)
class Case:
    """A plant, the settings that all of its variants share, and what differs; the first variant is the claim's."""

    title: str
    draw: Callable[[int], Plant]
    model: dict[str, Any]
    train: dict[str, Any]
    variants: dict[str, dict[str, Any]]


PARTS = {"content_weight": 1.0, "reg": 1e-2, "aligned_items": 128}
PARTS_TRAIN = {"learning_rate": 5e-3, "epochs": 40, "valid_every": 5}
CASES = {
    "parts-8": Case(
        "Users who care about one of 8 parts of the content",
        lambda seed: plant_parts(seed, parts=8),
        {**PARTS, "width": 256},
        PARTS_TRAIN,
        {
            "user-aware, K = 16": {"prototypes": 16},
            "user-agnostic, K = 1": {"prototypes": 1},
            "condition=identity, K = 8": {"condition": "identity"},
            "filter=off": {"filter": "off"},
            "filter=noise_only, K = 16": {"filter": "noise_only", "prototypes": 16},
        },
    ),
    "parts-16": Case(
        "Users who care about one of 16 parts of the content",
        lambda seed: plant_parts(seed, parts=16),
        {**PARTS, "width": 512},
        PARTS_TRAIN,
        {
            "user-aware, K = 32": {"prototypes": 32},
            "user-agnostic, K = 1": {"prototypes": 1},
            "condition=identity, K = 8": {"condition": "identity"},
        },
    ),
    "xor": Case(
        "Three views, of which no pair depends on each other",
        plant_xor,
        {"width": 24, "reg": 1e-3, "item_neighbours": 0},
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
    "chance": Case(
        "Nothing planted: content is noise",
        plant_chance,
        {"reg": 1e-2},
        {"learning_rate": 1e-2, "epochs": 60, "valid_every": 10},
        {
            "default": {},
            "user-agnostic, K = 1": {"prototypes": 1},
            "alignment=pairwise": {"alignment": "pairwise"},
            "alignment=none": {"alignment": "none"},
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["run", "write"])
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    given = parser.parse_args()
    if given.verb == "run":
        for name in given.only:
            for seed in SEEDS:
                measure(name, seed)
    else:
        PAGE.write_text("\n".join(page()) + "\n", encoding="utf-8")
        print(PAGE)


def measure(name: str, seed: int) -> None:
    """Train the variants of a plant that have no result yet; each leaves one file."""
    case = CASES[name]
    plant = case.draw(seed)
    split = data.split(plant.dataset)
    for variant, settings in case.variants.items():
        path = _path(name, variant, seed)
        if path.exists():
            continue
        config = models.settings("gtc", case.model | settings)
        model = models.build("gtc", split.train, split.features, config, seed)
        training = fit(model, split, TrainConfig(**case.train, valid_metric=METRICS[0], seed=seed))
        found = evaluate_split(model.scorer(), split, "test", EvaluateConfig(resamples=1), metrics=METRICS)
        facts = {
            "best_epoch": training.best.number if training.best else None,
            "auc": _auc(model, plant),
            "per_user": {metric: found.per_user[metric].tolist() for metric in METRICS},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts), encoding="utf-8")
        print(name, variant, seed, {m: round(found.means[m], 4) for m in METRICS}, facts["auc"], flush=True)


def _path(name: str, variant: str, seed: int) -> Path:
    return RESULTS / name / f"{variant.replace(' ', '')}-{seed}.json"


@torch.no_grad()
def _auc(model: Any, plant: Plant) -> float | None:
    """Chance that a column that a user cares about has a smaller spread than one that the user does not, all users."""
    if not plant.relevant or model.config.condition != "liked" or model.config.filter == "off":
        return None
    (name, relevant), chances = next(iter(plant.relevant.items())), []
    spread = model.content[name].interest(torch.arange(len(relevant))).spread.numpy()
    for one, cares in zip(spread, relevant, strict=True):
        n = cares.sum()
        chances.append((rankdata(-one)[cares].sum() - n * (n + 1) / 2) / (n * (len(one) - n)))
    return float(np.mean(chances))


def page() -> Iterator[str]:
    yield "# Planted truth"
    yield ""
    yield (
        "Written by `benchmarks/planted.py write`; do not edit. Catalogues from `gtcrec.data.plants`, "
        f"{len(SEEDS)} seeds of data and weights each. Every variant has the same settings but for what its name says, "
        "the same budget, its best epoch by validation, and one look at test. Differences are to the first line: over "
        "all seeds' users, with a 95 % bootstrap interval, p by sign flips after Holm's correction over the table."
    )
    for name, case in CASES.items():
        yield ""
        yield f"## {case.title} (`{name}`)"
        yield ""
        yield from _table(name, case)
        yield ""
        model, train = (", ".join(f"{k}={v}" for k, v in one.items()) or "defaults" for one in (case.model, case.train))
        yield f"Settings: {model}; training: {train}."
    yield ""
    yield from NOTES.strip().splitlines()


def _table(name: str, case: Case) -> Iterator[str]:
    found = {v: [json.loads(_path(name, v, seed).read_text(encoding="utf-8")) for seed in SEEDS] for v in case.variants}
    rng, base = np.random.default_rng(0), next(iter(found))
    users = {v: {m: np.concatenate([one["per_user"][m] for one in runs]) for m in METRICS} for v, runs in found.items()}
    tests = {(v, m): paired_test(users[v][m], users[base][m], rng) for v in found if v != base for m in METRICS}
    p = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    heads = [cell for m in METRICS for cell in (m, "to the first", "p")]
    yield f"| variant | {' | '.join(heads)} | AUC |"
    yield "|---" * (len(heads) + 2) + "|"
    for v, runs in found.items():
        cells = []
        for m in METRICS:
            means = [float(np.mean(one["per_user"][m])) for one in runs]
            cells.append(f"{np.mean(means):.4f} ± {np.std(means, ddof=1):.4f}")
            if v == base:
                cells += ["–", "–"]
                continue
            test, mean = tests[v, m], users[base][m].mean()
            shown = [100 * one / mean for one in (test.difference, test.low, test.high)]
            cells += ["{:+.1f} % [{:+.1f}, {:+.1f}]".format(*shown), f"{p[v, m]:.4f}"]
        aucs = [one["auc"] for one in runs if one["auc"] is not None]
        yield f"| {v} | {' | '.join(cells)} | {f'{np.mean(aucs):.3f}' if aucs else '–'} |"


NOTES = ""

if __name__ == "__main__":
    main()
