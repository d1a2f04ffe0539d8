"""A report as JSON and a table, and back."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from gtcrec.errors import DataError
from gtcrec.types import Report, Vocabulary

__all__ = ["per_user_table", "report_from", "report_to_json"]


def report_to_json(report: Report) -> dict[str, Any]:
    """Return all of a report but its per-user values, in types that JSON has."""
    return {
        "users": len(report.users),
        "means": dict(report.means),
        "intervals": {name: list(interval) for name, interval in report.intervals.items()},
        "lists": dict(report.lists),
        "slices": {name: dict(means) for name, means in report.slices.items()},
        "about": dict(report.about),
    }


def per_user_table(report: Report, ids: Vocabulary) -> pa.Table:
    """Return a row per user: column `user` with external ids, then a float64 column per metric."""
    return pa.table({"user": pa.array(ids.external(report.users)), **report.per_user})


def report_from(found: Mapping[str, Any], table: pa.Table, ids: Vocabulary) -> Report:
    """Return the report that `report_to_json` and `per_user_table` were made from.

    Raises `DataError` when the two do not belong together or a part is missing.
    """
    wanted = ["user", *found.get("means", ())]
    if table.column_names != wanted or table.num_rows != found.get("users"):
        raise DataError(
            f"the report has {found.get('users')} users and the columns {wanted}, "
            f"the table {table.num_rows} users and {table.column_names}"
        )
    missing = [part for part in ("intervals", "lists", "slices", "about") if part not in found]
    if missing:
        raise DataError(f"the report lacks {', '.join(missing)}")
    per_user = {name: table[name].to_numpy() for name in table.column_names[1:]}
    intervals = {name: (low, high) for name, (low, high) in found["intervals"].items()}
    users = ids.index(table["user"].to_pylist())
    return Report(users, per_user, found["means"], intervals, found["lists"], found["slices"], found["about"])
