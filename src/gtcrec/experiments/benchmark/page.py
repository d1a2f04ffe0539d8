"""The files of a benchmark's results: Markdown, LaTeX, and one HTML page with plots that needs nothing else."""

from collections.abc import Callable, Sequence
from pathlib import Path

from markupsafe import Markup

from gtcrec.evaluation.metrics import headline_cut
from gtcrec.experiments.benchmark import tables
from gtcrec.experiments.benchmark.plan import CUTS
from gtcrec.experiments.benchmark.results import Results, Row
from gtcrec.reporting import figures
from gtcrec.reporting.figures import DARK, LIGHT, Mark, Theme, bars, points, rank_curves
from gtcrec.reporting.html import data_uri, fill_template
from gtcrec.runtime.files import write_text

__all__ = ["html", "write_pages"]

Images = tuple[Markup, Markup]  # for light and for dark


def write_pages(out: Path, found: Sequence[Results]) -> list[Path]:
    """Write results.md, results.tex and index.html into `out`; return their paths."""
    texts = {"results.md": tables.markdown(found), "results.tex": tables.latex(found), "index.html": html(found)}
    for name, text in texts.items():
        write_text(out / name, text)
    return [out / name for name in texts]


def html(found: Sequence[Results]) -> str:
    """Return the page; without matplotlib it has no plots and says so."""
    plots = figures.available()
    sections = [
        {
            "found": one,
            "about": tables.about(one),
            "figures": _figures(one) if plots else [],
            "tables": tables.tables(one),
        }
        for one in found
    ]
    return fill_template("benchmark.html", names=[one.data for one in found], sections=sections, plots=plots)


def _figures(found: Results) -> list[tuple[Images, str]]:
    """The plots of a data set that have something to show, each with its words."""
    cut, top = headline_cut(found.metrics), tables.headline(found)[-1]
    panels = [(m, [_bar(found, row, m) for row in found.rows]) for m in found.metrics if m.endswith(f"@{cut}")]
    panels = panels or [(m, [_bar(found, row, m) for row in found.rows]) for m in found.metrics[:2]]
    curves = [(row.name, [(k, row.estimates[f"recall@{k}"].mean) for k in CUTS]) for row in found.rows]
    times = [_point(found, row, top, row.costs["total_cpu_seconds"]) for row in found.rows]
    coverage = next((name for row in found.rows for name in row.lists if name == f"coverage@{cut}"), None) or next(
        (name for row in found.rows for name in row.lists if name.startswith("coverage@")), None
    )
    covered = [_point(found, row, top, row.lists[coverage]) for row in found.rows] if coverage else []
    drawn: list[tuple[Callable[[Theme], bytes], str]] = [
        (lambda theme: bars(panels, theme), f"Means with 95 % intervals over users; {found.base} darker."),
        (lambda theme: rank_curves(curves, "recall@k", found.base, theme), "Recall by the length of the list."),
        (
            lambda theme: points(times, top, "training, CPU seconds with set-up", True, theme),
            "Accuracy against training time.",
        ),
        (lambda theme: points(covered, top, coverage or "", False, theme), "Accuracy against coverage of the items."),
    ]
    made = [(_images(draw), text) for draw, text in drawn]
    return [(images, text) for images, text in made if images]


def _images(draw: Callable[[Theme], bytes]) -> Images | None:
    light, dark = draw(LIGHT), draw(DARK)
    return (data_uri(light, "image/svg+xml"), data_uri(dark, "image/svg+xml")) if light else None


def _bar(found: Results, row: Row, metric: str) -> Mark:
    one = row.estimates[metric]
    return Mark(row.name, one.mean, one.low, one.high, row.name == found.base)


def _point(found: Results, row: Row, metric: str, x: float) -> tuple[float, Mark]:
    return x, _bar(found, row, metric)
