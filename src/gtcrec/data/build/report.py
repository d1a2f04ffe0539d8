"""What a build leaves out: how many rows, for which reason, with the first of them as examples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gtcrec.types import Masks

__all__ = ["FilterReport", "write_report"]

_EXAMPLES = 3


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


def write_report(facts: Mapping[str, Any]) -> str:
    """Return the report of a build as Markdown."""
    lines = ["# What was built", "", "| | read | kept |", "|---|---:|---:|"]
    lines += [f"| {name} | {facts['read'].get(name, 0):,} | {facts['kept'][name]:,} |" for name in facts["read"]]
    lines += [f"| {name} | | {count:,} |" for name, count in facts["kept"].items() if name not in facts["read"]]
    lines += ["", "## What was left out", ""]
    if not facts["dropped"]:
        return "\n".join([*lines, "Nothing.", ""])
    lines += ["| table | reason | count | examples |", "|---|---|---:|---|"]
    for one in facts["dropped"]:
        examples = "; ".join(one["examples"]).replace("|", r"\|")
        lines.append(f"| {one['table']} | {one['reason']} | {one['count']:,} | {examples} |")
    return "\n".join([*lines, ""])
