"""Pages of runs: reads the files of run folders and writes plots and self-contained HTML files.

`write_run_report` makes the page of one run, `write_comparison_page` that of several. Both only read what a run has
written; they compute no metric.
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
from gtcrec.evaluation.metrics import cut_of, headline_cut, kind_of
from gtcrec.reporting import figures
from gtcrec.reporting.run_comparison import (
    annotate_ranks,
    comparable_part,
    evaluation_table,
    shared_means,
    tests_table,
    unfinished_runs,
)
from gtcrec.reporting.run_record import (
    EvaluationRecord,
    ExampleItem,
    ExampleUser,
    RunRecord,
    TimingLine,
    read_run_record,
)
from gtcrec.reporting.tables import Cell, Table
from gtcrec.runtime.files import atomic_path, write_text

__all__ = ["data_uri", "fill_template", "image_uri", "write_comparison_page", "write_run_report"]

MAX_IMAGE_BYTES = 1 << 20
SHOWN_USERS = 4
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


def write_run_report(
    folder: Path,
    others: Sequence[tuple[str, Path]] = (),
    comparisons: Sequence[PairedDifference] = (),
    staged: Path | None = None,
) -> Path:
    """Write `curves.png`, `losses.png` and `report.html` into a run folder and return the path of the page.

    `others` are runs (name, folder) to stand beside this one, `comparisons` paired tests of them against it. With
    `staged` the run's files are read from there and the page is written there; images are found from `folder`.
    Raises `RunError` naming the file that is missing or damaged.
    """
    target = staged or folder
    record = read_run_record(target)
    runs = [(record.result.model, record), *((name, read_run_record(path)) for name, path in others)]
    lines = [line.model_dump() for line in record.history]
    text = fill_template(
        "report.html",
        record=record,
        trained=any(line.losses for line in record.history),
        context=dict(_flatten(record.final.context.to_dict())),
        metrics=evaluation_table(record.final),
        lists=list(dict.fromkeys(map(kind_of, record.final.lists))),
        headline=_headline_metrics(record),
        slices=_slices_table(record.final),
        comparison=_tables_by_kind(runs, comparisons) if others else [],
        base=record.result.model,
        comparisons=comparisons,
        users=[_example_cards(user, folder) for user in record.examples.users[:SHOWN_USERS]],
        plots=figures.available(),
        curves=_write_plot(target / "curves.png", figures.curves, lines),
        losses=_write_plot(target / "losses.png", figures.losses, lines),
        counts=dict(_flatten(record.data.counts)),
        config=_config_sections(record.config),
        environment=dict(_flatten(record.environment)),
        timings=_timings_table(record.timings),
    )
    write_text(target / "report.html", text)
    return target / "report.html"


def write_comparison_page(runs: Sequence[tuple[str, Path]], comparisons: Sequence[PairedDifference], out: Path) -> Path:
    """Write one page that sets several runs (name, folder) side by side, and return `out`.

    Test figures are shown if every run has them, else validation figures. Raises `RunError` when there is
    no run, or naming the file that is missing or damaged.
    """
    if not runs:
        raise RunError("a comparison needs at least one run, found none")
    records = [(name, read_run_record(folder)) for name, folder in runs]
    text = fill_template(
        "comparison.html",
        records=records,
        base=records[0][0],
        comparisons=comparisons,
        part=comparable_part([record for _, record in records]),
        comparison=_tables_by_kind(records, comparisons),
        tests=tests_table(comparisons),
        runs=_runs_table(records),
        data=list(dict.fromkeys(record.data.name for _, record in records)),
        unfinished=unfinished_runs(records),
    )
    write_text(out, text)
    return out


def _tables_by_kind(runs: Sequence[tuple[str, RunRecord]], comparisons: Sequence[PairedDifference]) -> list[Table]:
    """Split the table of runs by kind of metric, with the cut-offs as columns."""
    values = shared_means(runs)
    shared = list(values[0][1])
    tables = []
    for kind in dict.fromkeys(map(kind_of, shared)):
        metrics = [metric for metric in shared if kind_of(metric) == kind]
        headers = (kind, *(f"@{cut}" if (cut := cut_of(metric)) else "" for metric in metrics))
        tables.append(Table("", "", headers, tuple(annotate_ranks(values, metrics, comparisons))))
    return tables


def _runs_table(records: Sequence[tuple[str, RunRecord]]) -> Table:
    rows = []
    for name, record in records:
        result, seconds = record.result, record.seconds_an_epoch
        best = _format_count(result.best_epoch) if record.history else "–"
        cells = (name, result.model, _format_count(result.parameters), _format_count(result.epochs), best)
        rows.append(tuple(map(Cell, (*cells, "–" if seconds is None else f"{seconds:.2f}"))))
    return Table("", "", ("run", "model", "parameters", "epochs", "best epoch", "seconds an epoch"), tuple(rows))


def _headline_metrics(record: RunRecord) -> list[tuple[str, float, tuple[float, float] | None]]:
    means = record.final.means
    cut = headline_cut(list(means))
    names = [name for name in (f"recall@{cut}", f"ndcg@{cut}") if name in means] or list(means)[:2]
    return [(name, means[name], record.final.intervals.get(name)) for name in names]


def _slices_table(evaluation: EvaluationRecord) -> Table:
    """Return the table of slices: counts, then the metrics at the headline cut-off."""
    names = list(dict.fromkeys(name for group in evaluation.slices.values() for name in group))
    cut = headline_cut(names)
    columns = [name for name in names if "@" not in name or cut_of(name) == cut]
    columns.sort(key=lambda name: "@" in name)

    def cell(value: float | None, name: str) -> Cell:
        if value is None:
            return Cell("–")
        return Cell(f"{int(value):,}" if "@" not in name and value == int(value) else f"{value:.4f}")

    rows = [(Cell(group), *(cell(means.get(c), c) for c in columns)) for group, means in evaluation.slices.items()]
    return Table("", "", ("group", *columns), tuple(rows))


def _timings_table(timings: Sequence[TimingLine]) -> Table:
    """Return median and total seconds over the epochs; evaluation where it took place."""
    rows = []
    for label, key in (
        ("Training, wall clock", "train_seconds"),
        ("Training, CPU", "train_cpu_seconds"),
        ("Validation, wall clock", "eval_seconds"),
        ("Validation, CPU", "eval_cpu_seconds"),
    ):
        values = [value for line in timings if (value := getattr(line, key)) is not None]
        if values:
            rows.append((Cell(label), Cell(f"{statistics.median(values):.2f}"), Cell(f"{sum(values):.1f}")))
    return Table("", "", ("seconds", "an epoch (median)", "in all"), tuple(rows))


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a nested mapping with dotted keys."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flatten(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def _config_sections(config: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Group a configuration: its plain values first, then a table for each nested part."""
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    nested = [(key, dict(_flatten(value))) for key, value in config.items() if isinstance(value, Mapping) and value]
    return [("run", plain), *nested] if plain else nested


