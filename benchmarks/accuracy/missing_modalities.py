"""Hide shares of ml100k's texts and posters, and train on what is left; train with each of both alone."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.running import options, quick_catalog, run_command
from benchmarks.blocks import Block, parse_table
from benchmarks.paths import PAGES
from gtcrec.reporting.run_record import read_run_record

DATA = "movies"  # as docs/own-data.md builds it
SETTINGS = ["preset=plain", "epochs=30", "patience=10", "learning_rate=0.004"]
METRICS = ["recall@20", "ndcg@20"]
VARIANTS = ["full", "without-image", "without-text"]


def measure(data: Path, runs: Path) -> dict[str, Block]:
    """Train what is missing, evaluate each run on test once, and return both tables."""
    blocks = _blocks(data / DATA, runs, SETTINGS, "0,0.3,0.6,0.9", "0,1,2")
    shutil.copyfile(runs / "hidden/missing.svg", PAGES / "missing.svg")
    return blocks


def measure_quick(runs: Path) -> dict[str, Block]:
    """The same of a tiny catalog, with one share, one seed and one epoch."""
    return _blocks(quick_catalog(runs / "catalog"), runs / "missing", ["preset=plain", "epochs=1"], "0,0.5", "0")


def _blocks(data: Path, out: Path, settings: Sequence[str], shares: str, seeds: str) -> dict[str, Block]:
    shared = [*options("--set", settings), *options("--metric", METRICS), "--on", "test"]
    grid = ["--shares", shares, "--seeds", "0"]
    run_command("analyze", "missing-modalities", "--data", data, "--out", out / "hidden", *grid, *shared)
    only = options("--only", VARIANTS)
    run_command("analyze", "ablation", "--data", data, "--out", out / "alone", "--seeds", seeds, *shared, *only)
    hidden, alone = (_table(path) for path in (out / "hidden/missing.md", out / "alone/ablation.md"))
    text = [
        f"{read_run_record(out / 'alone/full-0').final.users:,} users. Settings of every run: {', '.join(settings)}."
    ]
    return {"hidden": Block(text, hidden.headers, hidden.rows, hidden.left), "each-alone": alone}


def _table(path: Path) -> Block:
    return parse_table(path.read_text(encoding="utf-8").splitlines())
