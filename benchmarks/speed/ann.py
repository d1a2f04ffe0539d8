"""Exact top-k against approximate indexes, side by side: seconds to build, milliseconds a query, recall.

    python -m benchmarks.speed.ann --out FILE.json

Random vectors in clusters, as many users' as are asked for, each with some items that must not come back. Every way
gets the same queries in the same batches. Seconds are CPU seconds; `table_block` gives the table of the page.
10^4 and 10^5 items take a minute; `--sizes 10000 100000 1000000` takes eight, mostly the graph of 10^6.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.blocks import Block
from benchmarks.clock import Clock
from gtcrec.ops import ann as index
from gtcrec.ops.scorers import dot_scorer
from gtcrec.ops.topk import recommend
from gtcrec.types import Interactions, Ints, TopK

DIM, K, SEEN, BATCH, BATCHES, WIDER = 64, 20, 20, 256, 8, 4


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5], help="numbers of items")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {
        "about": {"dim": DIM, "k": K, "seen": SEEN, "batch": BATCH, "batches": BATCHES, "threads": arguments.threads}
        | {"seed": arguments.seed, "cores": os.cpu_count(), "load": [os.getloadavg()[0]]}
        | {"config": index.IndexConfig().model_dump(exclude={"kind"})},
        "sizes": {},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for n_items in arguments.sizes:
        result["sizes"][str(n_items)] = measure(n_items, arguments.seed)
        result["about"]["load"].append(os.getloadavg()[0])
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(*table_block(result).lines()[-len(result["sizes"][str(n_items)]) :], sep="\n", flush=True)


def measure(n_items: int, seed: int) -> list[dict[str, Any]]:
    """Search every way over one set of vectors; indexes as configured, and `WIDER` times as wide."""
    items, users, seen = draw(n_items, BATCH * BATCHES, seed)
    scorer = dot_scorer(users, items)
    exact, laps = _searched(lambda batch: recommend(scorer, batch, K, [seen]), len(users))
    found = [{"search": "exact", "build_seconds": 0.0, "query_ms": laps, "recall": 1.0}]
    for kind, width in (("ivf", "probes"), ("hnsw", "search_width")):
        clock = Clock()
        built = index.build(items, index.IndexConfig(kind=kind))
        seconds = clock.lap()["cpu"]
        for wider in (1, WIDER):
            at = wider * getattr(built.config, width)
            one = replace(built, config=built.config.model_copy(update={width: at}))
            lists, laps = _searched(partial(_search, one, users, seen), len(users))
            recall = index.recall_against_exact(lists, exact)
            found.append({"search": f"{kind} {at}", "build_seconds": seconds, "query_ms": laps, "recall": recall})
    return found


def _search(built: index.Index, users: Tensor, seen: Interactions, batch: Ints) -> TopK:
    return built.search(users, batch, K, [seen])


def _searched(search: Callable[[Ints], TopK], n_users: int) -> tuple[TopK, dict[str, float]]:
    """The lists of all users and the spread of CPU-ms a query over batches."""
    search(np.arange(BATCH))  # touches code and memory for the first time
    parts, laps = [], []
    for batch in np.split(np.arange(n_users), BATCHES):
        clock = Clock()
        parts.append(search(batch))
        laps.append(clock.lap()["cpu"] / BATCH * 1000)
    whole = TopK(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("users", "items", "scores")))
    return whole, {"min": min(laps), "median": median(laps), "max": max(laps)}


def draw(n_items: int, n_users: int, seed: int) -> tuple[Tensor, Tensor, Interactions]:
    """Item and user vectors around the same centres, of unequal length as popularity makes them; and the seen items.

    Half of an item's variance is its centre's; 100 items a centre; lengths are log-normal (0.3).
    """
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(10, n_items // 100), DIM), dtype=np.float32)

    def near(n: int) -> Any:
        return centres[rng.integers(len(centres), size=n)] + rng.standard_normal((n, DIM), dtype=np.float32)

    items = near(n_items) * rng.lognormal(0, 0.3, size=(n_items, 1)).astype(np.float32)
    users = near(n_users)
    best = recommend(dot_scorer(torch.from_numpy(users), torch.from_numpy(items)), np.arange(n_users), 2 * SEEN).items
    seen = Interactions(np.repeat(np.arange(n_users), SEEN), best[:, ::2].ravel(), n_users, n_items)
    return torch.from_numpy(items), torch.from_numpy(users), seen


def table_block(result: dict[str, Any]) -> Block:
    """The table of a result; a search's number is its cells or candidates."""
    headers = ("items", "search", "build, CPU-s", "a query, CPU-ms", f"recall@{result['about']['k']}")
    rows = [_row(int(n_items), one) for n_items, searches in result["sizes"].items() for one in searches]
    return Block((), headers, rows, (0, 1))


def _row(n_items: int, one: dict[str, Any]) -> tuple[str, ...]:
    name, _, width = one["search"].partition(" ")
    low, middle, high = (one["query_ms"][key] for key in ("min", "median", "max"))
    return (
        f"{n_items:,}",
        {"exact": "exact", "ivf": f"IVF, {width} cells", "hnsw": f"HNSW, {width} candidates"}[name],
        "none" if name == "exact" else f"{one['build_seconds']:.3g}",
        f"{middle:.3g} [{low:.3g}, {high:.3g}]",
        f"{one['recall']:.3f}",
    )


if __name__ == "__main__":
    main()
