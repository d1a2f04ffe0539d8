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
from gtcrec.data.synthetic.ground_truth import Plant, plant_chance, plant_parts, plant_xor
from gtcrec.evaluation.evaluator import evaluate_split
from gtcrec.evaluation.protocol import EvaluateConfig
from gtcrec.evaluation.statistics import holm, paired_test
from gtcrec.ops.scorers import DotScorer
from gtcrec.training.trainer import TrainConfig, fit
from gtcrec.types import Split

RESULTS = Path("runs/planted")
PAGE = Path("docs/results/planted.md")
SEEDS = range(5)
METRICS = ("ndcg@10", "recall@20")
TOLD = "told what matters, no model"


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
    if plant.relevant:
        keep(_path(name, TOLD, seed), evaluate(told(plant, split), split), None, None)
    for variant, settings in case.variants.items():
        path = _path(name, variant, seed)
        if path.exists():
            continue
        config = models.settings("gtc", case.model | settings, "plain")
        model = models.build("gtc", split.train, split.features, config, seed)
        training = fit(model, split, TrainConfig(**case.train, valid_metric=METRICS[0], seed=seed))
        best = training.best.number if training.best else None
        found = evaluate(model.scorer(), split)
        keep(path, found, best, _auc(model, plant))
        print(name, variant, seed, {m: round(float(np.mean(v)), 4) for m, v in found.items()}, flush=True)


def evaluate(scorer: Any, split: Split) -> dict[str, list[float]]:
    found = evaluate_split(scorer, split, "test", EvaluateConfig(resamples=1), metrics=METRICS)
    return {metric: found.per_user[metric].tolist() for metric in METRICS}


def keep(path: Path, per_user: dict[str, list[float]], best_epoch: int | None, auc: float | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"best_epoch": best_epoch, "auc": auc, "per_user": per_user}
    path.write_text(json.dumps(facts), encoding="utf-8")


def told(plant: Plant, split: Split) -> DotScorer:
    """What no model knows: the mean of the contents that a user liked, in the columns that the user cares about."""
    ((m, relevant),) = plant.relevant.items()
    x = split.features.values[m]
    y = (x - x.mean(axis=0)) / x.std(axis=0)
    mean = (split.train.matrix() @ y) / split.train.user_counts[:, None]
    return DotScorer(torch.from_numpy((mean * relevant).astype(np.float32)), torch.from_numpy(y))


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
        "Written by `benchmarks/planted.py write`; do not edit. Catalogues from `gtcrec.data.synthetic.ground_truth`, "
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
    names = [*case.variants, *([TOLD] if _path(name, TOLD, SEEDS[0]).exists() else [])]
    found = {v: [json.loads(_path(name, v, seed).read_text(encoding="utf-8")) for seed in SEEDS] for v in names}
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


NOTES = """
## What it says

- **Which content matters to a user is recovered, and it pays.** With 16 parts the user-aware filter finds 40 % more
  than the same filter with one prototype at ndcg@10, 67 % more at recall@20, and nearly four times what the paper's
  form (`condition=identity`) finds; the columns that it calls relevant are the planted ones (AUC .95). With 8 parts it
  finds twice what the paper's form does, but its lead over one prototype is 14 % at ndcg@10 and 29 % at recall@20:
  there is little more to find, for whoever is told the part gets 6 % further, and the items of a user's two clusters
  are alike. Training is what does it: with prototypes that are never trained (`noise_only`) nothing is recovered.
- **A dependency of three views.** Aligned by total correlation (`n`, `chain`) GTC finds 19 % and 15 % more at ndcg@10
  than aligned by pairs, 44 % and 36 % at recall@20; pairs are no better than no alignment at all. More weight helps
  total correlation and harms the pairs.
- **Where nothing is planted**, neither user-awareness nor total correlation makes a significant difference once
  training has converged. In a first trial with weaker regularisation, stopped before convergence, total correlation was
  2.7 % ahead of no alignment (p .0006): a contrast spreads items' embeddings even if content is noise. A lead of
  that size says nothing of content.
- The settings of each plant were tried on the validation part of one seed. Two easier sizes of `xor` came first;
  there propagation alone finds nearly all, and nothing separates the variants.
"""

if __name__ == "__main__":
    main()
