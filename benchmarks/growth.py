"""Time and memory of GTC's training step as the catalogue grows, and a plot of both.

    python benchmarks/growth.py run --out growth.json    # 10^4, 10^5, 10^6 items; wants 16 GiB and an idle machine
    python benchmarks/growth.py plot growth.json growth.svg

As many users as items, 20 interactions each with items of power-law popularity, two modalities of 64 random numbers in
memory-mapped files. Every point is a process of its own, so that its peak memory is its own. Seconds are CPU time.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from speed_clock import Clock, peak_bytes

from gtcrec import models
from gtcrec.batches import Batches
from gtcrec.evaluate import EvaluateConfig, evaluate_split, valid_users
from gtcrec.train import TrainConfig, Training
from gtcrec.types import Interactions, ItemFeatures, Split
from gtcrec.workers import Workers

BATCH, PER_USER, WIDTH, MODALITIES, STRAIGHT = 2048, 20, 64, ("image", "text"), 10**5
VALID_USERS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run_ = verbs.add_parser("run", help="measure")
    run_.add_argument("--out", type=Path, required=True)
    run_.add_argument("--items", type=int, nargs="*", default=[10**4, 10**5, 10**6])
    run_.add_argument("--steps", type=int, default=20, help="timed steps, after three that are not")
    run_.add_argument("--rounds", type=int, default=3)
    run_.add_argument("--full-up-to", type=int, default=10**5, help="most items that propagation=full is measured on")
    run_.add_argument("--threads", type=int, default=1)
    point_ = verbs.add_parser("point", help="measure one point; used by run")
    for name in ("items", "steps", "threads", "seed"):
        point_.add_argument(name, type=int)
    point_.add_argument("mode")
    plot_ = verbs.add_parser("plot", help="draw the result")
    plot_.add_argument("result", type=Path)
    plot_.add_argument("out", type=Path)
    given = parser.parse_args()
    if given.verb == "run":
        run(given)
    elif given.verb == "point":
        torch.set_num_threads(given.threads)
        print(json.dumps(point(given.items, given.mode, given.steps, given.seed)))
    else:
        plot(json.loads(given.result.read_text(encoding="utf-8")), given.out)


def run(given: argparse.Namespace) -> None:
    """Measure every point in each round, from small to large, and write the result after each point."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(given.threads))
    about = {"cores": os.cpu_count(), "threads": given.threads, "steps": given.steps, "batch": BATCH}
    result: dict[str, Any] = {"about": about, "points": []}
    for number in range(given.rounds):
        for items in given.items:
            for mode in ("sampled", *(["full"] if items <= given.full_up_to else [])):
                command = [sys.executable, __file__, "point", items, given.steps, given.threads, number, mode]
                done = subprocess.run(
                    list(map(str, command)), env={**os.environ, **limits}, stdout=subprocess.PIPE, text=True, check=True
                )
                result["points"].append({"items": items, "mode": mode, "round": number, **json.loads(done.stdout)})
                given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                print(items, mode, f"{result['points'][-1]['step']['cpu']:.4f} CPU-s a step", flush=True)


def point(n_items: int, mode: str, steps: int, seed: int) -> dict[str, Any]:
    """Seconds and memory of what an epoch consists of: refresh, steps, and validation of some users."""
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        split = draw(n_items, Path(folder), seed)
        costs = {"data": clock.lap()}
        settings = {"propagation": mode, "item_search": "approximate" if n_items > STRAIGHT else "exact"}
        model = models.build("gtc", split.train, split.features, models.settings("gtc", settings), seed)
        training = Training(model, TrainConfig(batch_size=BATCH, seed=seed, valid_users=VALID_USERS))
        batches = Batches(split.train, BATCH, seed)
        costs["construction"] = clock.lap()
        training.refresh()
        costs["refresh"] = clock.lap()
        laps, alone = [], Workers()
        for number, (batch, share, rng) in enumerate(batches.epoch(1, alone)):
            if number == steps + 3:
                break
            clock.lap()
            terms = training.step(batch, share, rng, alone)
            laps.append(clock.lap())
            assert math.isfinite(float(terms["total"]))
        clock.lap()
        users = valid_users(split, EvaluateConfig(), VALID_USERS, seed)
        evaluate_split(model.scorer(), split, "valid", EvaluateConfig(), details=False, users=users)
        costs["validation"] = clock.lap()
        step = {kind: median(lap[kind] for lap in laps[3:]) for kind in ("cpu", "wall")}
        return {**costs, "step": step, "steps_an_epoch": batches.steps, "pairs": len(split.train), "peak": peak_bytes()}


