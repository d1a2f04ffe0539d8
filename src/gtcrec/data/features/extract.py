"""Content matrices from an items table: its texts, images, files, tags or numbers, a row an item in its order."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from gtcrec.data.features.encode_batch import identify_encoder, make_encode_fn
from gtcrec.data.features.encode_config import EncodeConfig
from gtcrec.data.features.encoders import Function, load_function
from gtcrec.data.features.fitted import FittedEncoder, write_encoders
from gtcrec.data.features.inputs import Contents, read_files, read_joined
from gtcrec.data.features.numeric import number_vectors
from gtcrec.data.features.provenance import (
    Encoded,
    Known,
    earlier_matrices,
    prepare_record,
    settle_record,
    summarize_encoding,
)
from gtcrec.data.features.tags import tag_vectors
from gtcrec.data.formats.columns import find_column, require_columns
from gtcrec.data.formats.mmrec import read_dense_ids
from gtcrec.data.formats.tables import ENDS, Table, open_table
from gtcrec.errors import ConfigError, DataError, visible
from gtcrec.runtime.block_jobs import BlockResults, Executor, run_in_blocks
from gtcrec.runtime.files import atomic_path, make_matrix, sha256
from gtcrec.runtime.locks import hold_lock

__all__ = ["EncodeConfig", "Encoded", "encode"]

_END = "_feat.npy"  # of the files that the readers take for content


def encode(
    items: str | Path,
    out: str | Path,
    config: EncodeConfig,
    function: Function | None = None,
    executor: Executor | None = None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
    reuse: str | Path | None = None,
    fitted: FittedEncoder | None = None,
) -> Encoded:
    """Write `NAME_feat.npy`, a row an item in the order of the items table, and the record `NAME_feat.json`.

    A row is zero where the item has no such content or it cannot be read; the record names the latter. An equal call
    completes a killed one. Contents that `out` as it was, or `reuse`, has a row for, made by the same encoder, are not
    encoded again.

    Parameters
    ----------
    items
        The items table.
    out
        The matrix to write, a name that ends in `_feat.npy`.
    config
        Which columns are encoded, and how.
    function
        An encoder of one's own, batch -> float [b, width]; `config.encoder` is its name in the record.
    executor
        Where blocks of items are encoded; this process if None.
    on_block
        Called with the numbers of blocks done and in all.
    reuse
        Another matrix whose rows may be used.
    fitted
        The encoder of an earlier matrix. Tags and numbers are encoded as it was fitted, models must be the same.

    Returns
    -------
    Encoded
        How many rows have a vector, how many had no content, and which failed.

    Raises
    ------
    DataError
        For a table that does not fit or without any content.
    ConfigError
        For an encoder that cannot be had.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "items.csv").write_text("item_id,price\\na,1\\nb,3\\n")
    ...     config = EncodeConfig(numbers=("price",))
    ...     encoded = encode(f"{folder}/items.csv", f"{folder}/price_feat.npy", config)
    >>> encoded.present, encoded.width
    (2, 2)
    """
    out = Path(out)
    function = _check_request(config, out, function)
    table = _read_items(Path(items), config)
    _check_order(table, out)
    with hold_lock(out):
        settle_record(out)
        if config.kind in ("tags", "numbers"):
            found = _encode_whole(table, config, out, fitted)
        else:
            job = _plan_encoding(table, config, out, function, reuse)
            if fitted:
                fitted.require_same(job.about)
            found = run_in_blocks(
                job.rows(),
                config.batch,
                partial(make_encode_fn, config, job.folder, function),
                {**config.model_dump(mode="json"), "encoder": job.about},
                out,
                partial(_assemble_matrix, job),
                executor,
                on_block,
            )
        settle_record(out)
    return found


def _check_request(config: EncodeConfig, out: Path, function: Function | None) -> Function | None:
    """Return the function that is asked for, if any."""
    kind = config.kind
    if not out.name.endswith(_END) or out.name == _END:
        raise ConfigError(f"{out}: expected a name that ends in {_END}, such as text{_END}")
    if out.is_dir():
        raise ConfigError(f"{out}: expected the name of a file to write, found a folder")
    if kind in ("tags", "numbers") and (function or config.function or config.encoder):
        raise ConfigError(f"{kind} are encoded without an encoder or a function, found one")
    if kind == "file" and not (function or config.function):
        raise ConfigError("files that are not images need an encoder of your own: set `function`")
    if config.function:
        return load_function(config.function)
    if function and not config.encoder:
        raise ConfigError("a function needs a name: set `encoder`")
    return function


def _read_items(path: Path, config: EncodeConfig) -> Table:
    """Return the columns of an items table that are encoded, and that of the ids; unknown endings are taken for TSV."""
    file = open_table(path, separator="" if path.name.endswith(ENDS) else "\t", errors="surrogateescape")
    require_columns(file, config.columns)
    names = (*config.columns, find_column(file, "item", None, False))
    return file.read(names, dict.fromkeys(config.tags, config.separator))


def _check_order(table: Table, out: Path) -> None:
    """Where an .inter file numbers the items, the rows must stand in the order of these numbers."""
    numbered = sorted({*table.path.parent.glob("[!.]*.inter"), *out.parent.glob("[!.]*.inter")})
    if numbered:
        key = find_column(table, "item", None, True)
        wrong = np.flatnonzero(read_dense_ids(table, key) != np.arange(len(table)))
        for row in wrong[:1].tolist():
            raise DataError(
                f"{table.path}: {numbered[0].name} numbers the items, so rows must stand in the order of {key} from 0; "
                f"found {key} {table.columns[key][row].as_py()!r} in {table.place(row)}"
            )


@dataclass(frozen=True)
class _Job:
    """A matrix to be made: the contents of its rows, and for each distinct one its rows and where its vector is known.

    A key is the sum of the encoder and a content: equal keys have equal vectors.
    """

    table: Table
    config: EncodeConfig
    out: Path
    folder: Path | None  # of the model
    about: Mapping[str, Any]  # the encoder
    contents: Contents
    keys: Sequence[bytes]  # a row of the table; b"" where there is no content
    rows_of: Mapping[bytes, Sequence[int]]
    known: Mapping[bytes, tuple[Known, int]]

    @property
    def left(self) -> list[bytes]:
        """The keys whose vectors are to be made, short texts first: those of one length need little padding."""
        left = [key for key in self.rows_of if key not in self.known]
        if self.config.text:
            left.sort(key=lambda key: len(self.contents.values[self.rows_of[key][0]]))
        return left

    def rows(self) -> pa.Table:
        """What is left to be encoded, a row a distinct content, with the number of a row of the table that has it."""
        rows = [self.rows_of[key][0] for key in self.left]
        values = [self.contents.values[row] for row in rows]
        kind = pa.large_binary() if values and isinstance(values[0], bytes) else pa.large_string()
        sums = [self.contents.sums[row] for row in rows]
        return pa.table({"row": pa.array(rows, pa.int64()), "content": pa.array(values, kind), "sum": sums})


def _plan_encoding(
    table: Table, config: EncodeConfig, out: Path, function: Function | None, reuse: str | Path | None
) -> _Job:  # fmt: skip
    folder, about = identify_encoder(config, function)
    contents = read_joined(table, config.text) if config.text else read_files(table, config.columns[0])
    with_version = {**about, "gtcrec": importlib.metadata.version("gtcrec"), "dtype": config.dtype, "kind": config.kind}
    encoder = hashlib.sha256(json.dumps(with_version, sort_keys=True).encode()).digest()
    sums = zip(contents.sums, contents.reasons, strict=True)
    keys = [hashlib.sha256(encoder + one).digest() if reason is None else b"" for one, reason in sums]
    rows_of: dict[bytes, list[int]] = {}
    for row, key in enumerate(keys):
        if key:
            rows_of.setdefault(key, []).append(row)
    known: dict[bytes, tuple[Known, int]] = {}
    for one in earlier_matrices(out, reuse) if _is_repeatable(about) else ():
        known |= {key: (one, one.rows[key]) for key in rows_of if key in one.rows}
    return _Job(table, config, out, folder, about, contents, keys, rows_of, known)


def _is_repeatable(about: Mapping[str, Any]) -> bool:
    """Whether an encoder is known to give the same vectors another time: not so a function whose text is not all."""
    return about.get("source") != ""


def _assemble_matrix(job: _Job, results: BlockResults, path: Path) -> Encoded:
    """Write the matrix to `path`, and its record and keys beside `out`."""
    config = job.config
    width = _vector_width(job, results)
    x = make_matrix(path, np.dtype(config.dtype), (len(job.table), width))
    reasons = list(job.contents.reasons)
    for key, (known, row) in job.known.items():
        x[job.rows_of[key]] = known.x[row]
    left, about = iter(job.left), next((dict(known.encoder) for known, _ in job.known.values()), {})
    for one in results:
        about |= json.loads(one.schema.metadata[b"encoder"])
        vectors = one["vector"].combine_chunks().flatten().to_numpy() if "vector" in one.column_names else np.zeros(0)
        for number, reason in enumerate(one["reason"].to_pylist()):
            rows = job.rows_of[next(left)]
            if reason is None:
                x[rows] = vectors[number * width : (number + 1) * width]
            for row in rows:
                reasons[row] = reason
    x.flush()
    reused = sum(len(job.rows_of[key]) for key in job.known)
    encoded = summarize_encoding(job.table, reasons, width, reasons.count(None), reused)
    with_vector = [key if reason is None else b"" for key, reason in zip(job.keys, reasons, strict=True)]
    keys = with_vector if _is_repeatable(job.about) else None
    about = {**about, **job.about}
    write = _encoder_writer(job.out, FittedEncoder(config, about, width))
    prepare_record(job.out, path, config.dtype, _describe_source(job.table, config), about, encoded, keys, write)
    return encoded


def _encoder_writer(out: Path, encoder: FittedEncoder) -> Callable[[Path], None]:
    """Return what writes the encoder of a matrix to a file."""
    return lambda path: write_encoders(path, {out.name.removesuffix(_END): encoder})


def _vector_width(job: _Job, results: BlockResults) -> int:
    widths = [one["vector"].type.list_size for one in results if "vector" in one.column_names]
    widths += [known.x.shape[1] for known, _ in job.known.values()]
    if not widths:
        _refuse_empty(job.table, job.config)
    for width in widths:
        if width != widths[0]:
            raise DataError(f"the encoder gave vectors of {widths[0]} numbers, then of {width}")
    return int(widths[0])


def _refuse_empty(table: Table, config: EncodeConfig) -> NoReturn:
    raise DataError(f"{table.path}: no row has content that can be read in {', '.join(map(repr, config.columns))}")


def _encode_whole(table: Table, config: EncodeConfig, out: Path, given: FittedEncoder | None) -> Encoded:
    """Write the matrix of tags or numbers, each of whose rows depends on the whole table that the encoder is fitted to.

    With an encoder that is fitted already, a row depends on itself alone.
    """
    tags, scales = None, None
    if config.tags:
        learnt = given.tags if given else None
        x, reasons, about, tags = tag_vectors(table, config.tags, config.separator, config.width, learnt)
    else:
        x, reasons, about, scales = number_vectors(table, config.numbers, given.scales if given else None)
    x = x.astype(config.dtype)
    present = x.any(axis=1)
    if not present.any():
        _refuse_empty(table, config)
    encoded = summarize_encoding(table, reasons, x.shape[1], int(present.sum()))
    about = {**about, **given.about} if given else about
    write = _encoder_writer(out, FittedEncoder(config, about, x.shape[1], tags, scales))
    with atomic_path(out) as temporary:
        with temporary.open("wb") as stream:
            np.save(stream, x)
        prepare_record(
            out, temporary, config.dtype, _describe_source(table, config), about, encoded, write_encoder=write
        )
    return encoded


def _describe_source(table: Table, config: EncodeConfig) -> dict[str, Any]:
    name, total = visible(table.path.name), sha256(table.path)
    return {"table": name, "sha256": total, "kind": config.kind, "columns": config.columns}
