"""Plots of a training as PNG bytes; matplotlib is imported on the first call, without its global state."""

import importlib.util
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["DARK", "LIGHT", "Curve", "Mark", "Theme", "available", "curves", "forest", "losses", "missing_curves"]

PANEL = (3.6, 2.35)  # inches
COLUMNS = 2
LINES = ("#2a6aa8", "#c2571a", "#3d8b4f", "#8b5aa8", "#b08a1e", "#4f9aa0", "#b0476a")
DASHES = ((0, ()), (0, (4, 2)), (0, (1, 1.5)))


@dataclass(frozen=True)
class Theme:
    """Colours of a plot; `ramp` runs from the smallest cut-off to the largest."""

    paper: str
    ink: str
    faint: str
    ramp: tuple[str, ...]
    loss: str
    logged: str


LIGHT = Theme("#ffffff", "#333a42", "#d9dde2", ("#9cc3e6", "#5b97cc", "#2a6aa8", "#123f6d"), "#2a6aa8", "#8a6417")
DARK = Theme("#15181c", "#c3c9d0", "#353b43", ("#3f6386", "#5587b5", "#79b0e0", "#c2e0fa"), "#79b0e0", "#d9b36a")


def available() -> bool:
    """Return whether matplotlib, which the extra `gtcrec[plot]` brings, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def curves(history: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> bytes:
    """Draw the validation metrics over the epochs: a panel a metric, a line a cut-off, the best epoch marked.

    `history` is `history.jsonl`. Returns PNG bytes, or b"" if fewer than two epochs were validated.
    """
    valid = [line for line in history if line.get("valid")]
    if len(valid) < 2:
        return b""
    names = list(dict.fromkeys(name for line in valid for name in line["valid"]))
    families = list(dict.fromkeys(_family(name) for name in names))
    best = max((line["epoch"] for line in valid if line.get("best")), default=None)

    def draw(ax: Any, family: str) -> None:
        members = sorted((name for name in names if _family(name) == family), key=_cut)
        shades = theme.ramp[-len(members) :] if len(members) <= len(theme.ramp) else theme.ramp[-1:] * len(members)
        for name, shade in zip(members, shades, strict=True):
            points = [(line["epoch"], line["valid"][name]) for line in valid if name in line["valid"]]
            _line(ax, points, shade, theme, best)
            ax.annotate(
                f"@{_cut(name)}" if "@" in name else "",
                points[-1],
                xytext=(4, 0),
                textcoords="offset points",
                color=shade,
                fontsize=7.5,
                va="center",
            )
        if best is not None:
            ax.axvline(best, color=theme.ink, linewidth=0.7, linestyle=(0, (3, 3)))
            ax.set_title(f"best epoch {best}", loc="right", color=theme.ink, fontsize=7.5)
        ax.set_ylim(bottom=0)

    return _panels(families, draw, theme)


def losses(history: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> bytes:
    """Draw a panel for each loss term over the epochs, then for each quantity that is only logged (`log.*`).

    `history` is `history.jsonl`. Returns PNG bytes, or b"" if there are fewer than two epochs.
    """
    if len(history) < 2:
        return b""
    names = list(dict.fromkeys(name for line in history for name in line["losses"]))
    names.sort(key=lambda name: name.startswith("log."))  # stable: the terms keep their order

    def draw(ax: Any, name: str) -> None:
        points = [(line["epoch"], line["losses"][name]) for line in history if name in line["losses"]]
        _line(ax, points, theme.logged if name.startswith("log.") else theme.loss, theme, None)
        if name.startswith("log."):
            ax.set_title("logged, not in the loss", loc="right", color=theme.logged, fontsize=7.5)

    return _panels(names, draw, theme)


def _panels(names: Sequence[str], draw: Callable[[Any, str], None], theme: Theme) -> bytes:
    """Lay out one panel a name, two a row, and return the PNG."""
    if not names:
        return b""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = math.ceil(len(names) / COLUMNS)
    size = (PANEL[0] * COLUMNS, PANEL[1] * rows)
    figure = Figure(figsize=size, dpi=160, layout="constrained", facecolor=theme.paper)
    for place, name in enumerate(names):
        ax = figure.add_subplot(rows, COLUMNS, place + 1)
        style(ax, name.removeprefix("log."), theme, "y")
        ax.spines["bottom"].set(visible=True, color=theme.faint)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        draw(ax, name)
        if place >= len(names) - COLUMNS:
            ax.set_xlabel("epoch", color=theme.ink, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})  # equal histories give equal bytes
    return buffer.getvalue()


def _line(ax: Any, points: Sequence[tuple[int, float]], colour: str, theme: Theme, best: int | None) -> None:
    ax.plot(*zip(*points, strict=True), color=colour, linewidth=1.5)
    for point in points:
        if point[0] == best:
            ax.plot(*point, "o", color=colour, markeredgecolor=theme.paper, markersize=5)


def _family(name: str) -> str:
    return name.split("@")[0]


def _cut(name: str) -> int:
    cut = name.rpartition("@")[2]
    return int(cut) if cut.isdigit() else 0


@dataclass(frozen=True)
class Mark:
    """A line of a forest plot: a value with its interval, `sure` where it is significant."""

    name: str
    value: float
    low: float
    high: float
    sure: bool


def forest(panels: Sequence[tuple[str, Sequence[Mark]]], label: str, theme: Theme = LIGHT) -> bytes:
    """Draw a panel a title, side by side: a value and its interval a line, from the top down, and a rule at 0.

    The panels share their lines. Returns SVG bytes, or b"" if there is no line.
    """
    names = list(dict.fromkeys(mark.name for _, marks in panels for mark in marks))
    if not names:
        return b""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    size = (1.5 + 2.3 * len(panels), 0.9 + 0.26 * len(names))
    figure = Figure(figsize=size, layout="constrained", facecolor=theme.paper)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (title, marks) in zip(axes, panels, strict=True):
        style(ax, title, theme, "x", 8)
        ax.axvline(0, color=theme.ink, linewidth=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        for mark in marks:
            place, colour = names.index(mark.name), theme.loss if mark.sure else theme.logged
            ax.plot([mark.low, mark.high], [place, place], color=colour, linewidth=1.5)
            ax.plot(mark.value, place, "o", color=colour, markersize=4.5, fillstyle="full" if mark.sure else "none")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(label, color=theme.ink, fontsize=8)
    return svg(figure)


@dataclass(frozen=True)
class Curve:
    """What a model loses as content is hidden: a mark at each share, in per cent, the first without an interval."""

    model: str
    hidden: str
    points: Sequence[tuple[float, Mark]]


def missing_curves(panels: Sequence[tuple[str, Sequence[Curve]]], label: str, theme: Theme = LIGHT) -> bytes:
    """Draw a panel a title, side by side: a line for each model (its dashes) and what is hidden (its colour).

    Marks are filled where they are sure; lines are set apart a little, so that no interval hides another. Returns SVG
    bytes, or b"" if there is no line.
    """
    drawn = [curve for _, curves in panels for curve in curves]
    if not drawn:
        return b""
    from matplotlib.figure import Figure

    models, hidden = (list(dict.fromkeys(names)) for names in zip(*((c.model, c.hidden) for c in drawn), strict=True))
    figure = Figure(figsize=(1.8 + 3.4 * len(panels), 3.4), layout="constrained", facecolor=theme.paper)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, curves) in zip(axes, panels, strict=True):
        style(ax, title, theme, "y")
        for place, curve in enumerate(curves):
            colour = LINES[hidden.index(curve.hidden) % len(LINES)]
            dash = DASHES[models.index(curve.model) % len(DASHES)]
            _curve(ax, curve, 0.8 * (place - (len(curves) - 1) / 2), colour, dash)
    axes[-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8, labelcolor=theme.ink)
    figure.supxlabel(label, color=theme.ink, fontsize=8)
    return svg(figure)


def _curve(ax: Any, curve: Curve, aside: float, colour: str, dash: Any) -> None:
    xs = [x + aside for x, _ in curve.points]
    values = [mark.value for _, mark in curve.points]
    ax.plot(xs, values, color=colour, linestyle=dash, linewidth=1.4, label=f"{curve.model}: {curve.hidden}")
    for x, (_, mark) in zip(xs, curve.points, strict=True):
        ax.plot([x, x], [mark.low, mark.high], color=colour, linewidth=1)
        ax.plot(x, mark.value, "o", color=colour, markersize=4.5, fillstyle="full" if mark.sure else "none")


def style(ax: Any, title: str, theme: Theme, grid: str, label_size: float = 7.5) -> None:
    """Give a panel its title and colours, and lines across the `grid` axis, x or y, in place of a frame."""
    ax.set_facecolor(theme.paper)
    ax.set_title(title, loc="left", color=theme.ink, fontsize=9.5, fontweight="bold")
    ax.tick_params(colors=theme.ink, labelsize=label_size, length=0)
    ax.grid(axis=grid, color=theme.faint, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[:].set_visible(False)


def svg(figure: Any) -> bytes:
    """Return the figure as SVG; equal figures give equal bytes."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "gtcrec"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
