"""Plots of a training as PNG and of tables as SVG bytes; matplotlib is imported on the first call.

Its global state stays untouched.
"""

import importlib.util
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gtcrec.evaluation.metrics import cut_of, kind_of

__all__ = [
    "DARK",
    "LIGHT",
    "Curve",
    "Mark",
    "Theme",
    "available",
    "bars",
    "curves",
    "forest",
    "losses",
    "missing_curves",
    "points",
    "rank_curves",
]

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


def curves(history: Sequence[Mapping[str, Any]], theme: Theme = LIGHT, columns: int = COLUMNS) -> bytes:
    """Draw the validation metrics over the epochs: a panel a metric, a line a cut-off, the best epoch marked.

    `history` is `history.jsonl`; `columns` panels stand side by side. Returns PNG bytes, or b"" if fewer than two
    epochs were validated.
    """
    valid = [line for line in history if line.get("valid")]
    if len(valid) < 2:
        return b""
    names = list(dict.fromkeys(name for line in valid for name in line["valid"]))
    families = list(dict.fromkeys(kind_of(name) for name in names))
    best = max((line["epoch"] for line in valid if line.get("best")), default=None)

    def draw(ax: Any, family: str) -> None:
        members = sorted((name for name in names if kind_of(name) == family), key=_cut_number)
        shades = theme.ramp[-len(members) :] if len(members) <= len(theme.ramp) else theme.ramp[-1:] * len(members)
        for name, shade in zip(members, shades, strict=True):
            points = [(line["epoch"], line["valid"][name]) for line in valid if name in line["valid"]]
            _draw_line(ax, points, shade, theme, best)
            ax.annotate(
                f"@{_cut_number(name)}" if "@" in name else "",
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

    return _draw_panels(families, draw, theme, columns)


def losses(history: Sequence[Mapping[str, Any]], theme: Theme = LIGHT, columns: int = COLUMNS) -> bytes:
    """Draw a panel for each loss term over the epochs, then for each quantity that is only logged (`log.*`).

    `history` is `history.jsonl`; `columns` panels stand side by side. Returns PNG bytes, or b"" if there are fewer than
    two epochs.
    """
    if len(history) < 2:
        return b""
    names = list(dict.fromkeys(name for line in history for name in line["losses"]))
    names.sort(key=lambda name: name.startswith("log."))  # stable: the terms keep their order

    def draw(ax: Any, name: str) -> None:
        points = [(line["epoch"], line["losses"][name]) for line in history if name in line["losses"]]
        _draw_line(ax, points, theme.logged if name.startswith("log.") else theme.loss, theme, None)
        if name.startswith("log."):
            ax.set_title("logged, not in the loss", loc="right", color=theme.logged, fontsize=7.5)

    return _draw_panels(names, draw, theme, columns)


def _draw_panels(names: Sequence[str], draw: Callable[[Any, str], None], theme: Theme, columns: int) -> bytes:
    """Lay out one panel a name, `columns` a row, and return the PNG."""
    if not names:
        return b""
    from matplotlib.ticker import MaxNLocator

    rows = math.ceil(len(names) / columns)
    figure = _new_figure((PANEL[0] * columns, PANEL[1] * rows), theme)
    for place, name in enumerate(names):
        ax = _add_axes(figure, (rows, columns), place, name.removeprefix("log."), theme, "y")
        ax.spines["bottom"].set(visible=True, color=theme.faint)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        draw(ax, name)
        if place >= len(names) - columns:
            ax.set_xlabel("epoch", color=theme.ink, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})  # equal histories give equal bytes
    return buffer.getvalue()


def _draw_line(ax: Any, points: Sequence[tuple[int, float]], colour: str, theme: Theme, best: int | None) -> None:
    ax.plot(*zip(*points, strict=True), color=colour, linewidth=1.5)
    for point in points:
        if point[0] == best:
            ax.plot(*point, "o", color=colour, markeredgecolor=theme.paper, markersize=5)


def _cut_number(name: str) -> int:
    return int(cut_of(name) or 0)


@dataclass(frozen=True)
class Mark:
    """A value with its interval; `highlighted` where it is significant, or the one that others are tested against."""

    name: str
    value: float
    low: float
    high: float
    highlighted: bool = False


