"""What a build leaves out: how many rows, for which reason, with the first of them as examples."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gtcrec.data.formats.columns import read_times
from gtcrec.data.formats.tables import Table, TableFile
from gtcrec.errors import DataError
from gtcrec.types import Masks

__all__ = ["FilterReport", "describe_unused", "write_report"]

_EXAMPLES = 3
_LOOK = 100  # rows that say what a column holds
_EARLIEST = 3e8  # seconds, of 1979: smaller numbers are counts or ids


@dataclass
class _Reason:
    count: int = 0
    examples: list[str] = field(default_factory=list)


class FilterReport:
    """Counts by table and reason, in the order in which the reasons are looked at."""

    def __init__(self) -> None:
        self._reasons: dict[tuple[str, str], _Reason] = {}

    def add(self, table: str, reason: str, count: int) -> None:
        """Count rows, or other things that the reason names."""
        self._reasons.setdefault((table, reason), _Reason()).count += count

    def drop_invalid(
        self, table: str, reason: str, valid: Masks, invalid: Masks, example: Callable[[int], str]
    ) -> Masks:
        """Count the valid rows of a batch that fail a check; return which stay valid. `example` describes a row."""
        hit = np.flatnonzero(valid & invalid)
        self.add(table, reason, len(hit))
        examples = self._reasons[table, reason].examples
        examples += [example(row) for row in hit[: _EXAMPLES - len(examples)].tolist()]
        return valid & ~invalid

    def found(self, table: str, reason: str) -> tuple[int, list[str]]:
        """Return the count of a reason and its examples."""
        one = self._reasons.get((table, reason), _Reason())
        return one.count, one.examples

    def __str__(self) -> str:
        """The counts in one line, for an error."""
        shown = [
            f"{one.count:,} {reason}" + (f" (such as {one.examples[0]})" if one.examples else "")
            for (_, reason), one in self._reasons.items()
            if one.count
        ]
        return ", ".join(shown)

    def facts(self) -> list[dict[str, Any]]:
        """The counts as JSON holds them."""
        return [
            {"table": table, "reason": reason, "count": one.count, "examples": one.examples}
            for (table, reason), one in self._reasons.items()
            if one.count
        ]


def describe_unused(source: TableFile, used: Iterable[str], role: str = "") -> list[str]:
    """Return the columns of a table that are not used; with `role` "time" those that hold times say so."""
    unused = [name for name in source.names if name not in set(used)]
    hints = [name for name in unused if role and _holds_times(source, name)]
    return [f"{name} (holds times? then set {role}={name})" if name in hints else name for name in unused]


def _holds_times(source: TableFile, name: str) -> bool:
    try:
        part = next(source.batches([name], _LOOK), None)
        if part is None:
            return False
        times = read_times(Table(source, part.columns.slice(0, _LOOK)), name, blanks=True)
    except DataError:
        return False
    known = times[~np.isnan(times)]
    return bool(len(known)) and bool((np.abs(known) >= _EARLIEST).all())


def _shown(name: str) -> str:
    return name.replace("|", r"\|").replace("\n", " ")


def write_report(facts: Mapping[str, Any]) -> str:
    """Return the report of a build as Markdown."""
    lines = ["# What was built", "", "| | read | kept |", "|---|---:|---:|"]
    lines += [f"| {name} | {facts['read'].get(name, 0):,} | {facts['kept'][name]:,} |" for name in facts["read"]]
    lines += [f"| {name} | | {count:,} |" for name, count in facts["kept"].items() if name not in facts["read"]]
    if appended := facts.get("appended"):
        lines += ["", "## What was appended", "", "| | |", "|---|---:|"]
        lines += [f"| {name} | {count:,} |" for name, count in appended.items()]
    lines += ["", "## What was left out", ""]
    unused = [
        f"Columns of the {table} that no setting names: {', '.join(map(_shown, columns))}."
        for table, columns in facts.get("unused", {}).items()
        if columns
    ]
    lines += [*unused, ""] if unused else []
    if not facts["dropped"]:
        return "\n".join([*lines, "No row." if unused else "Nothing.", ""])
    lines += ["| table | reason | count | examples |", "|---|---|---:|---|"]
    for one in facts["dropped"]:
        examples = "; ".join(one["examples"]).replace("|", r"\|")
        lines.append(f"| {one['table']} | {one['reason']} | {one['count']:,} | {examples} |")
    return "\n".join([*lines, ""])
