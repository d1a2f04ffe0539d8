"""Tables in text, JSON lines or Parquet, read whole and checked for form."""

import csv
import gzip
import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from gtcrec.errors import DataError

__all__ = ["FORMATS", "Table", "find_table", "kind_of", "open_bytes", "read_header", "read_table", "records"]

FORMATS = ("csv", "tsv", "jsonl", "parquet")
_BLOCK = 1 << 24  # bytes; a record must fit into one block


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of one file, or some of them, as Arrow columns; cells of text formats are text, exactly as written."""

    path: Path
    columns: Any  # pyarrow.Table
    separator: str = ""  # of text formats
    first: int = 0  # where row 0 stands among the file's rows
    encoding: str = "utf-8-sig"  # of text formats

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.columns.column_names)

    @property
    def is_text(self) -> bool:
        """True where a header line names the columns (CSV, TSV, .inter)."""
        return self.separator != ""

    def place(self, row: int) -> str:
        """Return where row `row` (from 0) stands, such as "line 12 of x.inter"."""
        row += self.first
        if self.is_text:
            lines: Iterator[int] = (line for line, _ in records(self.path, self.separator, self.encoding))
            wanted = row + 1  # after the header
        elif kind_of(self.path) == "jsonl":
            lines, wanted = _filled_lines(self.path), row
        else:
            return f"row {row + 1} of {self.path.name}"
        for line in islice(lines, wanted, None):
            return f"line {line} of {self.path.name}"
        return f"record {row + 1} of {self.path.name}"


def find_table(folder: Path, stem: str) -> Path | None:
    """Return the one file `stem`.{csv,tsv,jsonl,parquet} of a folder, or None.

    Raises `DataError` when there are several.
    """
    found = [file for end in FORMATS if (file := folder / f"{stem}.{end}").is_file()]
    if len(found) > 1:
        raise DataError(f"{folder}: wanted one {stem} file, found {', '.join(file.name for file in found)}")
    return found[0] if found else None


def read_table(path: Path, separator: str = "") -> Table:
    """Read a .csv, .jsonl or .parquet file, or tab-separated text (any other ending).

    `separator` overrides what the ending says. Quotes have a meaning in comma-separated text only.

    Raises `DataError` for a file that is missing, empty, without rows, ragged, damaged or has one column
    name twice.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    if not separator and path.suffix not in (".parquet", ".jsonl"):
        separator = "," if path.suffix == ".csv" else "\t"
    try:
        if separator:
            columns = _read_text(path, separator)
        elif path.suffix == ".parquet":
            columns = _read_parquet(path)
        else:
            columns = pa.json.read_json(path, read_options=pa.json.ReadOptions(block_size=_BLOCK))
    except (pa.ArrowException, csv.Error, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    _refuse_twice(path, columns.column_names)
    if columns.num_rows == 0:
        raise DataError(f"{path}: has a header but no rows")
    return Table(path, columns, separator)


def kind_of(path: Path) -> str:
    """Return the ending of a file's name without the dot, that before .gz where it is packed."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.removeprefix(".")


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacked where its name ends in .gz."""
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _refuse_twice(path: Path, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: column {name!r} stands {names.count(name)} times in the header")


def _read_parquet(path: Path) -> Any:
    with pa.parquet.ParquetFile(path) as file:
        _refuse_twice(path, file.schema_arrow.names)
        return file.read()


def _read_text(path: Path, separator: str) -> Any:
    header = read_header(path, separator)
    _refuse_twice(path, header)
    quoted = separator == ","
    try:
        return pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(block_size=_BLOCK),
            parse_options=pa.csv.ParseOptions(
                delimiter=separator, quote_char='"' if quoted else False, newlines_in_values=quoted
            ),
            # Cells stay text: inferred types would turn the id "007" into 7.
            convert_options=pa.csv.ConvertOptions(column_types={name: pa.string() for name in header}),
        )
    except pa.ArrowInvalid as error:
        for line, cells in records(path, separator):
            if len(cells) != len(header):
                raise DataError(f"{path}: line {line} has {len(cells)} fields, the header has {len(header)}") from error
        raise


def read_header(path: Path, separator: str, encoding: str = "utf-8-sig") -> list[str]:
    """Return the cells of the first line that is not blank; raises `DataError` without one."""
    with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding, newline="") as stream:
        for cells in _parse(stream, separator):
            if cells:
                return list(cells)
    raise DataError(f"{path}: the file is empty")


def records(path: Path, separator: str, encoding: str = "utf-8-sig") -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the cells of each record, blank lines left out, as Arrow reads them."""
    with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding, errors="replace", newline="") as stream:
        reader, before = _parse(stream, separator), 0
        with suppress(csv.Error):  # a cell too long for this reader: the place stays unknown
            for cells in reader:
                if cells:
                    yield before + 1, cells
                before = reader.line_num


def _filled_lines(path: Path) -> Iterator[int]:
    with open_bytes(path) as stream:
        yield from (number for number, text in enumerate(stream, 1) if text.strip())


def _parse(stream: Any, separator: str) -> Any:
    return csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE)
