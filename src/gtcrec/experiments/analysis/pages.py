"""What the studies show and write: tables of variants, of modality importance, of explanations, and the files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gtcrec.experiments.analysis.ablation import BASELINE, Row
from gtcrec.experiments.analysis.explanation import Explanation, ItemExplanation, ModalityPreference, Retention
from gtcrec.experiments.analysis.modality_importance import ModalityImportance
from gtcrec.experiments.measured_run import Estimate, comparison_facts
from gtcrec.experiments.planned_run import Part
from gtcrec.reporting import figures
from gtcrec.reporting.tables import Cell, Table, markdown_lines
from gtcrec.runtime.files import atomic_path, write_json, write_text

__all__ = [
    "explanation_tables",
    "importance_tables",
    "row_facts",
    "study_page",
    "study_tables",
    "write_ablation",
    "write_figure",
]


def write_ablation(out: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> list[Path]:
    """Write the table as Markdown, its facts as JSON and, where matplotlib is installed, a plot; return their paths."""
    note = (
        f"Written by `gtcrec analyze ablation`. Measured on {about['on']}, {about['users']:,} users. Each metric: mean "
        "over users and seeds ± standard deviation over seeds; then the relative difference from "
        f"`{about['base']}`, its 95 % bootstrap interval over users, and p. It is "
        "the larger of that over users, by sign flips, and that over users and seeds, Holm over the table. Users "
        "are paired, their values averaged over the seeds that both have. \\* p < 0.05."
    )
    write_text(out / "ablation.md", study_page(f"Ablation on {about['data']}", [note], rows, about))
    write_json(out / "ablation.json", {**about, "variants": [row_facts(row) for row in rows]})
    panels = [(m, [mark for row in rows if (mark := _forest_mark(row, m))]) for m in about["metrics"]]
    label = f"relative difference from {BASELINE}, %, {about['on']}; filled: p < 0.05"
    drawn = figures.forest(panels, label) if figures.available() else b""
    return [out / "ablation.md", out / "ablation.json", *write_figure(out / "ablation.svg", drawn)]


def write_figure(path: Path, drawn: bytes) -> list[Path]:
    """Write a figure, if there is one; return its path."""
    if not drawn:
        return []
    with atomic_path(path) as temporary:
        temporary.write_bytes(drawn)
    return [path]


def study_page(title: str, paragraphs: Sequence[str], rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """Return a page with one wide table of the rows."""
    metrics = about["metrics"]
    columns = ["variant", "what it is", *(word for m in metrics for word in (m, f"{m} against {about['base']}"))]
    body = tuple(_wide_line(row, metrics) for row in rows)
    lines = markdown_lines(Table("", "", (*columns, *_COSTS), body, left=(0, 1)))
    return "\n".join([f"# {title}", "", *(line for text in paragraphs for line in (text, "")), *lines, ""])


def study_tables(rows: Sequence[Row], metrics: Sequence[str], on: Part, base: str) -> list[Table]:
    """Return a table for each metric, and one of seeds and costs; `base` names what each is compared with."""
    headers = ("variant", "mean ± sd over seeds", f"against {base}, 95 % interval", "p (Holm)")
    made = [Table(f"{m}, {on} (* p < 0.05)", "", headers, tuple(_narrow_line(row, m) for row in rows)) for m in metrics]
    costs = tuple((Cell(row.name), *_cost_cells(row)) for row in rows if row.estimates)
    return [*made, Table("costs", "", ("variant", *_COSTS), costs)]


def row_facts(row: Row) -> dict[str, Any]:
    """Return a row as plain values for JSON."""
    estimates = {m: {"mean": one.mean, "sd": one.sd, **comparison_facts(one)} for m, one in row.estimates.items()}
    return {**vars(row), "estimates": estimates}


def importance_tables(found: ModalityImportance, metrics: Sequence[str]) -> list[Table]:
    """Return the one table: a line a modality and kind, and for each metric its value and the relative loss."""
    lines: dict[tuple[str, str], list[Cell]] = {}
    for one in found.losses:
        cells = (Cell(f"{one.mean:.4f}"), _relative_cell(one.relative, one.interval, "*" if one.significant else ""))
        lines.setdefault((one.modality, one.kind), []).extend(cells)
    intact = [Cell("intact"), Cell(""), *(cell for m in metrics for cell in (Cell(f"{found.intact[m]:.4f}"), Cell("")))]
    rows = [tuple(intact), *((Cell(modality), Cell(kind), *cells) for (modality, kind), cells in lines.items())]
    headers = ("content", "replaced by", *(word for m in metrics for word in (m, "against intact")))
    title = f"validation, {found.users:,} users, 95 % interval (* Holm-corrected p < 0.05)"
    return [Table(title, "", headers, tuple(rows), (0, 1))]


def explanation_tables(found: Explanation) -> list[Table]:
    """Return a table of the items, and for each what it is liked for: liked items, parts, near items of the history."""
    rows = [
        _text_cells(str(one.item), f"{one.score:.4f}", str(one.rank), "seen" if one.seen else "", one.title)
        for one in found.items
    ]
    title = (
        f"{found.model}, user {found.user}: {found.n_seen:,} items seen in training, "
        f"ranks among {found.n_unseen:,} others"
    )
    made = [Table(title, "", ("item", "score", "rank", "", "title"), tuple(rows), (0, 3, 4))]
    for one in found.items:
        name = f"{one.item} {one.title}".rstrip()
        if one.because:
            shares = tuple(_text_cells(str(n.item), f"{n.value:+.4f}", n.title) for n in one.because)
            made.append(Table(f"{name}, because of", "", ("liked item", "adds to the score", "title"), shares, (0, 2)))
        if one.parts:
            made.append(_parts_table(one, {each.modality: each for each in found.preferences}, name))
        if one.nearest:
            near = tuple(_text_cells(str(n.item), f"{n.similarity:.4f}", n.title) for n in one.nearest)
            title = f"history items near {name}, in what the user keeps of both"
            made.append(Table(title, "", ("item", "similarity", "title"), near, (0, 2)))
    return made


def _parts_table(one: ItemExplanation, preferences: Mapping[str, ModalityPreference], name: str) -> Table:
    """A line a view: its part of the score; for a modality also the user's preference and what was retained."""
    retained = {content.modality: content for content in one.retained}
    rows = []
    for place, part in enumerate(one.parts):
        cells = [part.view, f"{part.value:+.4f}", f"{part.percent:.1f}%"]
        view = part.view.removeprefix("embedding: ")
        preference = preferences.get(view) if place else None  # the first is the identity, whatever its name
        if preference:
            content = retained.get(preference.modality)
            order = sorted(enumerate(preference.prototypes, 1), key=lambda pair: -pair[1])
            mix = ", ".join(f"{k}: {share:.0%}" for k, share in order[:3])
            both = (content.matters, content.filtered) if content else (None, None)
            cells += [f"{preference.weight:.4f}", *(text for each in both for text in _retention_texts(each)), mix]
        rows.append(_text_cells(*cells, *[""] * (9 - len(cells))))
    headers = ("view", "part", "of score", "weight", "matters", "residual", "filtered", "residual", "user's prototypes")
    return Table(f"score of {name}", "", headers, tuple(rows), (0, 8))


