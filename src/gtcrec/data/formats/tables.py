"""The reader of tables: text, JSON lines and Parquet, whole or in batches; text and JSON also packed by gzip.

Every table that gtcrec reads comes through `TableFile`; `columns` makes ids, numbers, times and labels of it.
"""

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from gtcrec.data.formats.json_values import json_cell, parse_exact_json
from gtcrec.errors import DataError

__all__ = [
    "ENDS",
    "FORMATS",
    "Table",
    "TableFile",
    "bounded_lines",
    "csv_reader",
    "find_table",
    "open_bytes",
    "open_table",
    "read_table",
    "refuse_repeated_names",
]

FORMATS = ("csv", "tsv", "jsonl", "parquet")
ENDS = (*(f".{kind}" for kind in FORMATS), *(f".{kind}.gz" for kind in FORMATS[:-1]))
_BLOCK = 1 << 25  # bytes of text read at a time; a record must fit into one block
_DAMAGE = (csv.Error, EOFError, OSError, ValueError, zlib.error, MemoryError)
_LONGEST = 1 << 25  # characters of a line
_ROWS = 1 << 20  # of Parquet read at a time
_NAMING_LINES = 1000  # JSON lines of which the first ones name the columns


@dataclass(frozen=True)
class TableFile:
    """A table on disk: the names of its columns are known, its rows come in batches."""

    path: Path
    kind: str
    names: tuple[str, ...] = ()
    separator: str = ""  # of text formats
    encoding: str = "utf-8-sig"
    can_choose_encoding: bool = False  # whether the user may name another one
    errors: str = "strict"  # what becomes of bytes that are not in the encoding, in JSON lines

    @property
    def is_text(self) -> bool:
        """True where a header line names the columns (CSV, TSV, .inter)."""
        return self.separator != ""

    def batches(
        self, names: Iterable[str] | None = None, rows: int = _ROWS, joins: Mapping[str, str] | None = None
    ) -> Iterator["Table"]:
        """Yield the named columns (None: all), at most about `rows` rows of Parquet or a block of text at a time.

        Columns of Parquet keep their types; cells of text formats and of JSON are text. The keys of `joins` are
        columns of JSON that may hold lists: all their cells are lists, text is split at the key's value. Raises
        `DataError` for damage, rows of another width, bytes that are no text, and other cells that hold lists.
        """
        chosen, first = list(dict.fromkeys(self.names if names is None else filter(None, names))), 0
        with self._named_errors():
            for columns in self._read_batches(chosen, rows, joins or {}):
                batch = Table(self, pa.table(dict(zip(chosen, columns, strict=True))), first)
                first += len(batch)
                if len(batch):
                    yield batch

    def read(self, names: Iterable[str] | None = None, joins: Mapping[str, str] | None = None) -> "Table":
        """Return all rows at once, as `batches` does; raises `DataError` also for a table without rows."""
        parts = [batch.columns for batch in self.batches(names, joins=joins)]
        if not parts:
            raise DataError(f"{self.path}: has a header but no rows")
        return Table(self, pa.concat_tables(parts))

    def place(self, row: int) -> str:
        """Return where row `row` (from 0) stands, such as "line 12 of x.inter"."""
        if self.kind == "parquet":
            return f"row {row + 1} of {self.path.name}"
        lines = (line for line, _ in self.records()) if self.is_text else self._filled_lines()
        for line in islice(lines, row + self.is_text, None):  # after the header
            return f"line {line} of {self.path.name}"
        return f"record {row + 1} of {self.path.name}"

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the first line and the cells of each record of text, blank lines left out, as Arrow reads them."""
        with self._open_text("replace", "") as stream:
            reader, before = csv_reader(bounded_lines(stream), self.separator), 0
            with suppress(*_DAMAGE):  # a cell too long for this reader: the place stays unknown
                for cells in reader:
                    if cells:
                        yield before + 1, cells
                    before = reader.line_num

    @contextmanager
    def _open_text(self, errors: str, newline: str) -> Iterator[IO[str]]:
        with open_bytes(self.path) as raw, io.TextIOWrapper(raw, self.encoding, errors, newline) as stream:
            yield stream

    def _filled_lines(self) -> Iterator[int]:
        with open_bytes(self.path) as stream:
            yield from (number for number, text in enumerate(bounded_lines(stream), 1) if text.strip())

    def _read_names(self) -> list[str]:
        if self.kind == "parquet":
            with pa.parquet.ParquetFile(self.path) as file:
                return list(file.schema_arrow.names)
        if self.is_text:
            with self._open_text("strict", "") as stream:
                for cells in csv_reader(bounded_lines(stream), self.separator):
                    if cells:
                        return list(cells)
            raise DataError(f"{self.path}: the file is empty")
        found: dict[str, None] = {}
        for _, record in islice(self._json_records(), _NAMING_LINES):
            found.update(dict.fromkeys(record))
        return list(found)

    def _read_batches(self, names: list[str], rows: int, joins: Mapping[str, str]) -> Iterator[Sequence[Any]]:
        if self.kind == "parquet":
            with pa.parquet.ParquetFile(self.path, pre_buffer=False) as file:
                for batch in file.iter_batches(rows, columns=names, use_threads=False):
                    yield [batch.column(name) for name in names]
        elif self.is_text:
            yield from self._text_batches(names)
        else:
            yield from self._json_batches(names, joins)

    def _text_batches(self, names: list[str]) -> Iterator[list[Any]]:
        quoted = self.separator == ","
        with open_bytes(self.path) as raw:
            reader = pa.csv.open_csv(
                pa.PythonFile(raw, mode="r") if self.path.suffix == ".gz" else self.path,
                read_options=pa.csv.ReadOptions(
                    block_size=_BLOCK,
                    encoding="utf8" if self.encoding == "utf-8-sig" else self.encoding,
                    use_threads=False,
                ),
                parse_options=pa.csv.ParseOptions(
                    delimiter=self.separator, quote_char='"' if quoted else False, newlines_in_values=quoted
                ),
                # Cells stay text: inferred types would turn the id "007" into 7.
                convert_options=pa.csv.ConvertOptions(
                    column_types={name: pa.string() for name in self.names}, include_columns=names
                ),
            )
            for batch in reader:
                yield batch.columns

    def _json_batches(self, names: list[str], joins: Mapping[str, str]) -> Iterator[list[Any]]:
        cells: dict[str, list[Any]] = {name: [] for name in names}
        size = 0
        for line, record in self._json_records():
            for name in names:
                try:
                    cell = json_cell(record.get(name), joins.get(name))
                except ValueError as error:
                    raise DataError(f"{self.path}: {name} in line {line} {error}") from error
                cells[name].append(cell)
                size += 16 + len(cell or "")
            if size > _BLOCK:
                yield [_json_column(column, name in joins) for name, column in cells.items()]
                cells, size = {name: [] for name in names}, 0
        yield [_json_column(column, name in joins) for name, column in cells.items()]

    def _json_records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with self._open_text(self.errors, "\n") as stream:
            for line, text in enumerate(bounded_lines(stream), 1):
                if not text.strip():
                    continue
                try:
                    value = parse_exact_json(text)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{self.path}: line {line} is not JSON: {error}") from error
                if not isinstance(value, dict):
                    raise DataError(f"{self.path}: line {line} must hold an object, found {type(value).__name__}")
                yield line, value

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turn what the readers raise into errors that name the place."""
        try:
            yield
        except (pa.ArrowException, *_DAMAGE) as error:
            self._refuse_wrong_byte(error)
            if self.is_text and isinstance(error, pa.ArrowException):
                for line, cells in self.records():
                    if len(cells) != len(self.names):
                        found = f"line {line} has {len(cells)} fields, the header has {len(self.names)}"
                        raise DataError(f"{self.path}: {found}") from error
            hint = f"; a record must fit into {_BLOCK >> 20} MiB" if "straddling" in str(error) else ""
            raise DataError(f"{self.path}: cannot be read: {error}{hint}") from error

    def _refuse_wrong_byte(self, error: Exception) -> None:
        found = None if self.kind == "parquet" else _find_wrong_byte(self.path, self.encoding)
        if not found:
            return
        line, value = found
        known = self.encoding.removesuffix("-sig")
        said = f"line {line} holds byte 0x{value:02x}, which is not {known.upper()}"
        if not self.can_choose_encoding:
            raise DataError(f"{self.path}: cannot be read: {said}; save the file as UTF-8") from error
        other = "utf-16" if value in (0xFE, 0xFF) and line == 1 else "latin-1" if known == "utf-8" else "utf-8"
        hint = f"if the file has another encoding, name it, such as --encoding {other}"
        raise DataError(f"{self.path}: {said}; {hint}") from error


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a table as Arrow columns; `first` is where row 0 stands among the file's rows."""

    file: TableFile
    columns: Any  # pyarrow.Table
    first: int = 0

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.columns.column_names)

    def place(self, row: int) -> str:
        """Return where row `row` (from 0) of these stands, such as "line 12 of x.inter"."""
        return self.file.place(self.first + row)


