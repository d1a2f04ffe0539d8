"""An epoch of the peers on 2*10^7 interactions of 10^6 users, over the whole graph and by sampled or sparse steps.

    python -m benchmarks.speed.many_pairs run --out many_pairs.json    # a quarter of an hour; wants 8 GiB

An epoch is what happens once, its first step included, and the median step times their number. Users like 20 items
each, of power-law popularity; one modality of 64 random numbers. Every point is a process of its own. Seconds are CPU
time.
"""

import argparse
import itertools
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.blocks import Block
from benchmarks.clock import Clock, peak_bytes
from benchmarks.paths import module_command, module_environment
from gtcrec import models
from gtcrec.runtime.process_group import SINGLE_PROCESS
from gtcrec.training.sampling import Batches
from gtcrec.training.trainer import TrainConfig, Training
from gtcrec.types import Interactions, ItemFeatures

PER_USER, WIDTH = 20, 64
WAYS: Mapping[str, Mapping[str, Any]] = {
    "bpr, full": {"sparse": False},
    "bpr, sparse": {"sparse": True},
    **{
        f"{model}, {way}": {"propagation": way}
        for model in ("lightgcn", "freedom", "mgcn")
        for way in ("full", "sampled")
    },
}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run_ = verbs.add_parser("run", help="measure")
    run_.add_argument("--out", type=Path, required=True)
    run_.add_argument("--users", type=int, default=10**6)
    run_.add_argument("--items", type=int, default=10**5)
    run_.add_argument("--steps", type=int, default=20, help="timed steps, after the first; a tenth of them if full")
    run_.add_argument("--only", nargs="*", default=list(WAYS), choices=list(WAYS))
    point_ = verbs.add_parser("point", help="measure one point; used by run")
    point_.add_argument("way")
    for name in ("users", "items", "steps"):
        point_.add_argument(name, type=int)
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    if arguments.verb == "run":
        run(arguments)
    else:
        print(json.dumps(point(arguments.way, arguments.users, arguments.items, arguments.steps)))


def run(arguments: argparse.Namespace) -> None:
    """Measure every point that the result lacks, and write it after each."""
    result: dict[str, Any] = {"about": {"cores": os.cpu_count()}, "points": {}}
    if arguments.out.exists():
        result = json.loads(arguments.out.read_text(encoding="utf-8"))
    for way in arguments.only:
        if way in result["points"]:
            continue
        steps = max(2, arguments.steps // 10) if way.endswith("full") else arguments.steps
        words = ("point", way, arguments.users, arguments.items, steps)
        command = module_command("benchmarks.speed.many_pairs", *words)
        done = subprocess.run(command, env=module_environment(1), stdout=subprocess.PIPE, text=True, check=True)
        result["points"][way] = json.loads(done.stdout.splitlines()[-1])
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(way, result["points"][way], flush=True)


def point(way: str, n_users: int, n_items: int, steps: int) -> dict[str, Any]:
    """CPU seconds and memory of an epoch's parts."""
    train, features = draw(n_users, n_items)
    clock, model = Clock(), way.partition(",")[0]
    training = Training(
        models.build_model(model, train, features, models.make_config(model, WAYS[way]), 0), TrainConfig()
    )
    construction = clock.lap()["cpu"]
    batches = Batches(train, training.config.batch_size, 0)
    drawn, laps = batches.epoch(1, SINGLE_PROCESS), []
    training.refresh()
    for batch, share, rng in itertools.islice(drawn, 1 + steps):
        training.step(batch, share, rng, SINGLE_PROCESS)
        laps.append(clock.lap()["cpu"])
    costs = {"construction": construction, "first": laps[0], "step": median(laps[1:]), "steps": batches.steps}
    return {**costs, "users": n_users, "items": n_items, "pairs": len(train), "peak": peak_bytes()}


def draw(n_users: int, n_items: int) -> tuple[Interactions, ItemFeatures]:
    """Users with about 20 items each, and content."""
    rng = np.random.default_rng(0)
    chance = np.cumsum(1 / np.arange(1, n_items + 1) ** 0.8)
    items = np.searchsorted(chance, rng.random(n_users * PER_USER) * chance[-1])
    pairs = np.unique(np.repeat(np.arange(n_users), PER_USER) * n_items + items)
    x = rng.standard_normal((n_items, WIDTH), dtype=np.float32)
    features = ItemFeatures(n_items, {"text": x}, {"text": np.ones(n_items, dtype=np.bool_)})
    return Interactions(pairs // n_items, pairs % n_items, n_users, n_items), features


def table_block(result: Mapping[str, Any]) -> Block:
    """The table of the page."""
    points, rows = result["points"], []
    for way, one in points.items():
        whole = points.get(f"{way.partition(',')[0]}, full")
        ratio = f"{epoch(whole) / epoch(one):,.1f}" if whole else "–"
        costs = f"{1e3 * one['step']:,.1f}", f"{one['steps']:,}", f"{epoch(one) / 60:,.1f}", ratio
        rows.append((way, *costs, f"{one['construction']:,.0f}", f"{one['peak'] / 2**30:.1f}"))
    first = next(iter(points.values()))
    text = (
        f"{first['users']:,} users, {first['items']:,} items, {first['pairs']:,} training pairs; one modality of "
        f"{WIDTH} numbers; 1 thread of {result['about']['cores']} cores. An epoch is extrapolated from a few steps."
    )
    headers = ("model", "step, CPU-ms", "steps", "epoch, CPU-min", "full : this", "construction, CPU-s", "peak GiB")
    return Block([text], headers, rows)


def epoch(one: Mapping[str, Any]) -> float:
    """CPU seconds of an epoch: its first step, with what is computed once, and the others."""
    return float(one["first"] + one["step"] * (one["steps"] - 1))


if __name__ == "__main__":
    main()
