"""Search the settings of models as configs/peers.yaml trains them, and make the tables of what the searches found.

A trial has the plan's `train` settings, as the final trainings have: the same cap, patience and metric.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.blocks import Block
from benchmarks.paths import RUNS, TUNED
from gtcrec.experiments.benchmark.plan import BenchmarkConfig
from gtcrec.experiments.tuning import study
from gtcrec.runtime.files import write_text

TRIALS = 12
NOT_SETTINGS = ("outside", "at_edge", "error")  # the columns of trials.csv that follow those of the settings


def tune(config: BenchmarkConfig, data: str, models: Sequence[str], plan_name: str = "") -> None:
    """Tune models on a data set of a plan, and keep the best settings of each."""
    kept = TUNED / plan_name / data
    kept.mkdir(parents=True, exist_ok=True)
    for name in models:
        planned = plan(config, data, name, RUNS / "tune" / plan_name / data / name)
        for trial in study.tune(planned):
            print(data, name, trial.number, trial.value, dict(trial.settings), flush=True)
        best = yaml.safe_load((planned.out / "best.yaml").read_text(encoding="utf-8"))
        settings = {key: best[key] for key in ("model", "settings", "train")}
        write_text(kept / f"{name}.yaml", yaml.safe_dump(settings, sort_keys=False))
        write_text(kept / f"{name}.csv", (planned.out / "trials.csv").read_text(encoding="utf-8"))


def plan(config: BenchmarkConfig, data: str, name: str, out: Path) -> study.TuningPlan:
    """Return the search of a model, each trial trained as the plan's final trainings are."""
    source, entry = config.data[data], config.models[name]
    sections = [
        ("data", source.read),
        ("split", source.split),
        ("train", {**config.train, **source.train, **entry.train}),
    ]
    settings = [f"{section}.{key}={json.dumps(value)}" for section, keys in sections for key, value in keys.items()]
    return study.plan(source.path, entry.model or name, out, TRIALS, settings)


def tuning_block(data: str, models: Iterable[str], plan_name: str = "") -> Block:
    """What the search of each model chose on a data set."""
    kept = TUNED / plan_name / data
    rows = [_tuning_row(name, kept) for name in models]
    budgets = budget_text(trial_budgets(data, models, plan_name))
    text = (
        f"{budgets} Validation {valid_metric(kept)} of the defaults and of the best trial, ± its standard error over "
        "the validation users. At the cap: trials that ended at their last epoch. "
        "Outside: settings tried beyond their grid. At an edge: settings of the best trial beyond which there are "
        "further values. – stands for what was not recorded."
    )
    headers = ("model", "trials", "at the cap", "defaults", "best", "settings found", "outside", "at an edge")
    return Block([text], headers, rows, (0, 5, 6, 7))


def trial_budgets(data: str, models: Iterable[str], plan_name: str = "") -> Counter[tuple[int, int, int]]:
    """Return the budgets of the trials of models that are trained -> how many models had it."""
    kept = TUNED / plan_name / data
    return Counter(budget(_tuned(kept, name)["train"]) for name in models if _is_trained(kept, name))


def budget_text(budgets: Iterable[tuple[int, int, int]], what: str = "A trial") -> str:
    """Return a sentence on budgets."""
    parts = [
        f"at most {epochs} epochs, a validation every {'epoch' if every == 1 else f'{every} epochs'}, and ends after "
        f"{patience} validations without a better one"
        for epochs, every, patience in budgets
    ]
    return f"{what} has {'; or '.join(parts)}." if parts else "Nothing is trained in epochs."


def valid_metric(kept: Path) -> str:
    """Return the metric by which the searches kept in a folder chose."""
    metrics = {_trials(path)[0][2] for path in sorted(kept.glob("*.csv"))}
    if len(metrics) != 1:
        raise SystemExit(f"{kept}: expected searches by one metric, found {', '.join(sorted(metrics))}")
    return metrics.pop()


def budget(train: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return (epochs, epochs between validations, patience) of training settings."""
    return int(train["epochs"]), int(train["valid_every"]), int(train["patience"])


def _is_trained(kept: Path, name: str) -> bool:
    return any(trial["epochs"] not in ("", "1") for trial in _trials(kept / f"{name}.csv")[1])


def _tuned(kept: Path, name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((kept / f"{name}.yaml").read_text(encoding="utf-8"))
    return config


def _trials(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and the rows of a table of trials."""
    lines = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return list(lines.fieldnames or ()), list(lines)


def _tuning_row(name: str, kept: Path) -> tuple[str, ...]:
    columns, trials = _trials(kept / f"{name}.csv")
    metric, recorded = columns[2], "at_edge" in columns
    space = [key for key in columns[columns.index("seconds") + 1 :] if key not in NOT_SETTINGS]
    if not space:
        return (name, *["–"] * 4, "nothing to tune", "–", "–")
    values = [float(trial[metric] or 0) for trial in trials]
    place = values.index(max(values))
    best, error = trials[place], trials[place].get("standard_error")
    cap = str(_tuned(kept, name)["train"]["epochs"])
    capped = sum(trial["epochs"] == cap for trial in trials)
    settings = ", ".join(f"{key.removeprefix('train.')} {best[key]}" for key in space) if place else "the defaults"
    outside = dict.fromkeys(key for trial in trials for key in (trial.get("outside") or "").split())
    counts = Counter(bool(trial.get("outside")) for trial in trials)
    return (
        name,
        f"{counts[False]} + {counts[True]}" if counts[True] else str(len(trials)),
        str(capped) if _is_trained(kept, name) else "–",
        f"{values[0]:.4f}",
        f"{values[place]:.4f}{f' ± {float(error):.4f}' if error else ''}",
        settings,
        (", ".join(outside) or "none") if recorded else "–",
        (", ".join(best["at_edge"].split()) or "none") if recorded else "–",
    )
