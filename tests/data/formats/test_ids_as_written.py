"""Ids come in as they were written: distinct ones stay distinct, and each format gives the same text."""

import json
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gtcrec.data import load
from gtcrec.data.build.pipeline import BuildConfig, build
from gtcrec.errors import DataError

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
NUMBERS = (
    st.integers(-(10**40), 10**40)
    | st.floats(-1e200, 1e200)
    | st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=25)
)


def as_json(value: Any) -> str:
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


def users_of(folder: Path, values: list[str]) -> list[str]:
    """Return the ids of users that JSON values become, by `load`, after making sure that `build` gives the same."""
    (folder / "interactions.jsonl").write_text("".join(f'{{"user": {one}, "item": "a"}}\n' for one in values))
    (folder / "items.csv").write_text("item\na\n")
    loaded = load(folder / "interactions.jsonl").users.ids.tolist()
    build(folder / "items.csv", folder / "interactions.jsonl", folder / "out", BuildConfig(core=0))
    assert load(folder / "out").users.ids.tolist() == loaded
    return list(map(str, loaded))


@settings(deadline=None, max_examples=40)
@given(st.lists(WORDS | NUMBERS, min_size=1, max_size=8))
def test_distinct_json_values_are_distinct_ids(values: list[Any]) -> None:
    distinct = {Decimal(repr(one)) if isinstance(one, float) else one for one in values if not isinstance(one, str)}
    words = {one for one in values if isinstance(one, str)}
    with TemporaryDirectory() as folder:
        found = users_of(Path(folder), [as_json(one) for one in values])
    numbers = [one for one in found if one not in words]
    assert words <= set(found)
    assert len(numbers) >= len(distinct) - len(words)  # a number may be written as a text is
    for one in numbers:
        assert Decimal(one) in distinct


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (["0.1234567890123456789", "0.12345678901234567"], ["0.12345678901234567", "0.1234567890123456789"]),
        (["1e400", "1e401", "1e-400"], ["1E+400", "1E+401", "1E-400"]),
        (["9007199254740993.0", "9007199254740992.0"], ["9007199254740992", "9007199254740993"]),
        (["12.0", "12", "1.2e1"], ["12"]),
    ],
)
def test_digits_that_a_float_does_not_hold_are_kept(tmp_path: Path, values: list[str], ids: list[str]) -> None:
    assert users_of(tmp_path, values) == ids


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"user": "a", "user": "b", "item": "i"}', "the key 'user' stands twice in one object"),
        ('{"user": 1e99999999999999999999, "item": "i"}', "no number is so large or so small: 1e99999999999999999999"),
        ('{"user": ' + "9" * 5000 + ', "item": "i"}', "Exceeds the limit"),
    ],
)
def test_a_json_line_whose_id_would_change_is_refused(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "interactions.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match="line 1") as caught:
        load(tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        (pa.array(np.array([2.0**60, 2.0**60 + 256, 1.5])), ["1.5", "1152921504606847000", "1152921504606847200"]),
        (pa.array([1e22, 1e23]), ["10000000000000000000000", "1" + "0" * 23]),
        (pa.array([Decimal("12.00"), Decimal("12.50")]), ["12", "12.50"]),
        (pa.array(["007", "é"], pa.string_view()), ["007", "é"]),
        (pa.array([7, 8], pa.uint64()), ["7", "8"]),
        (pa.array(np.array([1, 2], np.float16)), ["1", "2"]),
    ],
)
def test_ids_of_typed_columns_are_written_in_full(tmp_path: Path, column: Any, ids: list[str]) -> None:
    items = pa.array(["a"] * len(column))
    pq.write_table(pa.table({"user": column, "item": items}), tmp_path / "interactions.parquet")
    assert sorted(map(str, load(tmp_path).users.ids.tolist())) == sorted(ids)
