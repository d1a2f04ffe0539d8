"""Time and memory of GTC's training step as the catalogue grows, and a plot of both.

    python -m benchmarks.speed.growth run --out growth.json    # minutes; wants 16 GiB and an idle machine
    python -m benchmarks.speed.growth plot growth.json growth.svg

As many users as items, 20 interactions each with items of power-law popularity, two modalities of 64 random numbers in
memory-mapped files. Every point is a process of its own, so that its peak memory is its own. Seconds are CPU time.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.blocks import Block
from benchmarks.clock import Clock, peak_bytes
from benchmarks.paths import module_command, module_environment
from gtcrec import models
from gtcrec.evaluation.evaluator import evaluate_split, validation_users
from gtcrec.evaluation.protocol import EvaluateConfig
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.training.sampling import Batches
from gtcrec.training.trainer import TrainConfig, Training
from gtcrec.types import Interactions, ItemFeatures, Split

BATCH, PER_USER, WIDTH, MODALITIES, STRAIGHT = 2048, 20, 64, ("image", "text"), 10**5
VALID_USERS, MODES = 1000, ("sampled", "full")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run_ = verbs.add_parser("run", help="measure")
    run_.add_argument("--out", type=Path, required=True)
    run_.add_argument("--items", type=int, nargs="*", default=[10**4, 10**5, 10**6])
    run_.add_argument("--steps", type=int, default=20, help="timed steps a round, after three that are not")
    run_.add_argument("--rounds", type=int, default=3, help="of steps, one after the other")
    run_.add_argument("--full-up-to", type=int, default=10**5, help="most items that propagation=full is measured on")
    run_.add_argument("--threads", type=int, default=1)
    point_ = verbs.add_parser("point", help="measure one point; used by run")
    for name in ("items", "steps", "rounds", "threads"):
        point_.add_argument(name, type=int)
    point_.add_argument("mode")
    plot_ = verbs.add_parser("plot", help="draw the result")
    plot_.add_argument("result", type=Path)
    plot_.add_argument("out", type=Path)
    arguments = parser.parse_args(words)
    if arguments.verb == "run":
        run(arguments)
    elif arguments.verb == "point":
        torch.set_num_threads(arguments.threads)
        print(json.dumps(point(arguments.items, arguments.mode, arguments.steps, arguments.rounds)))
    else:
        plot(json.loads(arguments.result.read_text(encoding="utf-8")), arguments.out)


def run(arguments: argparse.Namespace) -> None:
    """Measure every point, from small to large, and write the result after each."""
    about = {
        "cores": os.cpu_count(),
        "threads": arguments.threads,
        "steps": arguments.steps,
        "rounds": arguments.rounds,
    }
    result: dict[str, Any] = {"about": about, "points": []}
    for items in arguments.items:
        for mode in ("sampled", *(["full"] if items <= arguments.full_up_to else [])):
            words = ("point", items, arguments.steps, arguments.rounds, arguments.threads, mode)
            command, environment = (
                module_command("benchmarks.speed.growth", *words),
                module_environment(arguments.threads),
            )
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            result["points"].append({"items": items, "mode": mode, **json.loads(done.stdout)})
            arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(items, mode, f"{result['points'][-1]['step']['median']:.4f} CPU-s a step", flush=True)


def point(n_items: int, mode: str, steps: int, rounds: int) -> dict[str, Any]:
    """CPU seconds and memory of what an epoch consists of: refresh, steps, and validation of some users."""
    with tempfile.TemporaryDirectory() as folder:
        split = draw(n_items, Path(folder))
        clock = Clock()
        settings = {
            "init": "random",  # a step costs the same from any start
            "propagation": mode,
            "neighbor_search": "approximate" if n_items > STRAIGHT else "exact",
        }
        model = models.build_model(
            "gtc", split.train, split.features, models.make_config("gtc", settings, "sampled"), 0
        )
        training = Training(model, TrainConfig(batch_size=BATCH))
        batches = Batches(split.train, BATCH, 0)
        costs = {"construction": clock.lap()["cpu"]}
        training.refresh()
        costs["refresh"] = clock.lap()["cpu"]
        every = itertools.chain.from_iterable(batches.epoch(number, ProcessGroup()) for number in itertools.count(1))
        laps = _steps(training, every, 3 + steps * rounds)[3:]
        clock.lap()
        users = validation_users(split, EvaluateConfig(), VALID_USERS)
        evaluate_split(model.scorer(), split, "valid", EvaluateConfig(), details=False, users=users)
        costs["validation"] = clock.lap()["cpu"]
        medians = sorted(median(laps[start : start + steps]) for start in range(0, len(laps), steps))
        step = {"min": medians[0], "median": median(medians), "max": medians[-1]}
        return {**costs, "step": step, "steps": batches.steps, "pairs": len(split.train), "peak": peak_bytes()}


def _steps(training: Training, batches: Iterator[Any], count: int) -> list[float]:
    """CPU seconds of each step, drawing its batch included."""
    clock, laps = Clock(), []
    for batch, share, rng in itertools.islice(batches, count):
        terms = training.step(batch, share, rng, ProcessGroup())
        laps.append(clock.lap()["cpu"])
        if not math.isfinite(float(terms["total"])):
            raise SystemExit(f"the loss is no longer finite at step {len(laps)}")
    return laps


def draw(n: int, folder: Path) -> Split:
    """n users with about 20 of n items each, one held out, and content in files that are not loaded."""
    rng = np.random.default_rng(0)
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


def points(result: dict[str, Any], mode: str) -> list[dict[str, Any]]:
    """The points of one mode, by size."""
    return sorted((one for one in result["points"] if one["mode"] == mode), key=lambda one: one["items"])


def slope(found: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    """The exponent b of value ~ items^b, by least squares on logarithms."""
    x = np.log([one["items"] for one in found])
    return float(np.polyfit(x, np.log([value(one) for one in found]), 1)[0])


def blocks(result: dict[str, Any]) -> dict[str, Block]:
    """How a step grows with the catalog."""
    about, rows, slopes = result["about"], [], []
    text = (
        f"{PER_USER} interactions a user, two modalities of {WIDTH} numbers, batch {BATCH:,}; {about['threads']} "
        f"thread of {about['cores']} cores, {about['rounds']} rounds of {about['steps']} timed steps, medians over "
        f"rounds. Above {STRAIGHT:,} items an approximate index finds the content neighbors. Validation: "
        f"{VALID_USERS:,} users against all items."
    )
    for mode in MODES:
        for one in (measured := points(result, mode)):
            spread = "{median:.3f} [{min:.3f}, {max:.3f}]".format(**one["step"])
            costs = [f"{one['construction']:.1f}", f"{one['refresh']:.2f}", f"{one['steps']:,}"]
            last = [f"{one['validation']:.1f}", f"{one['peak'] / 2**30:.1f}"]
            rows.append([mode, f"{one['items']:,}", spread, *costs, *last])
        if len(measured) > 1:
            small, large = measured[0], measured[-1]
            ratio, steep = _step(large) / _step(small), slope(measured, _step)
            slopes.append(
                f"- {mode}: a step at {large['items']:,} items takes {ratio:.2f} times the time of one at "
                f"{small['items']:,}; slope {steep:.2f}."
            )
    headers = ("propagation", "items", "step", "construction", "refresh", "steps an epoch", "validation", "peak GiB")
    return {"growth": Block([text], headers, rows), "growth-slopes": Block(slopes)}


def _step(one: dict[str, Any]) -> float:
    return float(one["step"]["median"])


def plot(result: dict[str, Any], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "gtcrec"  # equal results give equal files
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    shown = (
        ("CPU-seconds a step", lambda one: one["step"]["median"]),
        ("peak memory, GiB", lambda one: one["peak"] / 2**30),
    )
    for axis, (label, value) in zip(axes, shown, strict=True):
        for mode in MODES:
            if found := points(result, mode):
                name = f"{mode}, slope {slope(found, value):.2f}" if len(found) > 1 else mode
                axis.plot([one["items"] for one in found], [value(one) for one in found], "o-", label=name)
        axis.set(xscale="log", yscale="log", xlabel="items", ylabel=label)
        axis.grid(True, alpha=0.3)
        axis.legend()
    figure.savefig(out, metadata={"Date": None})
    print(out)


if __name__ == "__main__":
    main()
