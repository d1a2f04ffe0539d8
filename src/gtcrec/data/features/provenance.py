"""What stands beside a matrix: the record of its making, its encoder, and the keys to use its rows again.

`NAME_feat.json` is the record, `NAME_feat.encoder.npz` the encoder as it was fitted. `NAME_feat.keys.npy` holds 32
bytes a row: the sha256 sum of the encoder and the content that gave the row, zeros where there is no vector.
"""

import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gtcrec.data.formats.columns import find_column, read_ids
from gtcrec.data.formats.ids import whole_numbers
from gtcrec.data.formats.tables import Table
from gtcrec.errors import DataError
from gtcrec.runtime.files import (
    MANIFEST,
    atomic_path,
    check_manifest,
    expect_files,
    has_manifest,
    renew_manifest,
    sha256,
    sweep_stale,
    write_json,
)
from gtcrec.types import Floats

__all__ = [
    "Encoded",
    "Known",
    "earlier_matrices",
    "encoder_path",
    "find_encoder_of",
    "prepare_record",
    "settle_record",
    "summarize_encoding",
]

_KEY = 32  # bytes


@dataclass(frozen=True)
class Encoded:
    """What became of the items: how many have a vector, how many had nothing, and which failed, with the reason."""

    rows: int
    width: int
    present: int
    empty: int
    reused: int  # of the present: their vector was there before
    failures: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Known:
    """An earlier matrix, the row of each key in it, and what its record says of the encoder."""

    x: Floats
    rows: Mapping[bytes, int]
    encoder: Mapping[str, Any]


def summarize_encoding(
    table: Table, reasons: Sequence[str | None], width: int, present: int, reused: int = 0
) -> Encoded:
    """Return the facts of a matrix; `reasons` has None for a row that was read and "" for one without content."""
    key = find_column(table, "item", None, False)
    ids = whole_numbers(read_ids(table, key).cast(pa.string())) if key else None
    failures = tuple(
        {"row": row, **({"item": ids[row].as_py()} if ids is not None else {}), "reason": reason}
        for row, reason in enumerate(reasons)
        if reason
    )
    return Encoded(len(reasons), width, present, list(reasons).count(""), reused, failures)


def prepare_record(
    out: Path, path: Path, dtype: str, source: Mapping[str, Any], encoder: Mapping[str, Any], encoded: Encoded,
    keys: Sequence[bytes] | None = None, write_encoder: Callable[[Path], None] | None = None,
) -> None:  # fmt: skip
    """Write record, keys and encoder of the matrix in `path`; `settle_record` puts them beside it once it is `out`."""
    record = {
        "file": {"name": out.name, "sha256": sha256(path), "dtype": dtype},
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "gtcrec": importlib.metadata.version("gtcrec"),
        "source": dict(source),
        "encoder": dict(encoder),
        **vars(encoded),
    }
    if keys is not None:
        with atomic_path(_pending_path(_keys_path(out))) as temporary, temporary.open("wb") as stream:
            filled = b"".join(key or bytes(_KEY) for key in keys)
            np.save(stream, np.frombuffer(filled, dtype=np.uint8).reshape(-1, _KEY))
        record["keys"] = {"name": _keys_path(out).name, "sha256": sha256(_pending_path(_keys_path(out)))}
    if write_encoder is not None:
        write_encoder(_pending_path(encoder_path(out)))
        record["fitted"] = {"name": encoder_path(out).name, "sha256": sha256(_pending_path(encoder_path(out)))}
    write_json(_pending_path(_record_path(out)), record)
    if has_manifest(out.parent):
        files = (_keys_path(out), encoder_path(out), _record_path(out))
        coming = {one.name: _pending_path(one) for one in files if _pending_path(one).is_file()}
        expect_files(out.parent, {out.name: path, **coming})


def settle_record(out: Path) -> None:
    """Put record, keys and encoder in their places if they belong to the matrix that is there, else remove them.

    What dead processes left of these files is removed; the caller holds the lock of `out`.

    A kill may come between the renaming of a matrix and that of its record: the next call makes up for it. The
    entries of these files in the folder's manifest are renewed, if gtcrec wrote one that names them.
    """
    record, beside = _pending_path(_record_path(out)), {"keys": _keys_path(out), "fitted": encoder_path(out)}
    pending = [_pending_path(one) for one in beside.values()]
    for name in (out.name, record.name, *(one.name for one in pending), MANIFEST):
        sweep_stale(out.parent, name, alone=name != MANIFEST)
    if record.is_file():
        facts = json.loads(record.read_text(encoding="utf-8"))
        if out.is_file() and sha256(out) == facts["file"]["sha256"]:
            for word, place in beside.items():
                if _pending_path(place).is_file():
                    _pending_path(place).replace(place)
                elif word not in facts:
                    place.unlink(missing_ok=True)  # of a matrix that was here before
            record.replace(_record_path(out))
            _renew_manifest_entries(out)
            return
    for one in (*pending, record):
        one.unlink(missing_ok=True)


def _read_known(out: Path) -> Known | None:
    """Return a matrix with its keys; None where one of its files is missing or does not belong to the others."""
    try:
        facts = json.loads(_record_path(out).read_text(encoding="utf-8"))
        if any(sha256(out.with_name(facts[of]["name"])) != facts[of]["sha256"] for of in ("file", "keys")):
            return None
        keys = np.load(_keys_path(out)).tobytes()
        x = np.load(out, mmap_mode="r")
        split = (keys[start : start + _KEY] for start in range(0, len(keys), _KEY))
        rows = {key: row for row, key in enumerate(split) if any(key)}
        return Known(x, rows, facts["encoder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def earlier_matrices(out: Path, reuse: str | Path | None) -> Iterator[Known]:
    """Yield the matrices whose rows may be used again; raises `DataError` when `reuse` is none."""
    for place in (out, reuse) if reuse else (out,):
        known = _read_known(Path(place))
        if known:
            yield known
        elif place is reuse:
            raise DataError(f"{place}: expected a matrix to reuse, with the .json and .keys.npy that were made with it")


def _record_path(out: Path) -> Path:
    return out.with_suffix(".json")


def _keys_path(out: Path) -> Path:
    return out.with_suffix(".keys.npy")


def encoder_path(out: Path) -> Path:
    """Return where the fitted encoder of a matrix lies."""
    return out.with_suffix(".encoder.npz")


def find_encoder_of(out: Path) -> Path | None:
    """Return where the fitted encoder of a matrix lies; None where there is none, or it belongs to another matrix.

    In a folder with a manifest of ours, which has been verified, it belongs to the matrix.
    """
    place = encoder_path(out)
    if not place.is_file() or has_manifest(out.parent):
        return place if place.is_file() else None
    try:
        facts = json.loads(_record_path(out).read_text(encoding="utf-8"))
        sums = {file: facts[of]["sha256"] for of, file in (("file", out), ("fitted", place))}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return place if all(sha256(file) == expected for file, expected in sums.items()) else None


def _pending_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.next")


def _renew_manifest_entries(out: Path) -> None:
    if has_manifest(out.parent):
        named = check_manifest(out.parent, ())["files"]
        made = (out, _keys_path(out), encoder_path(out), _record_path(out))
        renew_manifest(out.parent, [one.name for one in made if one.name in named])
