"""The measurements of speed by name: each leaves its raw figures under runs/benchmarks and the blocks of a page."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy import sampled
from benchmarks.accuracy.running import options, quick_catalog
from benchmarks.blocks import Block
from benchmarks.paths import PAGES
from benchmarks.serving import load
from benchmarks.serving import tables as serving_tables
from benchmarks.speed import (
    ann,
    batch,
    build,
    encode,
    growth,
    item_weights,
    many_pairs,
    ray_training,
    side_by_side,
    tables,
)

USUAL = ("training", "growth")  # without names; the others want more time or more libraries


@dataclass(frozen=True)
class Measurement:
    """A module's command, its words for a trial, and what becomes of its result."""

    main: Callable[[list[str]], None]
    words: tuple[str, ...]
    quick: tuple[str, ...]
    blocks: Callable[[dict[str, Any]], Mapping[str, Block]]
    page: str = "performance"


MEASURED: Mapping[str, Measurement | None] = {
    "training": Measurement(
        side_by_side.main,
        ("run",),
        ("run", "--size", "small", "--steps", "2", "--rounds", "1", "--passes", "1"),
        tables.blocks,
    ),
    "growth": Measurement(
        growth.main,
        ("run",),
        ("run", "--items", "300", "600", "--steps", "2", "--rounds", "2", "--full-up-to", "300"),
        growth.blocks,
    ),
    "many-pairs": Measurement(
        many_pairs.main,
        ("run",),
        ("run", "--users", "300", "--items", "200", "--steps", "3"),
        lambda result: {"many-pairs": many_pairs.table_block(result)},
    ),
    "search": Measurement(
        ann.main,
        ("--sizes", "10000", "100000", "1000000"),
        ("--sizes", "600"),
        lambda result: {"search": ann.table_block(result)},
    ),
    "ray": Measurement(
        ray_training.main,
        tuple(options("--set", ["preset=plain", "epochs=12", "learning_rate=0.003"])),
        ("--model", "bpr", "--seeds", "1", "--set", "epochs=1"),
        lambda result: {"ray": ray_training.table_block(result)},
    ),
    "batch": Measurement(
        batch.main,
        ("run",),
        ("run", "--users", "300", "--items", "200", "--texts", "20", "--rounds", "1", "--only", "local"),
        batch.blocks,
    ),
    "encode": Measurement(
        encode.main,
        ("run",),
        ("run", "--rounds", "1", "--only", "tags", "numbers"),
        lambda result: {"throughput": encode.table_block(result)},
        "encode",
    ),
    "build": Measurement(
        build.main,
        ("run",),
        ("run", "--interactions", "5000", "--users", "100", "--items", "200"),
        lambda result: {"build": build.table_block(result)},
        "build",
    ),
    "item-weights": Measurement(
        item_weights.main,
        ("run",),
        ("run", "--forms", "--items", "300"),
        item_weights.blocks,
        "l3ae",
    ),
    "serving": Measurement(
        load.main,
        ("run",),
        ("run", "--seconds", "4", "--items", "500", "--epochs", "1", "--kills", "1"),
        serving_tables.blocks,
        "serving",
    ),
    "sampled": None,  # trains runs
}


def measure(name: str, data: Path, runs: Path, quick: bool) -> tuple[str, Mapping[str, Block]]:
    """Measure, and return the name of the page and its blocks."""
    chosen = MEASURED[name]
    if chosen is None:
        made = sampled.measure_quick(runs) if quick else sampled.measure(data, (), runs / "sampled")
        return "performance", made
    out = runs / "speed" / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    words = [*(chosen.quick if quick else chosen.words), "--out", str(out)]
    if name == "training":
        words += ["--data", str(data)]
    if name == "item-weights":
        words += ["--data", str(data / "sports")]
    if name == "serving":
        words += ["--data", str(quick_catalog(runs / "catalog") if quick else data / "tiktok")]
        words += ["--models", str(runs / "serving")]
    if name == "ray":
        words.insert(0, str(quick_catalog(runs / "catalog") if quick else data / "tiktok"))
    chosen.main(words)
    result = json.loads(out.read_text(encoding="utf-8"))
    if name == "growth" and not quick:
        growth.plot(result, PAGES / "growth.svg")
    return chosen.page, chosen.blocks(result)
