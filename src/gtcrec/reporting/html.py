"""The page of a run: reads the files of a run folder and writes plots and one self-contained HTML file.

`render` makes the report of one run, `render_comparison` the table of several. Both only read what a run
has written; they compute no metric.
"""

import base64
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from gtcrec.errors import RunError
from gtcrec.evaluation.comparison import PairedDifference
from gtcrec.evaluation.metrics import cut_of, headline_cut
from gtcrec.reporting import figures
from gtcrec.reporting.run_comparison import common_means, mark, part_of
from gtcrec.reporting.run_record import Evaluation, ExampleItem, ExampleUser, RunRecord, TimingLine, read
from gtcrec.runtime.files import atomic_path, write_text

__all__ = ["data_address", "page", "pivot", "render", "render_comparison"]

MAX_IMAGE_BYTES = 1 << 20
SHOWN_USERS = 4
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


def render(folder: Path, others: Sequence[tuple[str, Path]] = (), comparisons: Sequence[PairedDifference] = ()) -> Path:
    """Write `curves.png`, `losses.png` and `report.html` into a run folder and return the path of the page.

    `others` are runs (name, folder) to stand beside this one, `comparisons` paired tests of them against it.
    Raises `RunError` naming the file that is missing or damaged.
    """
    record = read(folder)
    runs = [(record.result.model, record), *((name, read(path)) for name, path in others)]
    lines = [line.model_dump() for line in record.history]
    text = page(
        "report.html",
        record=record,
        trained=any(line.losses for line in record.history),
        part=record.part,
        result=record.result,
        size=_size(record.data.counts),
        content=_content(record.data.counts),
        about=dict(_flat(record.final.about)),
        table=pivot(record.final),
        lists=list(dict.fromkeys(map(_family, record.final.lists))),
        headline=_headline(record),
        slices=_slices(record.final),
        comparison=_families(runs, comparisons) if others else [],
        base=record.result.model,
        tested=_tested(comparisons),
        users=[_example(user, folder) for user in record.examples.users[:SHOWN_USERS]],
        plots=figures.available(),
        curves=_plot(folder / "curves.png", figures.curves, lines),
        losses=_plot(folder / "losses.png", figures.losses, lines),
        counts=dict(_flat(record.data.counts)),
        config=_sections(record.config),
        environment=dict(_flat(record.environment)),
        timings=_timings(record.timings),
    )
    write_text(folder / "report.html", text)
    return folder / "report.html"


def render_comparison(runs: Sequence[tuple[str, Path]], comparisons: Sequence[PairedDifference], out: Path) -> Path:
    """Write one page that sets several runs (name, folder) side by side, and return `out`.

    Test figures are shown if every run has them, else validation figures. Raises `RunError` when there is
    no run, or naming the file that is missing or damaged.
    """
    if not runs:
        raise RunError("a comparison needs at least one run, found none")
    records = [(name, read(folder)) for name, folder in runs]
    text = page(
        "comparison.html",
        runs=records,
        base=records[0][0],
        tested=_tested(comparisons),
        part=part_of([record for _, record in records]),
        comparison=_families(records, comparisons),
        comparisons=comparisons,
        data=list(dict.fromkeys(record.data.name for _, record in records)),
    )
    write_text(out, text)
    return out


def pivot(evaluation: Evaluation) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    """Return the cut-offs and, a metric family a row, (mean, low, high) at each; None where not measured.

    Metrics of all lists together come last and have no interval: (value, None, None).
    """
    both = {**evaluation.means, **evaluation.lists}
    cuts = sorted({cut_of(name) for name in both}, key=lambda cut: (len(cut), cut))
    families = list(dict.fromkeys(_family(name) for name in both))

    def cell(name: str) -> tuple[float, float | None, float | None] | None:
        return (both[name], *evaluation.intervals.get(name, (None, None))) if name in both else None

    return cuts, [(family, [cell(f"{family}@{cut}" if cut else family) for cut in cuts]) for family in families]


def _families(runs: Sequence[tuple[str, RunRecord]], comparisons: Sequence[PairedDifference]) -> list[dict[str, Any]]:
    """Split the table of runs by metric family: its cut-offs and its rows of cells."""
    values = common_means(runs)
    shared = list(values[0][1])
    tables = []
    for family in dict.fromkeys(_family(metric) for metric in shared):
        metrics = [metric for metric in shared if _family(metric) == family]
        rows = mark(values, metrics, comparisons)
        tables.append({"family": family, "cuts": [cut_of(metric) for metric in metrics], "rows": rows})
    return tables


