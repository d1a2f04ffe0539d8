"""Choose settings for, train and compare models on items that training never saw.

Each seed splits the items of ml100k anew: 70 % for training, 10 % for validation, 20 % for test, each with all of its
interactions. Settings are tried on folds of the items that are no test items.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.accuracy.running import quick_catalog, train_run
from benchmarks.blocks import Block
from gtcrec import data, models
from gtcrec.evaluation.evaluator import evaluate_split
from gtcrec.evaluation.protocol import EvaluateConfig
from gtcrec.evaluation.statistics import paired_tests
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run
from gtcrec.reporting.run_record import read_run_record
from gtcrec.runtime.files import write_json
from gtcrec.types import Interactions, Split

DATA = "ml100k"
METRICS = ("recall@20", "ndcg@20", "ndcg@5")
SPLIT = ["split.strategy=cold_items", "split.ratios=[0.7,0.1,0.2]", "evaluate.candidates=cold"]
SHORT = ["epochs=40", "patience=10", "learning_rate=0.002"]
WARM_NEGATIVES = "negative_items=warm"
COLD = [WARM_NEGATIVES, "id_dropout=0.5"]
CREDITS, NEAR = "data.modalities=[credits]", "num_neighbors=1000"
SOLVED = ["preset=embedding", "epochs=5", "learning_rate=0.002", *COLD, "als_reg=0.005", "new_item_weight=1.25"]
VBPR_REG = ["content_projection=separate", "reg_form=half_squares", "reg=0.01"]  # reg of 1e-5, 1e-3, 0.01 and 0.1
# name -> (model, settings); the first is compared with all others
MODELS = {
    "gtc": ("gtc", [*SOLVED, CREDITS]),
    "gtc with plots": ("gtc", SOLVED),
    "gtc learned map": ("gtc", ["preset=plain", *SHORT, *COLD, CREDITS]),
    "gtc learned map with plots": ("gtc", ["preset=plain", *SHORT, *COLD]),
    "gtc not trained for new items": ("gtc", ["preset=plain", *SHORT]),
    "vbpr": ("vbpr", [*SHORT, WARM_NEGATIVES, *VBPR_REG, CREDITS]),
    "vbpr with plots": ("vbpr", [*SHORT, WARM_NEGATIVES, *VBPR_REG]),
    "contentknn": ("contentknn", ["interaction_weight=0", NEAR, CREDITS]),
    "contentknn with plots": ("contentknn", ["interaction_weight=0", NEAR]),
    "popular": ("popular", []),
}

FOLDS = 5  # of a seed's items that are no test items; two of them are held out in turn
KNOWN = 0.1  # share of the other items' pairs that is held out as well, to see what new items take from them
NEW, ALL, BOTH = "new items among new", "new items among all", "known items among all"
TRIED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{
        f"contentknn, {k} neighbours": ("contentknn", {"interaction_weight": 0, "num_neighbors": k})
        for k in (30, 100, 1000)
    },
    **{
        f"gtc, als_reg {reg:g}, new_item_weight {weight:g}": (
            "gtc",
            {"blend": "none", "id_dropout": 0.5, "als_reg": reg, "new_item_weight": weight},
        )
        for reg, weight in [(0.05, 1), (0.02, 1), (0.01, 1), (0.005, 1), (0.005, 1.25), (0.005, 1.5), (0.005, 2)]
    },
}


@dataclass(frozen=True)
class Study:
    """The data, the models by name (the first is the base), what is tried on which contents, and the seeds."""

    data: Path
    models: Mapping[str, tuple[str, Sequence[str]]]
    tried: Mapping[str, tuple[str, Mapping[str, Any]]]
    contents: Mapping[str, Sequence[str]]  # what a name ends with -> modalities
    seeds: Sequence[int]
    runs: Path

    def folder(self, name: str, seed: int) -> Path:
        return self.runs / f"{name.replace(' ', '-')}-{seed}"


def measure(data: Path, runs: Path) -> dict[str, Block]:
    """Choose, train what is missing, evaluate on test once, and return the tables."""
    contents = {"": ["credits"], " with plots": ["credits", "plot"]}
    return _measured(Study(data / DATA, MODELS, TRIED, contents, (0, 1, 2), runs))


def measure_quick(runs: Path) -> dict[str, Block]:
    """The same of a tiny catalog, with three models, one seed and one epoch."""
    chosen = {
        "gtc": ("gtc", ["preset=embedding", "epochs=1", *COLD]),
        "contentknn": ("contentknn", ["interaction_weight=0"]),
        "popular": ("popular", []),
    }
    tried = dict(itertools.islice(TRIED.items(), 1))
    return _measured(Study(quick_catalog(runs / "catalog"), chosen, tried, {"": ["text"]}, (0,), runs / "cold"))


def _measured(study: Study) -> dict[str, Block]:
    choice = study.runs / "choice.json"
    if not choice.exists():
        study.runs.mkdir(parents=True, exist_ok=True)
        write_json(choice, choose(study))
    for seed in study.seeds:
        for name, (model, settings) in study.models.items():
            chosen = [*SPLIT, *settings, f"split.seed={seed}", f"seed={seed}"]
            train_run(study.data, study.folder(name, seed), model, chosen)
    trained = [name for name, (model, _) in study.models.items() if model == "gtc"]
    epochs = ", ".join(f"{name} {_best_epochs(study, name)}" for name in trained)
    return {
        "choice": choice_block(json.loads(choice.read_text(encoding="utf-8"))),
        "new-items": accuracy_block(study, "cold"),
        "all-items": accuracy_block(study, "all"),
        "epochs": Block([f"Epochs at the best validation: {epochs}."]),
    }


def choose(study: Study) -> dict[str, dict[str, list[float]]]:
    """What is tried -> where -> recall@20 of each seed, mean over two folds; models as built, before any step."""
    config = load_config(str(study.data), "contentknn", assignments=SPLIT)
    dataset = config.data.load()
    recalls: dict[str, dict[str, list[float]]] = {}
    for seed in study.seeds:
        whole = data.split(dataset, config.split.model_copy(update={"seed": seed}))
        folds = list(itertools.islice(held_out(whole, seed), 2))
        for ending, modalities in study.contents.items():
            for name, (model, settings) in study.tried.items():
                rows = [_recalls(*fold, modalities, model, settings) for fold in folds]
                row = recalls.setdefault(f"{name}{ending}", {})
                for where, value in zip((NEW, ALL, BOTH), np.mean(rows, axis=0), strict=True):
                    row.setdefault(where, []).append(float(value))
                print(seed, name, modalities, np.mean(rows, axis=0).round(4), flush=True)
    return recalls


def held_out(split: Split, seed: int) -> Iterator[tuple[Split, Split]]:
    """Splits of all but the test pairs: validation has a fold's items, or some pairs of the items left."""
    pairs = concatenate(split.train, split.valid)
    rng = np.random.default_rng(seed)
    known = rng.random(len(pairs)) < KNOWN
    for fold in np.array_split(rng.permutation(np.unique(pairs.items)), FOLDS):
        new = np.isin(pairs.items, fold)
        none = pairs.where(np.zeros(len(pairs), dtype=bool))
        train = pairs.where(~new & ~known)
        yield tuple(Split(train, pairs.where(part), none, split.features, {}) for part in (new, ~new & known))


