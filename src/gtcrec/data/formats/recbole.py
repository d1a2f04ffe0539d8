"""RecBole's atomic files: tab-separated text whose header says what each column holds, such as `user_id:token`."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gtcrec.data.formats.tables import Table, TableFile, open_table, refuse_repeated_names
from gtcrec.errors import DataError

__all__ = ["find_parts", "is_atomic", "kinds_of", "read_atomic", "read_item_file"]

_PARTS = ("train", "valid", "test")
_TYPED = re.compile(r"(.+):(token|token_seq|float|float_seq)")


@dataclass(frozen=True, eq=False)
class _JoinedTable(Table):
    """The rows of several files, one after the other."""

    parts: tuple[Table, ...] = ()

    def place(self, row: int) -> str:
        ends = np.cumsum([len(part) for part in self.parts])
        k = int(np.searchsorted(ends, row, side="right"))
        return self.parts[k].place(row - int(ends[k]) + len(self.parts[k]))


def find_parts(files: list[Path]) -> Path | None:
    """Return the one `x.train.inter` of some files, None without one.

    Raises `DataError` for `x.inter` beside it and for several.
    """
    trains = [file for file in files if file.name.endswith(".train.inter")]
    if not trains:
        return None
    stem = _file_stem(trains[0])
    others = [file for file in files if file.name not in [f"{stem}.{word}.inter" for word in _PARTS]]
    if others:
        raise DataError(f"{others[0].parent}: found {others[0].name} and {trains[0].name}; name the file to read")
    return trains[0]


def is_atomic(table: TableFile) -> bool:
    """Whether each column's name says its kind."""
    return table.is_text and all(_TYPED.fullmatch(name) for name in table.names)


def kinds_of(file: TableFile) -> dict[str, str]:
    """Return the kind (token, token_seq, float, float_seq) of each column by its plain name."""
    return dict(_split_kind(file, name) for name in file.names)


def read_atomic(file: TableFile) -> Table:
    """Return an .inter file with plain column names; of `x.train.inter` also its siblings, with labels in `x_label`.

    Raises `DataError` for a sibling that is missing or has other columns, and a header that stands again.
    """
    path = file.path
    if not path.name.endswith(".train.inter"):
        return _read_plain(file)
    siblings = [path.with_name(f"{_file_stem(path)}.{word}.inter") for word in _PARTS]
    for one in siblings[1:]:
        if not one.is_file():
            raise DataError(f"{one}: no such file, though {path.name} is there; expected all three parts of a split")
    parts = [_read_plain(file), *(_read_plain(open_table(one, separator="\t")) for one in siblings[1:])]
    for part in parts[1:]:
        if part.names != parts[0].names:
            raise DataError(
                f"{part.path}: expected the columns of {path.name}, {', '.join(parts[0].names)}, "
                f"found {', '.join(part.names)}"
            )
    if "x_label" in parts[0].names:
        raise DataError(f"{path}: found a column x_label, though the file's name says the part")
    labels = np.repeat([str(label) for label in range(len(_PARTS))], [len(part) for part in parts])
    columns = pa.concat_tables([part.columns for part in parts])
    columns = columns.append_column("x_label", pa.array(labels, pa.string()))
    return _JoinedTable(file, columns, parts=tuple(parts))


def read_item_file(path: Path) -> Table | None:
    """Return the `x.item` that belongs to an .inter file, with plain column names; None without one."""
    file = path.with_name(f"{_file_stem(path)}.item")
    return _read_plain(open_table(file, separator="\t")) if file.is_file() else None


def _file_stem(path: Path) -> str:
    return path.name.removesuffix(".inter").removesuffix(".train")


def _split_kind(table: TableFile, name: str) -> tuple[str, str]:
    found = _TYPED.fullmatch(name)
    if not found:
        raise DataError(f"{table.path}: column {name!r} must say its kind, such as user_id:token, float or token_seq")
    return found[1], found[2]


def _read_plain(file: TableFile) -> Table:
    """Return all rows, the columns called without their kinds."""
    names = [_split_kind(file, name)[0] for name in file.names]
    refuse_repeated_names(file.path, names)
    table, first = file.read(), file.names[0]
    again = pc.index(table.columns[first], first).as_py()
    if again >= 0:
        raise DataError(f"the header stands again in {table.place(again)}; were files joined?")
    return Table(file, table.columns.rename_columns(names))
