"""Train GTC without each of its parts on two data sets, and measure how well its denoisers see noise."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy.running import options, quick_catalog, run_command
from benchmarks.blocks import Block, parse_table
from benchmarks.paths import PAGES
from gtcrec import models
from gtcrec.experiments.run import Run
from gtcrec.models.gtc.embedding.denoising import denoising_errors
from gtcrec.reporting.run_record import read_run_record

SHARED = ["preset=embedding", "epochs=24", "valid_every=2", "patience=4"]
BUDGETS = {"tiktok": ["als_reg=0.05", *SHARED], "ml100k": ["als_reg=0.02", *SHARED]}
PARTS = [
    *("full", "untrained", "random-start", "no-content", "no-filter", "noise-only", "user-agnostic"),
    *("no-alignment", "pairwise", "no-item-graph"),
]
MODALITIES = {"tiktok": ["without-image", "without-audio"], "ml100k": ["without-plot", "without-credits"]}
SEEDS = (0, 1, 2)


def measure(data: Path, names: Sequence[str], runs: Path) -> dict[str, Block]:
    """Train what is missing of each data set, evaluate each run on test once, and return the tables."""
    blocks: dict[str, Block] = {}
    for name in names or BUDGETS:
        settings, parts = BUDGETS[name], [*PARTS, *MODALITIES[name]]
        blocks |= _blocks(name, data / name, runs / name, settings, parts, SEEDS)
        shutil.copyfile(runs / name / "ablation.svg", PAGES / f"ablation-{name}.svg")
    return blocks


def measure_quick(runs: Path) -> dict[str, Block]:
    """The same of a tiny catalog, with few parts, one seed and one epoch."""
    data = quick_catalog(runs / "catalog")
    return _blocks(
        "quick",
        data,
        runs / "ablation",
        ["preset=embedding", "epochs=1"],
        ["full", "no-filter", "without-image"],
        SEEDS[:1],
    )


def _blocks(
    name: str, data: Path, out: Path, settings: Sequence[str], parts: Sequence[str], seeds: Sequence[int]
) -> dict[str, Block]:
    words = [*options("--set", settings), *options("--only", parts), "--seeds", ",".join(map(str, seeds))]
    run_command("analyze", "ablation", "--data", data, "--out", out, *words, "--on", "test")
    table = parse_table((out / "ablation.md").read_text(encoding="utf-8").splitlines())
    users = read_run_record(out / f"full-{seeds[0]}").final.users
    text = [f"{users:,} users. Settings of every run: {', '.join(settings)}."]
    return {
        name: Block(text, table.headers, table.rows, table.left),
        f"{name}-denoiser": denoiser_block([out / f"full-{seed}" for seed in seeds]),
    }


@torch.no_grad()
def denoiser_block(folders: Sequence[Path]) -> Block:
    """How well the denoisers see the noise in content that users liked and training did not know."""
    errors: dict[str, list[list[float]]] = {}
    for folder in folders:
        run = Run.load(folder)
        settings = models.make_config("gtc", run.config.settings, run.config.preset)
        untrained = models.build_model("gtc", run.split.train, run.split.features, settings, run.config.train.seed)
        for modality in run.split.features.names:
            errors.setdefault(modality, []).append(_errors(run, untrained, modality))
    headers = ("modality", "untrained", "trained", "trained, guided by the user", "by another user")
    rows = [(modality, *map(_mean_and_sd, zip(*seeds, strict=True))) for modality, seeds in errors.items()]
    return Block((), headers, rows)


def _mean_and_sd(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.4f}"
    return f"{mean} ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else mean


def _errors(run: Run, untrained: Any, modality: str) -> list[float]:
    users, items = (torch.from_numpy(side) for side in (run.split.valid.users, run.split.valid.items))
    trained, raw = run.model.content[modality], untrained.content[modality]  # type: ignore[index]
    others = users.roll(len(users) // 2)
    own, other = trained.interest(users), trained.interest(others)
    denoisers = (
        raw.predict,
        trained.predict,
        lambda xt, t: trained.denoise(xt, t, own),
        lambda xt, t: trained.denoise(xt, t, other),
    )
    y, has = trained.y[items], trained.present[items]
    rng = torch.Generator().manual_seed(0)
    return [float(e) for e in denoising_errors(trained.schedule, y, has, rng, *denoisers)]
