"""A model card in Markdown, written from what a run folder says; it computes nothing."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gtcrec import models
from gtcrec.reporting.run_comparison import evaluation_table, unfinished_runs
from gtcrec.reporting.run_record import RunRecord, read_run_record
from gtcrec.reporting.tables import Cell, Table, markdown_lines

__all__ = ["model_card"]

_SETTINGS = {"settings": "", "train": "", "split": "split."}  # sections with what stands before their keys


def model_card(folder: Path, license: str = "") -> str:
    """Return the model card of a finished run.

    Parameters
    ----------
    folder : path
        The run folder.
    license : str
        Under which licence the model is given away, such as "mit"; the card says that none is stated if it is "".

    Returns
    -------
    str
        Markdown with a YAML head as model hubs read it: data, training, settings, results, limits, use, licence.

    Raises
    ------
    RunError
        If the folder is no run, is damaged, or its training has not ended.

    Examples
    --------
    See `export_model`.
    """
    record = read_run_record(folder)
    parts = [
        _head(record, license),
        _about(record),
        _data(record),
        _training(record),
        _results(record),
        _limits(record),
        _use(record),
        ["## Licence", "", license or "Not stated: who publishes this model says here under which licence."],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _head(record: RunRecord, license: str) -> list[str]:
    lines = ["---", "library_name: gtcrec", f"license: {license or 'unknown'}"]
    return [*lines, "tags:", "- recommender-system", f"- {record.result.model}", "---"]


def _about(record: RunRecord) -> list[str]:
    name = record.result.model
    summary, paper = models.list_models().get(name, ""), models.get_spec(name).paper
    lines = [f"# {name} on {record.data.name}", "", f"`{name}`: {summary}." if summary else f"`{name}`."]
    return [*lines, "", f"After {paper}."] if paper else lines


def _data(record: RunRecord) -> list[str]:
    counts = record.data.counts
    sizes = ("users", "items", "interactions")
    rows: list[tuple[str, str]] = [(word, f"{counts[word]:,}") for word in sizes if word in counts]
    for name, one in counts.get("modalities", {}).items():
        rows.append((name, f"{one['width']:,} numbers an item, {one['present']:,} items have it"))
    split = counts.get("split", {})
    rows += [(f"{part} interactions", f"{split[part]:,}") for part in ("train", "valid", "test") if part in split]
    rows.append(("fingerprint", record.data.fingerprint))
    return ["## Data", "", *_table(("", record.data.name), rows)]


def _training(record: RunRecord) -> list[str]:
    result, seconds = record.result, record.seconds_an_epoch
    rows = [("parameters", f"{result.parameters:,}"), ("epochs", f"{result.epochs:,}")]
    if result.best_epoch is not None and record.history:
        rows.append(("best epoch", f"{result.best_epoch:,}"))
    rows.append(("training ended", result.stop))
    if seconds is not None:
        rows.append(("seconds an epoch", f"{seconds:.2f}"))
    versions = record.environment.get("versions", {})
    rows += [(f"version of {name}", version) for name, version in versions.items()]
    settings = [row for name, prefix in _SETTINGS.items() for row in _flatten(record.config.get(name) or {}, prefix)]
    lines = ["## Training", "", *_table(("", ""), rows), "", "### Settings", ""]
    return [*lines, *_table(("setting", "value"), settings)]


def _results(record: RunRecord) -> list[str]:
    final, part = record.final, record.part
    lines = ["## Results", "", f"On the {part} interactions of {final.users:,} users, with 95 % intervals over users."]
    return [*lines, "", *markdown_lines(evaluation_table(final))]


def _limits(record: RunRecord) -> list[str]:
    lines = []
    if record.part != "test":
        lines.append("- Measured on validation alone, by which the epoch was chosen: new data will be harder.")
    lines += [f"- {sentence}." for sentence in unfinished_runs([(record.result.model, record)])]
    lines.append("- It was trained on one catalog, and answers for its users and items.")
    lines.append("- Lists follow what people did before, popular items among it. The slices in `report.html` say how.")
    return ["## Limits", "", *lines]


def _use(record: RunRecord) -> list[str]:
    return [
        "## Use",
        "",
        "```python",
        "import gtcrec",
        "",
        f'model = gtcrec.Recommender.load("{record.folder.name}")',
        "model.recommend(model.user_ids[:1], k=10)",
        "```",
    ]


def _table(headers: Sequence[str], rows: Sequence[tuple[str, str]]) -> list[str]:
    cells = tuple((Cell(" ".join(name.split())), Cell(" ".join(value.split()))) for name, value in rows)
    return markdown_lines(Table("", "", tuple(headers), cells, left=(0, 1)))


def _flatten(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        elif value not in (None, {}, []):
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)