def draw(n: int, folder: Path, seed: int) -> Split:
    """n users with about 20 of n items each, one held out, and content in files that are not loaded."""
    rng = np.random.default_rng(seed)
    chance = np.cumsum(1 / np.arange(1, n + 1) ** 0.8)
    items = np.searchsorted(chance, rng.random(n * (PER_USER + 1)) * chance[-1])
    pairs = np.unique(np.repeat(np.arange(n), PER_USER + 1) * n + items)
    users, items = pairs // n, pairs % n
    last = np.append(np.diff(users) > 0, True)  # of each user
    none = Interactions(np.zeros(0, np.int64), np.zeros(0, np.int64), n, n)
    train, valid = (Interactions(users[part], items[part], n, n) for part in (~last, last))
    values = {}
    for m in MODALITIES:
        x = np.memmap(folder / m, np.float32, "w+", shape=(n, WIDTH))
        for start in range(0, n, 10**5):
            rows = x[start : start + 10**5]
            rows[:] = rng.standard_normal(rows.shape, dtype=np.float32)
        values[m] = x
    present = {m: np.ones(n, dtype=bool) for m in MODALITIES}
    return Split(train, valid, none, ItemFeatures(n, values, present), {})


def summary(result: dict[str, Any]) -> dict[str, list[tuple[int, dict[str, float], float, dict[str, float]]]]:
    """For each mode its points by size: items, step CPU-s, peak GB, other phases' CPU-s; medians over rounds."""
    found: dict[str, Any] = {}
    for mode in ("sampled", "full"):
        points = [one for one in result["points"] if one["mode"] == mode]
        found[mode] = []
        for items in sorted({one["items"] for one in points}):
            same = [one for one in points if one["items"] == items]
            seconds = sorted(one["step"]["cpu"] for one in same)
            step = {"min": seconds[0], "median": median(seconds), "max": seconds[-1]}
            phases = {key: median(one[key]["cpu"] for one in same) for key in ("construction", "refresh", "validation")}
            phases["steps"] = same[0]["steps_an_epoch"]
            found[mode].append((items, step, max(one["peak"] for one in same) / 2**30, phases))
    return found


def slope(points: list[Any], value: Any) -> float:
    """The exponent b of value ~ items^b, by least squares on logarithms."""
    x = np.log([one[0] for one in points])
    return float(np.polyfit(x, np.log([value(one) for one in points]), 1)[0])


def plot(result: dict[str, Any], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "gtcrec"  # equal results give equal files
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    shown = (("CPU-seconds a step", lambda one: one[1]["median"]), ("peak memory, GiB", lambda one: one[2]))
    for axis, (label, value) in zip(axes, shown, strict=True):
        for mode, points in summary(result).items():
            if points:
                name = f"{mode}, slope {slope(points, value):.2f}" if len(points) > 1 else mode
                axis.plot([one[0] for one in points], [value(one) for one in points], "o-", label=name)
        axis.set(xscale="log", yscale="log", xlabel="items", ylabel=label)
        axis.grid(True, alpha=0.3)
        axis.legend()
    figure.savefig(out, metadata={"Date": None})
    print(out)


if __name__ == "__main__":
    main()
