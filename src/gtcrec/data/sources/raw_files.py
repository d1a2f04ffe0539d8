"""Raw files of public data sets: read line by line, damaged lines named or counted, written as two Parquet tables."""

import csv
import json
import lzma
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet

from gtcrec.data.formats.tables import bounded_lines, csv_reader, open_bytes
from gtcrec.errors import DataError
from gtcrec.runtime.files import atomic_path, new_folder, write_json, write_manifest

__all__ = [
    "INTERACTIONS",
    "Faults",
    "RawFile",
    "RawTables",
    "batched",
    "csv_rows",
    "files_in",
    "parsed_rows",
    "text_lines",
    "write_raw",
]

INTERACTIONS = pa.schema(
    [("user_id", pa.string()), ("item_id", pa.string()), ("rating", pa.float64()), ("timestamp", pa.float64())]
)
_ROWS = 1 << 16  # of a table, held at a time
_EXAMPLES = 5
_Row = TypeVar("_Row")
# RuntimeError: an archive with a password, or packed in a way that is not known.
_DAMAGE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, lzma.LZMAError, RuntimeError, ValueError, MemoryError)


@dataclass
class Faults:
    """What is wrong with raw files: the first damaged line raises `DataError`, or with `skip` all are counted."""

    skip: bool = False
    bad_lines: int = 0
    examples: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def bad_line(self, place: str, reason: str) -> None:
        """Count a damaged line, or raise `DataError`."""
        if not self.skip:
            raise DataError(f"{place} {reason}; --skip-bad-lines leaves such lines out and counts them")
        self.bad_lines += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{place} {reason}")


@dataclass(frozen=True)
class RawFile:
    """A file, perhaps packed by gzip or inside a .zip archive."""

    path: Path
    inside: str = ""

    def __str__(self) -> str:
        return f"{self.path}/{self.inside}" if self.inside else str(self.path)

    @property
    def name(self) -> str:
        return Path(self.inside or self.path).name

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open for reading, unpacked; raises `DataError` for damage, also when it shows while reading."""
        try:
            with ExitStack() as stack:
                if self.inside:
                    yield stack.enter_context(stack.enter_context(zipfile.ZipFile(self.path)).open(self.inside))
                else:
                    yield stack.enter_context(open_bytes(self.path))
        except _DAMAGE as error:
            raise DataError(f"{self}: cannot be read: {error}") from error


@dataclass(frozen=True)
class RawTables:
    """The two tables that `build` takes, part by part; `items` gets the folder, where it may put images."""

    interactions: Iterable[pa.Table]
    items: Callable[[Path], Iterable[pa.Table]]


def files_in(source: Path) -> dict[str, RawFile]:
    """Return the files of a folder or of a .zip archive by their names, without those of folders inside a folder.

    Raises `DataError` for a source that is neither.
    """
    if source.is_dir():
        return {file.name: RawFile(file) for file in sorted(source.iterdir()) if file.is_file()}
    if not source.is_file():
        raise DataError(f"{source}: no such file or folder")
    if not zipfile.is_zipfile(source):
        raise DataError(f"{source}: expected a folder or a .zip archive")
    try:
        with zipfile.ZipFile(source) as archive:
            return {Path(name).name: RawFile(source, name) for name in archive.namelist() if not name.endswith("/")}
    except _DAMAGE as error:
        raise DataError(f"{source}: cannot be read: {error}") from error


def text_lines(file: RawFile, faults: Faults, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield number (from 1) and text of each line that is not blank, its end included."""
    with file.open() as stream:
        for number, line in enumerate(bounded_lines(stream), 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 and encoding == "utf-8" else encoding)
            except UnicodeDecodeError as error:
                faults.bad_line(f"{file}: line {number}", f"is not {encoding.upper()}: {error.reason}")
                continue
            if text.strip():
                yield number, text


def csv_rows(
    file: RawFile, faults: Faults, encoding: str = "utf-8", separator: str = ","
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the cells of each row; quotes have a meaning between commas only."""
    last = 0

    def lines() -> Iterator[str]:
        nonlocal last
        for last, text in text_lines(file, faults, encoding):  # noqa: B007
            yield text

    reader = csv_reader(lines(), separator)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.bad_line(f"{file}: line {last}", f"cannot be read: {error}")
            continue
        yield last, cells


def parsed_rows(
    file: RawFile, rows: Iterable[tuple[int, _Row]], parse: Callable[[_Row], dict[str, Any]], faults: Faults
) -> Iterator[dict[str, Any]]:
    """Yield what `parse` makes of each numbered row; one for which it raises `ValueError` is a bad line."""
    for number, row in rows:
        try:
            parsed = parse(row)
        except ValueError as error:
            faults.bad_line(f"{file}: line {number}", str(error))
            continue
        yield parsed


def batched(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield rows as tables of one schema, at least one."""
    rows = iter(rows)
    yield pa.Table.from_pylist(list(islice(rows, _ROWS)), schema=schema)
    while part := list(islice(rows, _ROWS)):
        yield pa.Table.from_pylist(part, schema=schema)


def write_raw(out: Path, tables: RawTables, about: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    """Write `interactions.parquet`, `items.parquet`, `report.json` and `manifest.json`; return the report.

    Raises `DataError` for a folder in use and tables without rows.
    """
    with new_folder(out) as folder:
        counts = {"interactions": _write_table(folder / "interactions.parquet", tables.interactions)}
        counts["items"] = _write_table(folder / "items.parquet", tables.items(folder))
        for name, count in counts.items():
            if not count:
                raise DataError(f"found no {name} in {', '.join(about['sources'])}")
        bad = {"bad lines": faults.bad_lines, "examples": faults.examples} if faults.bad_lines else {}
        report = {**about, "rows": counts, **bad, "notes": dict(faults.notes)}
        write_json(folder / "report.json", report)
        images: Sequence[str] = [f"images/{file.name}" for file in sorted(folder.glob("images/*"))]
        names = ["interactions.parquet", "items.parquet", "report.json", *images]
        write_manifest(folder, names, {"gtcrec": json.loads(json.dumps(about))})
    return report


def _write_table(path: Path, parts: Iterable[pa.Table]) -> int:
    parts = iter(parts)
    first = next(parts, None)
    if first is None:
        return 0
    count = len(first)
    with (
        atomic_path(path) as temporary,
        pa.parquet.ParquetWriter(temporary, first.schema, compression="zstd") as writer,
    ):
        writer.write_table(first)
        for part in parts:
            writer.write_table(part.cast(first.schema))
            count += len(part)
    return count