def open_table(path: Path, encoding: str = "", separator: str = "", errors: str = "strict") -> TableFile:
    """Look at a .csv, .tsv, .jsonl or .parquet file, all but the last perhaps with .gz, and learn its columns.

    `separator` makes a file text, whatever its ending; quotes have a meaning in comma-separated text only. `encoding`
    is UTF-8 if not given. Raises `DataError` for a file that is missing, empty, of another kind, damaged or has one
    column name twice.
    """
    kind = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.removeprefix(".")
    if not separator and (kind not in FORMATS or (kind == "parquet" and path.suffix == ".gz")):
        listed = ", ".join(f".{one}" for one in FORMATS)
        raise DataError(f"{path}: expected {listed} (text also as .gz), found {''.join(path.suffixes[-2:])!r}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    separator, can_choose = separator or {"csv": ",", "tsv": "\t"}.get(kind, ""), encoding != ""
    if encoding.lower().replace("_", "-") in ("", "utf-8", "utf8"):
        encoding = "utf-8-sig"  # Excel puts a mark at the start
    file = TableFile(path, "text" if separator else kind, (), separator, encoding, can_choose, errors)
    with file._named_errors():
        names = file._read_names()
    refuse_repeated_names(path, names)
    return replace(file, names=tuple(names))


def refuse_repeated_names(path: Path, names: Sequence[str]) -> None:
    """Raise `DataError` for a column name that stands twice in a header."""
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: column {name!r} stands {names.count(name)} times in the header")


def read_table(path: Path, separator: str = "") -> Table:
    """Read all of a table; raises as `open_table` and `read`."""
    return open_table(path, separator=separator).read()


def find_table(folder: Path, stem: str) -> Path | None:
    """Return the one file `stem`.{csv,tsv,jsonl,parquet} of a folder, packed or not, or None.

    Raises `DataError` when there are several.
    """
    found = [file for end in ENDS if (file := folder / f"{stem}{end}").is_file()]
    if len(found) > 1:
        raise DataError(f"{folder}: expected one {stem} file, found {', '.join(file.name for file in found)}")
    return found[0] if found else None


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacked where its name ends in .gz."""
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def bounded_lines(stream: IO[Any]) -> Iterator[Any]:
    """Yield the lines of a file; raises `ValueError` for one beyond 32 MiB, which a small packed file may unfold to."""
    number = 0
    while line := stream.readline(_LONGEST + 1):
        number += 1
        if len(line) > _LONGEST:
            raise ValueError(f"line {number} is longer than {_LONGEST >> 20} MiB")
        yield line


def csv_reader(lines: Iterable[str], separator: str) -> Any:
    """Return a reader of separated text; quotes have a meaning between commas only."""
    return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE)


def _json_column(cells: list[Any], is_list: bool) -> Any:
    if is_list:
        return pa.array(cells, pa.list_(pa.string()))
    try:
        return pa.array(cells, pa.string())
    except UnicodeEncodeError:  # bytes that are no text, kept for those who can tell which row has them
        kept = [None if cell is None else cell.encode("utf-8", "surrogateescape") for cell in cells]
        return pa.array(kept, pa.binary()).view(pa.string())


def _find_wrong_byte(path: Path, encoding: str) -> tuple[int, int] | None:
    """Return the line (from 1) and the value of the first byte that the encoding does not know."""
    decoder, line = codecs.getincrementaldecoder(encoding)(), 1
    with (
        suppress(*_DAMAGE),
        open_bytes(path) as stream,
    ):  # other damage is the caller's to report
        try:
            while block := stream.read(_BLOCK):
                line += decoder.decode(block).count("\n")
            decoder.decode(b"", True)
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(encoding, errors="replace")
            return line + before.count("\n"), error.object[error.start]
    return None
