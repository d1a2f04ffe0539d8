"""Tables read part by part, for those that memory does not hold: text, JSON lines or Parquet, also packed by gzip."""

import codecs
import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from gtcrec.data.formats.tables import FORMATS, Table, kind_of, open_bytes, read_header, records
from gtcrec.errors import DataError

__all__ = ["Source", "open_source"]

_BLOCK = 1 << 25  # bytes read at a time; a record must fit into one block
_NAMING = 1000  # JSON lines of which the first ones name the columns


@dataclass(frozen=True)
class Source:
    """A table on disk: its columns' names are known, its rows come part by part."""

    path: Path
    kind: str
    names: tuple[str, ...]
    encoding: str
    separator: str = ""  # of text formats

    @property
    def head(self) -> Table:
        """The table without its rows, for looking up columns."""
        return self.part([pa.array([], pa.string())] * len(self.names), self.names, 0)

    def part(self, columns: Sequence[Any], names: Sequence[str], first: int) -> Table:
        """Return rows of this file as a table that knows where they stand."""
        made = pa.table(dict(zip(names, columns, strict=True)))
        return Table(self.path, made, self.separator, first, self.encoding)

    def parts(self, names: Sequence[str], rows: int, joins: Mapping[str, str] | None = None) -> Iterator[Table]:
        """Yield the named columns, at most about `rows` rows of Parquet or a block of text at a time.

        Cells of text formats and of JSON are text. Lists become text, joined by what `joins` says for the column.
        Raises `DataError` for damage, rows of another width, bytes that are no text, and lists that nothing joins.
        """
        wanted, first = list(dict.fromkeys(names)), 0
        with self._reading():
            for columns in self._read(wanted, rows, joins or {}):
                table = self.part(columns, wanted, first)
                first += len(table)
                if len(table):
                    yield table

    def _read(self, names: list[str], rows: int, joins: Mapping[str, str]) -> Iterator[Sequence[Any]]:
        if self.kind == "parquet":
            yield from _parquet(self.path, names, rows, joins)
        elif self.kind == "jsonl":
            yield from _json_lines(self.path, self.encoding, names, joins)
        else:
            yield from _text(self.path, self.encoding, self.separator, self.names, names)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn what the readers raise into errors that name the place."""
        try:
            yield
        except (pa.ArrowException, csv.Error, EOFError, OSError, ValueError) as error:
            self._refuse_encoding(error)
            if self.separator and isinstance(error, pa.ArrowException):
                for line, cells in records(self.path, self.separator, self.encoding):
                    if len(cells) != len(self.names):
                        raise DataError(
                            f"{self.path}: line {line} has {len(cells)} fields, the header has {len(self.names)}"
                        ) from error
            hint = f"; a record must fit into {_BLOCK >> 20} MiB" if "straddling" in str(error) else ""
            raise DataError(f"{self.path}: cannot be read: {error}{hint}") from error

    def _refuse_encoding(self, error: Exception) -> None:
        found = None if self.kind == "parquet" else _wrong_byte(self.path, self.encoding)
        if found:
            line, value = found
            known = self.encoding.removesuffix("-sig")
            other = "utf-16" if value in (0xFE, 0xFF) and line == 1 else "latin-1" if known == "utf-8" else "utf-8"
            raise DataError(
                f"{self.path}: line {line} holds byte 0x{value:02x}, which is not {known.upper()}; "
                f"if the file has another encoding, name it, such as --encoding {other}"
            ) from error


def open_source(path: Path, encoding: str = "utf-8") -> Source:
    """Look at a .csv, .tsv, .jsonl or .parquet file, all but the last perhaps with .gz, and learn its columns.

    Raises `DataError` for a file that is missing, empty, of another kind, damaged or has one column name twice.
    """
    kind = kind_of(path)
    if kind not in FORMATS or (kind == "parquet" and path.suffix == ".gz"):
        listed = ", ".join(f".{one}" for one in FORMATS)
        raise DataError(f"{path}: wanted {listed} (text also as .gz), found {''.join(path.suffixes[-2:])!r}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        encoding = "utf-8-sig"  # Excel puts a mark at the start
    source = Source(path, kind, (), encoding, {"csv": ",", "tsv": "\t"}.get(kind, ""))
    with source._reading():
        names = _names(source)
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: column {name!r} stands {names.count(name)} times in the header")
    return Source(path, kind, tuple(names), encoding, source.separator)


def _names(source: Source) -> list[str]:
    if source.kind == "parquet":
        with pa.parquet.ParquetFile(source.path) as file:
            return list(file.schema_arrow.names)
    if source.separator:
        return read_header(source.path, source.separator, source.encoding)
    found: dict[str, None] = {}
    for _, record in islice(_objects(source.path, source.encoding), _NAMING):
        found.update(dict.fromkeys(record))
    return list(found)


def _wrong_byte(path: Path, encoding: str) -> tuple[int, int] | None:
    """Return the line (from 1) and the value of the first byte that the encoding does not know."""
    decoder, line = codecs.getincrementaldecoder(encoding)(), 1
    with open_bytes(path) as stream:
        try:
            while block := stream.read(_BLOCK):
                line += decoder.decode(block).count("\n")
            decoder.decode(b"", True)
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(encoding, errors="replace")
            return line + before.count("\n"), error.object[error.start]
        except (UnicodeError, OSError, EOFError):  # a missing mark of utf-16; damage that the caller reports
            return None
    return None


def _text(path: Path, encoding: str, separator: str, header: Sequence[str], names: list[str]) -> Iterator[list[Any]]:
    quoted = separator == ","
    with open_bytes(path) as raw:
        reader = pa.csv.open_csv(
            pa.PythonFile(raw, mode="r") if path.suffix == ".gz" else path,
            read_options=pa.csv.ReadOptions(
                block_size=_BLOCK, encoding="utf8" if encoding == "utf-8-sig" else encoding, use_threads=False
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=separator, quote_char='"' if quoted else False, newlines_in_values=quoted
            ),
            # Cells stay text: inferred types would turn the id "007" into 7.
            convert_options=pa.csv.ConvertOptions(
                column_types={name: pa.string() for name in header}, include_columns=names
            ),
        )
        for batch in reader:
            yield batch.columns


def _parquet(path: Path, names: list[str], rows: int, joins: Mapping[str, str]) -> Iterator[list[Any]]:
    with pa.parquet.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(rows, columns=names, use_threads=False):
            columns = [_valid(path, name, batch.column(name)) for name in names]
            yield [_joined(path, name, one, joins.get(name)) for name, one in zip(names, columns, strict=True)]


def _valid(path: Path, name: str, column: Any) -> Any:
    """Return a column whose text is UTF-8: other tools write anything as text."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: column {name!r} is damaged or not UTF-8: {error}") from error
    return column


