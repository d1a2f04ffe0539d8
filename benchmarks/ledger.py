"""The ledger of looks at test: who looked at what and when, and which idea came of it. Pages print it.

An idea that comes from a test table makes that table a validation of the idea. So each look has a line in ledger.csv,
looks at the tables of others included.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path

from benchmarks.blocks import Block
from benchmarks.paths import LEDGER
from gtcrec.runtime.files import write_text


@dataclass(frozen=True)
class Look:
    """A look at the test pairs of a data set; `idea` is what was built after it, "" if nothing."""

    date: str
    data: str
    models: str
    looked_at: str
    idea: str = ""
    source: str = ""


def read_ledger(path: Path = LEDGER) -> list[Look]:
    """Read the looks in the order in which they were noted. Exits when a line lacks a column or a date."""
    looks = []
    lines = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if None in line or None in line.values():
            raise SystemExit(f"{path}: line {lines.line_num}: expected {', '.join(COLUMNS)}")
        if not re.fullmatch(r"\d{4}-\d\d(-\d\d)?", line["date"]):
            raise SystemExit(
                f"{path}: line {lines.line_num}: expected a date such as 2026-11-29 or 2026-11, found {line['date']!r}"
            )
        looks.append(Look(**line))
    return looks


def note_look(data: str, models: Sequence[str], looked_at: str, path: Path = LEDGER) -> None:
    """Append a look of today at the test pairs of a data set."""
    look = Look(str(date.today()), data, ", ".join(models), looked_at)
    write_ledger([*(read_ledger(path) if path.exists() else []), look], path)


def write_ledger(looks: Sequence[Look], path: Path = LEDGER) -> None:
    """Write the whole ledger."""
    text = io.StringIO()
    lines = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    lines.writeheader()
    lines.writerows(asdict(look) for look in looks)
    write_text(path, text.getvalue())


def ledger_block(looks: Sequence[Look], data: Sequence[str] = ()) -> Block:
    """Return a table of how often and when each data set's test pairs were looked at; `data`: these alone."""
    rows = []
    for name in data or dict.fromkeys(look.data for look in looks):
        own = [look for look in looks if look.data == name]
        dates = dict.fromkeys(look.date for look in own)
        times = [f"{day} ({count})" for day in dates if (count := sum(look.date == day for look in own))]
        ideas = dict.fromkeys(look.idea for look in own if look.idea)
        rows.append((name, str(len(own)), ", ".join(times) or "–", "; ".join(ideas) or "–"))
    return Block((), ("data", "looks at test", "dates", "ideas that came of them"), rows, (0, 2, 3))


COLUMNS = [field.name for field in fields(Look)]