def _text_cells(*texts: str) -> tuple[Cell, ...]:
    return tuple(map(Cell, texts))


def _retention_texts(one: Retention | None) -> list[str]:
    return ["-", "-"] if one is None else [f"{one.along:.1%}", f"{one.residual:.1%}"]


_COSTS = ("seeds", "best epochs", "CPU-s an epoch", "parameters")


def _wide_line(row: Row, metrics: Sequence[str]) -> tuple[Cell, ...]:
    """All cells of a variant's line in the page."""
    if not row.estimates:
        return _text_cells(row.name, row.what, _why_empty(row), *[""] * (2 * len(metrics) + 3))
    cells: list[Cell] = []
    for metric in metrics:
        one = row.estimates[metric]
        p = "" if one.against is None else f", p {one.against.test.p_holm:.4f}"
        cells += [Cell(_mean_text(one)), _against_cell(one, p)]
    return (*_text_cells(row.name, row.what), *cells, *_cost_cells(row))


def _narrow_line(row: Row, metric: str) -> tuple[Cell, ...]:
    """A variant's line in the table of one metric."""
    one = row.estimates.get(metric)
    if one is None:
        return _text_cells(row.name, _why_empty(row), "", "")
    p = "" if one.against is None else f"{one.against.test.p_holm:.4f}"
    shown = Cell(p, mark="*" if one.significant else "")
    return (Cell(row.name), Cell(_mean_text(one)), Cell(_against_cell(one).text), shown)


def _why_empty(row: Row) -> str:
    return f"the same as {row.same_as}" if row.same_as else "not finished"


def _cost_cells(row: Row) -> tuple[Cell, ...]:
    """Seeds, best epochs, CPU seconds an epoch and parameters."""
    seeds = ", ".join(map(str, row.seeds))
    if row.paired != row.seeds:
        seeds += f" (paired: {', '.join(map(str, row.paired)) or 'none'})"
    best = ", ".join("-" if epoch is None else str(epoch) for epoch in row.best_epochs)
    return _text_cells(seeds, best, "-" if row.cpu_seconds is None else f"{row.cpu_seconds:.2f}", f"{row.parameters:,}")


def _mean_text(one: Estimate) -> str:
    """The mean ± its standard deviation over seeds."""
    return f"{one.mean:.4f}" + ("" if one.sd is None else f" ± {one.sd:.4f}")


def _against_cell(one: Estimate, more: str = "") -> Cell:
    relative, interval = (one.against.relative, one.against.interval) if one.against else (None, None)
    return _relative_cell(relative, interval, "*" if one.significant else "", more)


def _relative_cell(share: float | None, interval: tuple[float, float] | None, mark: str = "", more: str = "") -> Cell:
    """A relative difference and its interval in per cent; "-" without one."""
    known = share is not None and interval is not None
    text = f"{share:+.1%} [{interval[0]:+.1%}, {interval[1]:+.1%}]" if known and interval else "-"
    return Cell(text + more, mark=mark)


def _forest_mark(row: Row, metric: str) -> figures.Mark | None:
    one = row.estimates.get(metric)
    if one is None or one.against is None or one.against.relative is None or one.against.interval is None:
        return None
    low, high = one.against.interval
    return figures.Mark(row.name, 100 * one.against.relative, 100 * low, 100 * high, one.significant)