def _tested(comparisons: Sequence[PairedDifference]) -> list[str]:
    return list(dict.fromkeys(test.metric for test in comparisons))


def _family(metric: str) -> str:
    return metric.partition("@")[0]


def _headline(record: RunRecord) -> list[tuple[str, float, tuple[float, float] | None]]:
    means = record.final.means
    cut = headline_cut(list(means))
    names = [name for name in (f"recall@{cut}", f"ndcg@{cut}") if name in means] or list(means)[:2]
    return [(name, means[name], record.final.intervals.get(name)) for name in names]


def _slices(evaluation: Evaluation) -> tuple[list[str], list[tuple[str, list[int | float | None]]]]:
    """Return the columns of the slices table (counts and the headline cut-off) and its rows."""
    names = list(dict.fromkeys(name for group in evaluation.slices.values() for name in group))
    cut = headline_cut(names)
    columns = [name for name in names if "@" not in name or cut_of(name) == cut]
    columns.sort(key=lambda name: "@" in name)
    return columns, [(name, [group.get(c) for c in columns]) for name, group in evaluation.slices.items()]


def _size(counts: Mapping[str, Any]) -> list[Any]:
    """Return the numbers of users, items and interactions, or nothing if one is not among the counts."""
    names = ("users", "items", "interactions")
    return [counts[name] for name in names] if all(name in counts for name in names) else []


def _content(counts: Mapping[str, Any]) -> list[str]:
    modalities = counts.get("modalities", {})
    return sorted(modalities) if isinstance(modalities, (dict, list)) else []


def _timings(timings: Sequence[TimingLine]) -> list[tuple[str, float | None, float | None]]:
    """Return rows (what, median seconds, total seconds) over the epochs; evaluation where it took place."""
    rows = []
    for label, key in (
        ("Training, wall clock", "train_seconds"),
        ("Training, CPU", "train_cpu_seconds"),
        ("Validation, wall clock", "eval_seconds"),
        ("Validation, CPU", "eval_cpu_seconds"),
    ):
        values = [value for line in timings if (value := getattr(line, key)) is not None]
        if values:
            rows.append((label, statistics.median(values), sum(values)))
    return rows


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a nested mapping with dotted keys."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def _sections(config: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Group a configuration: its plain values first, then a table for each nested part."""
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    nested = [(key, dict(_flat(value))) for key, value in config.items() if isinstance(value, Mapping) and value]
    return [("run", plain), *nested] if plain else nested


def _example(user: ExampleUser, folder: Path) -> dict[str, Any]:
    def card(item: ExampleItem) -> dict[str, Any]:
        picture = _picture(folder / item.image) if item.image else None
        return {**item.model_dump(), "title": item.title or str(item.item), "picture": picture}

    return {
        "user": user.user,
        "liked": [card(item) for item in user.liked],
        "recommended": [card(item) for item in user.recommended],
        "hits": sum(item.hit for item in user.recommended),
    }


def _picture(path: Path) -> Markup | None:
    """Return an image as a data address, or None if it has gone, is over 1 MiB, or is no PNG, JPEG or GIF."""
    if not path.is_file() or path.stat().st_size > MAX_IMAGE_BYTES:
        return None
    content = path.read_bytes()
    kind = next((kind for start, kind in SIGNATURES.items() if content.startswith(start)), None)
    return data_address(content, kind) if kind else None


def data_address(content: bytes, kind: str = "image/png") -> Markup:
    """Return the address of an image that holds the image itself."""
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")  # base64 needs no escape


def _plot(path: Path, draw: Any, history: list[dict[str, Any]]) -> tuple[Markup, Markup] | None:
    """Write a plot to `path`; return it as data addresses for light and dark, or None if nothing to draw."""
    light: bytes = draw(history, figures.LIGHT) if figures.available() else b""
    if not light:
        return None
    with atomic_path(path) as temporary:
        temporary.write_bytes(light)
    return data_address(light), data_address(draw(history, figures.DARK))


def _show(value: Any) -> str:
    """Return a setting as a table shows it, in YAML's words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return ", ".join(map(_show, value)) if isinstance(value, (list, tuple)) else str(value)


def _count(value: Any) -> str:
    """Return a count with its thousands grouped; other values as they are."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _show(value)


def page(template: str, **values: Any) -> str:
    """Return a template of this package, filled in."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    folder = resources.files("gtcrec").joinpath("templates")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(show=_show, count=_count, four=lambda value: f"{value:.4f}")
    return environment