def _joined(path: Path, name: str, column: Any, glue: str | None) -> Any:
    """Return a column of lists as text; another as it is."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return column
    if glue is None or pa.types.is_nested(column.type.value_type):
        raise DataError(f"{path}: column {name!r} must hold numbers or text, found {column.type}")
    lists = pc.cast(column, pa.list_(pa.string()))
    for cell in lists.flatten().to_pylist() if glue.strip() else []:
        _refuse_glue(path, name, cell, glue)
    return pc.binary_join(_without_nulls(lists) if lists.flatten().null_count else lists, glue)


def _without_nulls(lists: Any) -> Any:
    cells = [None if one is None else [cell for cell in one if cell is not None] for one in lists.to_pylist()]
    return pa.array(cells, pa.list_(pa.string()))


def _refuse_glue(path: Path, place: str, cell: str | None, glue: str) -> None:
    if cell is not None and glue in cell:
        raise DataError(f"{path}: {place}: {cell!r} holds {glue!r}, which stands between tags; set --tag-separator")


def _json_lines(path: Path, encoding: str, names: list[str], joins: Mapping[str, str]) -> Iterator[list[Any]]:
    cells: dict[str, list[str | None]] = {name: [] for name in names}
    size, last = 0, names[-1]
    for line, record in _objects(path, encoding):
        for name in names:
            value = record.get(name)
            text = value if isinstance(value, str) else _plain(value, joins.get(name), f"{name} in line {line}", path)
            cells[name].append(text)
            size += 16 + len(text or "")
        if size > _BLOCK:
            yield [pa.array(column, pa.string()) for column in cells.values()]
            cells, size = {name: [] for name in names}, 0
    if cells[last]:
        yield [pa.array(column, pa.string()) for column in cells.values()]


def _objects(path: Path, encoding: str) -> Iterator[tuple[int, dict[str, Any]]]:
    with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding, newline="\n") as stream:
        for line, text in enumerate(stream, 1):
            if not text.strip():
                continue
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}: line {line} is not JSON: {error}") from error
            if not isinstance(value, dict):
                raise DataError(f"{path}: line {line} must hold an object, found {type(value).__name__}")
            yield line, value


def _plain(value: Any, glue: str | None, place: str, path: Path) -> str | None:
    """Return a JSON value as text, a list of plain ones joined by `glue`, None for null and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list) and glue is not None:
        cells = [_plain(one, None, place, path) for one in value]
        for cell in cells if glue.strip() else []:
            _refuse_glue(path, place, cell, glue)
        return glue.join(cell for cell in cells if cell is not None)
    found = "a list" if isinstance(value, list) else "an object"
    raise DataError(f"{path}: {place} must hold a number or text, found {found}")