def forest(panels: Sequence[tuple[str, Sequence[Mark]]], label: str, theme: Theme = LIGHT) -> bytes:
    """Draw a panel a title, side by side: a value and its interval a line, from the top down, and a rule at 0.

    The panels share their lines. Returns SVG bytes, or b"" if there is no line.
    """
    names = list(dict.fromkeys(mark.name for _, marks in panels for mark in marks))
    if not names:
        return b""
    from matplotlib.ticker import MaxNLocator

    figure = _new_figure((1.5 + 2.3 * len(panels), 0.9 + 0.26 * len(names)), theme)
    for place, (title, marks) in enumerate(panels):
        ax = _add_axes(figure, (1, len(panels)), place, title, theme, "x")
        ax.axvline(0, color=theme.ink, linewidth=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        colours = [theme.loss if mark.highlighted else theme.logged for mark in marks]
        _draw_marks(ax, [(names.index(mark.name), mark) for mark in marks], colours, upright=False)
        ax.set_yticks(range(len(names)), names if place == 0 else [])
        ax.set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(label, color=theme.ink, fontsize=8)
    return _svg_bytes(figure)


@dataclass(frozen=True)
class Curve:
    """What a model loses as content is hidden: a mark at each share, in per cent, the first without an interval."""

    model: str
    hidden: str
    points: Sequence[tuple[float, Mark]]


def missing_curves(panels: Sequence[tuple[str, Sequence[Curve]]], label: str, theme: Theme = LIGHT) -> bytes:
    """Draw a panel a title, side by side: a line for each model (its dashes) and what is hidden (its colour).

    Marks are filled where they are highlighted; lines are set apart a little, so that no interval hides another.
    Returns SVG bytes, or b"" if there is no line.
    """
    drawn = [curve for _, curves in panels for curve in curves]
    if not drawn:
        return b""
    models, hidden = (list(dict.fromkeys(names)) for names in zip(*((c.model, c.hidden) for c in drawn), strict=True))
    figure = _new_figure((1.8 + 3.4 * len(panels), 3.4), theme)
    for number, (title, curves) in enumerate(panels):
        ax = _add_axes(figure, (1, len(panels)), number, title, theme, "y")
        for place, curve in enumerate(curves):
            colour = LINES[hidden.index(curve.hidden) % len(LINES)]
            dash = DASHES[models.index(curve.model) % len(DASHES)]
            aside = 0.8 * (place - (len(curves) - 1) / 2)
            points = [(x + aside, mark) for x, mark in curve.points]
            line = [x for x, _ in points], [mark.value for _, mark in points]
            ax.plot(*line, color=colour, linestyle=dash, linewidth=1.4, label=f"{curve.model}: {curve.hidden}")
            _draw_marks(ax, points, [colour] * len(points), upright=True)
    _add_legend(ax, theme)
    figure.supxlabel(label, color=theme.ink, fontsize=8)
    return _svg_bytes(figure)


def bars(panels: Sequence[tuple[str, Sequence[Mark]]], theme: Theme = LIGHT) -> bytes:
    """Draw a panel a metric, two a row: a horizontal bar a model from the top down, with its interval.

    Returns SVG bytes, or b"" if there is no bar.
    """
    names = list(dict.fromkeys(bar.name for _, marks in panels for bar in marks))
    if not names:
        return b""
    rows = math.ceil(len(panels) / COLUMNS)
    figure = _new_figure((7.6, rows * (0.7 + 0.2 * len(names))), theme)
    for place, (title, marks) in enumerate(panels):
        ax = _add_axes(figure, (rows, COLUMNS if len(panels) > 1 else 1), place, title, theme, "x")
        for bar in marks:
            at = names.index(bar.name)
            ax.barh(at, bar.value, height=0.66, color=theme.loss if bar.highlighted else theme.ramp[0])
            ax.plot([bar.low, bar.high], [at, at], color=theme.ink, linewidth=1.1)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_yticks(range(len(names)), names if place % COLUMNS == 0 else [])
    return _svg_bytes(figure)


def rank_curves(
    curves: Sequence[tuple[str, Sequence[tuple[int, float]]]], title: str, highlighted: str = "", theme: Theme = LIGHT
) -> bytes:
    """Draw a line a model over the cut-offs, on a logarithmic axis, with a legend in the order of the last values.

    The line of `highlighted` is thicker. Returns SVG bytes, or b"" if there is no line.
    """
    if not curves:
        return b""
    figure = _new_figure((7.6, max(3.2, 0.9 + 0.2 * len(curves))), theme)
    ax = _add_axes(figure, (1, 1), 0, title, theme, "y")
    for place in sorted(range(len(curves)), key=lambda number: -curves[number][1][-1][1]):
        name, values = curves[place]
        colour, dash = LINES[place % len(LINES)], DASHES[place // len(LINES) % len(DASHES)]
        width = 2.6 if name == highlighted else 1.3
        ax.plot(
            *zip(*values, strict=True), "o", linestyle=dash, color=colour, linewidth=width, markersize=3, label=name
        )
    cuts = sorted({k for _, values in curves for k, _ in values})
    ax.set_xscale("log")
    ax.set_xticks(cuts, [str(k) for k in cuts])
    ax.minorticks_off()
    ax.set_xlabel("k", color=theme.ink, fontsize=8)
    ax.set_ylim(bottom=0)
    _add_legend(ax, theme)
    return _svg_bytes(figure)


def points(
    marks: Sequence[tuple[float, Mark]], title: str, label: str, logarithmic: bool = False, theme: Theme = LIGHT
) -> bytes:
    """Draw each model at (x, its value) with its name and its interval; `label` is that of the x axis.

    Returns SVG bytes, or b"" if there is no model.
    """
    if not marks:
        return b""
    figure = _new_figure((7.6, 3.8), theme)
    ax = _add_axes(figure, (1, 1), 0, title, theme, "y")
    for x, mark in marks:
        colour = theme.loss if mark.highlighted else theme.logged
        ax.plot([x, x], [mark.low, mark.high], color=theme.faint, linewidth=1.2)
        ax.plot(x, mark.value, "o", color=colour, markersize=5)
        ax.annotate(mark.name, (x, mark.value), (5, 3), textcoords="offset points", color=colour, fontsize=7.5)
    if logarithmic:
        _draw_log_axis(ax, [x for x, _ in marks])
    ax.margins(x=0.12)
    ax.set_xlabel(label, color=theme.ink, fontsize=8)
    return _svg_bytes(figure)


def _draw_log_axis(ax: Any, values: Sequence[float]) -> None:
    """Make the x axis logarithmic, with plain numbers at its ticks: 10^x would be set in a font of mathematics."""
    from matplotlib.ticker import LogLocator

    narrow = max(values) < 100 * min(values)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    ax.xaxis.set_major_formatter("{x:,.10g}")
    ax.minorticks_off()


def _svg_bytes(figure: Any) -> bytes:
    """Return the figure as SVG; equal figures give equal bytes."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "gtcrec"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _new_figure(size: tuple[float, float], theme: Theme) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained", facecolor=theme.paper)


def _add_axes(figure: Any, grid: tuple[int, int], place: int, title: str, theme: Theme, rules: str) -> Any:
    """Add a panel with its title, at a place of the grid, with lines across the `rules` axis in place of a frame."""
    ax = figure.add_subplot(*grid, place + 1)
    ax.set_facecolor(theme.paper)
    ax.set_title(title, loc="left", color=theme.ink, fontsize=9.5, fontweight="bold")
    ax.tick_params(colors=theme.ink, labelsize=7.5, length=0)
    ax.grid(axis=rules, color=theme.faint, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[:].set_visible(False)
    return ax


def _draw_marks(ax: Any, marks: Sequence[tuple[float, Mark]], colours: Sequence[str], upright: bool) -> None:
    """Draw values with their intervals at places along the other axis, filled where they are highlighted."""
    for (place, mark), colour in zip(marks, colours, strict=True):
        ends, value = ([place, place], [mark.low, mark.high]), (place, mark.value)
        ax.plot(*(ends if upright else ends[::-1]), color=colour, linewidth=1.25)
        fill = "full" if mark.highlighted else "none"
        ax.plot(*(value if upright else value[::-1]), "o", color=colour, markersize=4.5, fillstyle=fill)


def _add_legend(ax: Any, theme: Theme) -> None:
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8, labelcolor=theme.ink)
