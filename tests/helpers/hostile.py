"""A small table as a file of each kind, for those that damage it."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

TABLE = {"user": ["a", "a", "b"], "item": ["x", "y", "x"], "timestamp": [1, 2, 3], "rating": [1.5, 2.0, 3.0]}


def table_bytes(kind: str) -> bytes:
    """Return TABLE as a file of a kind."""
    rows = list(zip(*TABLE.values(), strict=True))
    if kind == "parquet":
        stream = io.BytesIO()
        pq.write_table(pa.table(TABLE), stream)
        return stream.getvalue()
    if kind.startswith("jsonl"):
        text = "".join(json.dumps(dict(zip(TABLE, row, strict=True))) + "\n" for row in rows)
    else:
        text = "\n".join(("," if "csv" in kind else "\t").join(map(str, row)) for row in [tuple(TABLE), *rows])
    return gzip.compress(text.encode()) if kind.endswith(".gz") else text.encode()
