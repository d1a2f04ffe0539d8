"""Curves of trainings, also of those that still run: what their history says up to now."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gtcrec.evaluation.metrics import headline_cut
from gtcrec.runtime.files import MANIFEST
from gtcrec.runtime.locks import is_locked

__all__ = ["Curve", "Training", "find_trainings", "read_training"]

_NEWEST = 12
WIDTH, HEIGHT = 560, 220  # of a chart, in its own unit


@dataclass(frozen=True)
class Curve:
    """A series over epochs, scaled into a chart: an SVG path, its ends as text, and its last point."""

    name: str
    path: str
    end: tuple[float, float]
    last: float
    low: float
    high: float


@dataclass(frozen=True)
class Training:
    """A run's training as far as it is; `best` is the epoch whose weights are kept, 0 before there is one."""

    name: str
    running: bool
    finished: bool
    epochs: int
    best: int
    metrics: tuple[Curve, ...]
    losses: tuple[Curve, ...]


def find_trainings(path: Path) -> list[Path]:
    """Return the run folders at a path, or else beside it, that have a history; the newest first.

    Parameters
    ----------
    path : pathlib.Path
        What is served: a run, or a folder of runs.
    """
    place = path.resolve()
    folder = place.parent if (place / "config.yaml").is_file() or (place / MANIFEST).is_file() else place
    found = [run for run in folder.iterdir() if (run / "config.yaml").is_file() and (run / "history.jsonl").is_file()]
    return sorted(found, key=lambda run: (-(run / "history.jsonl").stat().st_mtime_ns, run.name))[:_NEWEST]


def read_training(run: Path) -> Training:
    """Return the curves of a run; of a damaged history those of the lines before the damage."""
    lines = []
    for text in (run / "history.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    measured = [line for line in lines if line.get("valid")]
    names = list(measured[0]["valid"]) if measured else []
    cut = headline_cut(names) if names else None
    shown = [name for name in (f"recall@{cut}", f"ndcg@{cut}") if name in names] or names[:2]
    metrics = [_curve(name, [(line["epoch"], line["valid"][name]) for line in measured]) for name in shown]
    losses = [
        _curve(name, [(line["epoch"], line["losses"][name]) for line in lines if name in line["losses"]])
        for name in (lines[-1]["losses"] if lines else ())
    ]
    best = max((line["epoch"] for line in lines if line.get("best")), default=0)
    finished = (run / MANIFEST).is_file()
    return Training(run.name, is_locked(run), finished, len(lines), best, tuple(metrics), tuple(losses))


def _curve(name: str, points: Sequence[tuple[int, float]]) -> Curve:
    """Scale a series to the chart: epochs from the left edge to the right, values from their least to their largest."""
    values = [value for _, value in points]
    low, high = min(values), max(values)
    first, last = points[0][0], points[-1][0]

    def scaled(epoch: int, value: float) -> tuple[float, float]:
        x = WIDTH * (epoch - first) / (last - first or 1)
        return round(x, 1), round(HEIGHT * (1 - (value - low) / (high - low or 1)), 1)

    places = [scaled(*point) for point in points]
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in places)
    return Curve(name, path, places[-1], values[-1], low, high)