def concatenate(*parts: Interactions) -> Interactions:
    users, items = (np.concatenate([getattr(one, side) for one in parts]) for side in ("users", "items"))
    return Interactions(users, items, parts[0].n_users, parts[0].n_items)


def _recalls(
    new: Split, known: Split, modalities: Sequence[str], model: str, settings: Mapping[str, Any]
) -> list[float]:
    """recall@20 of new items among new ones and among all, and of known items among all."""
    config = models.make_config(model, settings)
    built = models.build_model(model, new.train, new.features.only(modalities), config, 0)
    scorer = built.scorer()
    asked = [(new, "cold"), (new, "all"), (known, "all")]
    return [
        evaluate_split(
            scorer, part, "valid", EvaluateConfig(candidates=which), metrics=("recall@20",), details=False
        ).means["recall@20"]
        for part, which in asked
    ]


def user_values(study: Study, name: str, seed: int, candidates: str) -> dict[str, dict[int, float]]:
    """Each test user's metrics, by user; measured once and kept beside the run folder."""
    folder = study.folder(name, seed)
    kept = study.runs / f"{folder.name}.{candidates}.json"
    if not kept.exists():
        run = Run.load(folder)
        config = run.config.evaluate.model_copy(update={"candidates": candidates})
        report = evaluate_split(run.scorer, run.split, "test", config, details=False)
        per_user = {m: dict(zip(report.users.tolist(), report.per_user[m].tolist(), strict=True)) for m in METRICS}
        kept.write_text(json.dumps(per_user), encoding="utf-8")
    stored = json.loads(kept.read_text(encoding="utf-8"))
    return {m: {int(user): value for user, value in users.items()} for m, users in stored.items()}


def choice_block(recalls: Mapping[str, Mapping[str, Sequence[float]]]) -> Block:
    """What was tried on the folds."""
    rows = [[name, *(_mean_of_seeds(row[where]) for where in (NEW, ALL, BOTH))] for name, row in recalls.items()]
    return Block((), ("", NEW, ALL, BOTH), rows)


def accuracy_block(study: Study, candidates: str) -> Block:
    """Each model's metrics on test, and recall@20 against the first model."""
    values = {name: [user_values(study, name, seed, candidates) for seed in study.seeds] for name in study.models}
    base, *others = values
    pairs = [_paired(values[name], values[base]) for name in others]
    tests = dict(zip(others, paired_tests(pairs, np.random.default_rng(0)), strict=True))
    rows = []
    for name, seeds in values.items():
        cells = [_mean_of_seeds([mean(per_user[m].values()) for per_user in seeds]) for m in METRICS]
        compared = ["–", "–", "–"]
        if name in tests:
            test, p = tests[name]
            low, high = test.relative_interval
            compared = [f"{test.relative * 100:+.1f} %", f"[{low * 100:+.1f} %, {high * 100:+.1f} %]", f"{p:.4f}"]
        rows.append([name, *cells, *compared])
    return Block((), ("", *METRICS, "recall@20 to gtc", "interval", "p"), rows)


def _mean_of_seeds(values: Sequence[float]) -> str:
    return f"{mean(values):.4f} ({', '.join(f'{one:.4f}' for one in values)})"


def _paired(
    ours: list[dict[str, dict[int, float]]], theirs: list[dict[str, dict[int, float]]]
) -> tuple[np.ndarray, np.ndarray]:
    """Each user's recall@20 by both, averaged over the seeds in which the user is tested."""
    users = sorted({user for per_user in ours for user in per_user["recall@20"]})
    sides = [
        [mean(per_user["recall@20"][user] for per_user in side if user in per_user["recall@20"]) for user in users]
        for side in (ours, theirs)
    ]
    return np.array(sides[0]), np.array(sides[1])


def _best_epochs(study: Study, name: str) -> str:
    return "/".join(str(read_run_record(study.folder(name, seed)).result.best_epoch) for seed in study.seeds)
