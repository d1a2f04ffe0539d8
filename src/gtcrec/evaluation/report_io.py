"""A report as JSON and a table, and back."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from gtcrec.errors import DataError
from gtcrec.types import Report, ReportContext, Vocabulary

__all__ = ["per_user_table", "report_from_json", "report_to_json"]


def report_to_json(report: Report) -> dict[str, Any]:
    """Return all of a report but its per-user values, in types that JSON has."""
    return {
        "users": len(report.users),
        "means": dict(report.means),
        "intervals": {name: list(interval) for name, interval in report.intervals.items()},
        "lists": dict(report.lists),
        "slices": {name: dict(means) for name, means in report.slices.items()},
        "about": report.context.to_dict(),
    }


def per_user_table(report: Report, ids: Vocabulary) -> pa.Table:
    """Return a row per user: column `user` with external ids, then a float64 column per metric."""
    return pa.table({"user": pa.array(ids.external(report.users)), **report.per_user})


def report_from_json(stored: Mapping[str, Any], table: pa.Table, ids: Vocabulary) -> Report:
    """Return the report that `report_to_json` and `per_user_table` were made from.

    Raises `DataError` when the two do not belong together or a part is missing.
    """
    columns = ["user", *stored.get("means", ())]
    if table.column_names != columns or table.num_rows != stored.get("users"):
        raise DataError(
            f"the report has {stored.get('users')} users and the columns {columns}, "
            f"the table {table.num_rows} users and {table.column_names}"
        )
    missing = [part for part in ("intervals", "lists", "slices", "about") if part not in stored]
    if missing:
        raise DataError(f"the report lacks {', '.join(missing)}")
    per_user = {name: table[name].to_numpy() for name in table.column_names[1:]}
    intervals = {name: (low, high) for name, (low, high) in stored["intervals"].items()}
    users = ids.index(table["user"].to_pylist())
    context = ReportContext.from_dict(stored["about"])
    return Report(users, per_user, stored["means"], intervals, stored["lists"], stored["slices"], context)