def _example_cards(user: ExampleUser, folder: Path) -> dict[str, Any]:
    def card(item: ExampleItem) -> dict[str, Any]:
        picture = image_uri(folder / item.image) if item.image else None
        return {**item.model_dump(), "title": item.title or str(item.item), "picture": picture}

    return {
        "user": user.user,
        "history": [card(item) for item in user.history],
        "recommended": [card(item) for item in user.recommended],
        "hits": sum(item.hit for item in user.recommended),
    }


def image_uri(path: Path) -> Markup | None:
    """Return an image as a data address, or None if it has gone, is over 1 MiB, or is no PNG, JPEG or GIF."""
    if not path.is_file() or path.stat().st_size > MAX_IMAGE_BYTES:
        return None
    content = path.read_bytes()
    kind = next((kind for start, kind in SIGNATURES.items() if content.startswith(start)), None)
    return data_uri(content, kind) if kind else None


def data_uri(content: bytes, kind: str = "image/png") -> Markup:
    """Return the address of an image that holds the image itself."""
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")  # base64 needs no escape


def _write_plot(path: Path, draw: Any, history: list[dict[str, Any]]) -> tuple[Markup, ...] | None:
    """Write a plot to `path`; return it as data addresses, or None if nothing to draw.

    They are for light and dark, then for both at the width of a phone, where panels stand one below the other.
    """
    light: bytes = draw(history, figures.LIGHT) if figures.available() else b""
    if not light:
        return None
    with atomic_path(path) as temporary:
        temporary.write_bytes(light)
    others = [
        draw(history, figures.DARK),
        *(draw(history, theme, columns=1) for theme in (figures.LIGHT, figures.DARK)),
    ]
    return tuple(map(data_uri, (light, *others)))


def _format_setting(value: Any) -> str:
    """Return a setting as a table shows it, in YAML's words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return ", ".join(map(_format_setting, value)) if isinstance(value, (list, tuple)) else str(value)


def _format_count(value: Any) -> str:
    """Return a count with its thousands grouped; other values as they are."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _format_setting(value)


def fill_template(template: str, **values: Any) -> str:
    """Return a template of this package, filled in."""
    return _jinja_environment().get_template(template).render(values)


@cache
def _jinja_environment() -> Environment:
    folder = resources.files("gtcrec.reporting").joinpath("templates")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(show=_format_setting, count=_format_count, four=lambda value: f"{value:.4f}")
    return environment
