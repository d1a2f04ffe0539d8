"""One process against Ray workers on the same data at equal settings: start-up, seconds an epoch, validation.

    python -m benchmarks.speed.ray_training DATA --out FILE.json [--workers 2] [--seeds 3] [--set KEY=VALUE]
    python -m benchmarks.speed.ray_training --page FILE.json

Each training is a `gtcrec train` of its own on an otherwise idle machine; the order of the two alternates by seed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.blocks import Block

SIDES = ("one process", "ray")
COSTS = {
    "startup": "start-up, s",
    "epoch": "training an epoch, s",
    "epoch_cpu": "training an epoch, CPU-s, all processes",
    "validation": "validation, s",
    "whole": "whole, s",
    "epochs": "epochs",
}


def measure(data: str, model: str, workers: int, seeds: int, settings: Sequence[str]) -> dict[str, Any]:
    """Train with each seed by each side; `trainings` has what each cost and reached."""
    cores = len(os.sched_getaffinity(0))
    trainings = []
    for seed in range(seeds):
        for side in SIDES if seed % 2 == 0 else reversed(SIDES):
            trainings.append({"side": side, "seed": seed, **_training(data, model, side, workers, seed, settings)})
            print(json.dumps(trainings[-1]), file=sys.stderr, flush=True)
    about = {"data": Path(data).name, "model": model, "workers": workers, "cores": cores, "settings": list(settings)}
    return {"about": about, "trainings": trainings}


def _training(data: str, model: str, side: str, workers: int, seed: int, settings: Sequence[str]) -> dict[str, Any]:
    words = [word for one in (*settings, f"seed={seed}") for word in ("--set", one)]
    ray = ["--engine", "ray", "--workers", str(workers)] if side == "ray" else []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        line = [sys.executable, "-m", "gtcrec", "train", "--data", data, "--model", model, "--out", str(out)]
        start = time.perf_counter()
        with subprocess.Popen(
            [*line, *words, *ray], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as job:
            assert job.stderr is not None
            said = job.stderr.readline()
            first = time.perf_counter() - start  # when the first epoch is reported
            said += job.stderr.read()
        whole = time.perf_counter() - start
        if job.returncode:
            raise SystemExit(said)
        return _costs(out, first, whole)


def _costs(out: Path, first: float, whole: float) -> dict[str, Any]:
    timings = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
    report = json.loads((out / "report.json").read_text())
    return {
        "startup": first - timings[0]["train_seconds"] - timings[0]["eval_seconds"],
        "epoch": statistics.median(line["train_seconds"] for line in timings),
        "epoch_cpu": statistics.median(line["train_cpu_seconds"] for line in timings),
        "validation": statistics.median(line["eval_seconds"] for line in timings),
        "whole": whole,
        "epochs": report["epochs"],
        "best_epoch": report["best_epoch"],
        "valid": report["valid"]["means"],
    }


def table_block(result: dict[str, Any], metric: str = "ndcg@20") -> Block:
    """The costs of both sides, medians over seeds with their range, and the metric by seed."""
    about, trainings = result["about"], result["trainings"]
    sides = {side: sorted((row for row in trainings if row["side"] == side), key=_seed) for side in SIDES}
    settings = ", ".join(about["settings"]) or "as default"
    text = (
        f"`{about['model']}` on {about['data']}, {about['cores']} cores, {len(sides['ray'])} seeds; settings "
        f"{settings}. Median over seeds, lowest and highest in brackets."
    )
    rows = [[what, *(_spread([row[key] for row in sides[side]]) for side in SIDES)] for key, what in COSTS.items()]
    for seed, both in enumerate(zip(*sides.values(), strict=True)):
        rows.append([f"{metric}, validation, seed {seed}", *(f"{row['valid'][metric]:.4f}" for row in both)])
    means = [statistics.mean(row["valid"][metric] for row in sides[side]) for side in SIDES]
    rows.append([f"{metric}, validation, mean", *(f"{mean:.4f}" for mean in means)])
    return Block([text], ("", "one process", f"Ray, {about['workers']} workers"), rows)


def _seed(row: dict[str, Any]) -> int:
    return int(row["seed"])


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--model", default="gtc")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args(words)
    if arguments.page:
        print("\n".join(table_block(json.loads(arguments.page.read_text())).lines()))
    elif arguments.data and arguments.out:
        found = measure(arguments.data, arguments.model, arguments.workers, arguments.seeds, arguments.set)
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    else:
        parser.error("expected DATA and --out, or --page")


if __name__ == "__main__":
    main()
