"""Plots of a benchmark as SVG bytes; matplotlib is imported on the first call, without its global state."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gtcrec.reporting.figures import COLUMNS, DASHES, LIGHT, LINES, Theme, style, svg

__all__ = ["Bar", "Point", "bars", "points", "rank_curves"]


@dataclass(frozen=True)
class Bar:
    """A model's mean with its interval; `marked` for the one that the others are tested against."""

    name: str
    value: float
    low: float
    high: float
    marked: bool = False


@dataclass(frozen=True)
class Point:
    """A model at (x, y), with the interval of y."""

    name: str
    x: float
    y: float
    low: float
    high: float
    marked: bool = False


def bars(panels: Sequence[tuple[str, Sequence[Bar]]], theme: Theme = LIGHT) -> bytes:
    """Draw a panel a metric, two a row: a horizontal bar a model from the top down, with its interval.

    Returns SVG bytes, or b"" if there is no bar.
    """
    names = list(dict.fromkeys(bar.name for _, own in panels for bar in own))
    if not names:
        return b""
    rows = math.ceil(len(panels) / COLUMNS)
    figure = _figure((7.6, rows * (0.7 + 0.2 * len(names))), theme)
    for place, (title, own) in enumerate(panels):
        ax = _axes(figure, rows, COLUMNS if len(panels) > 1 else 1, place, title, theme, "x")
        for bar in own:
            at = names.index(bar.name)
            ax.barh(at, bar.value, height=0.66, color=theme.loss if bar.marked else theme.ramp[0])
            ax.plot([bar.low, bar.high], [at, at], color=theme.ink, linewidth=1.1)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_yticks(range(len(names)), names if place % COLUMNS == 0 else [])
    return svg(figure)


def rank_curves(
    curves: Sequence[tuple[str, Sequence[tuple[int, float]]]], title: str, marked: str = "", theme: Theme = LIGHT
) -> bytes:
    """Draw a line a model over the cut-offs, on a logarithmic axis, with a legend in the order of the last values.

    The line of `marked` is thicker.
    Returns SVG bytes, or b"" if there is no line.
    """
    if not curves:
        return b""
    figure = _figure((7.6, max(3.2, 0.9 + 0.2 * len(curves))), theme)
    ax = _axes(figure, 1, 1, 0, title, theme, "y")
    for place in sorted(range(len(curves)), key=lambda one: -curves[one][1][-1][1]):
        name, found = curves[place]
        colour, dash = LINES[place % len(LINES)], DASHES[place // len(LINES) % len(DASHES)]
        width = 2.6 if name == marked else 1.3
        ax.plot(*zip(*found, strict=True), "o", linestyle=dash, color=colour, linewidth=width, markersize=3, label=name)
    cuts = sorted({k for _, found in curves for k, _ in found})
    ax.set_xscale("log")
    ax.set_xticks(cuts, [str(k) for k in cuts])
    ax.minorticks_off()
    ax.set_xlabel("k", color=theme.ink, fontsize=8)
    ax.set_ylim(bottom=0)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8, labelcolor=theme.ink)
    return svg(figure)


def points(found: Sequence[Point], title: str, label: str, logarithmic: bool = False, theme: Theme = LIGHT) -> bytes:
    """Draw each model at its place with its name and the interval of its height; `label` is that of the x axis.

    Returns SVG bytes, or b"" if there is no model.
    """
    if not found:
        return b""
    figure = _figure((7.6, 3.8), theme)
    ax = _axes(figure, 1, 1, 0, title, theme, "y")
    for one in found:
        colour = theme.loss if one.marked else theme.logged
        ax.plot([one.x, one.x], [one.low, one.high], color=theme.faint, linewidth=1.2)
        ax.plot(one.x, one.y, "o", color=colour, markersize=5)
        ax.annotate(one.name, (one.x, one.y), (5, 3), textcoords="offset points", color=colour, fontsize=7.5)
    if logarithmic:
        ax.set_xscale("log")
    ax.margins(x=0.12)
    ax.set_xlabel(label, color=theme.ink, fontsize=8)
    return svg(figure)


def _figure(size: tuple[float, float], theme: Theme) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained", facecolor=theme.paper)


def _axes(figure: Any, rows: int, columns: int, place: int, title: str, theme: Theme, grid: str) -> Any:
    ax = figure.add_subplot(rows, columns, place + 1)
    style(ax, title, theme, grid)
    return ax
