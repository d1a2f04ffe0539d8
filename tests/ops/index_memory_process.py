"""Builds an index of 40,000 vectors of 64 numbers: prints [estimated, measured] bytes beyond the vectors.

python tests/ops/index_memory_process.py ivf|hnsw
"""

import ctypes
import json
import re
import sys
from pathlib import Path

import torch

from gtcrec.ops.ann import IndexConfig, build, estimate_index

ROWS, DIM = 40_000, 64


def read_status(key: str) -> int:
    """Bytes of a line of the process's status."""
    found = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def main(kind: str) -> None:
    config = IndexConfig(kind=kind, build_width=4)  # type: ignore[arg-type]
    build(torch.randn(60, DIM), config)  # loads libraries
    vectors = torch.randn(ROWS, DIM)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = read_status("VmRSS")
    index = build(vectors, config)
    assert index.n_items == ROWS
    sys.stdout.write(json.dumps([estimate_index(ROWS, DIM, config), read_status("VmHWM") - before]))


if __name__ == "__main__":
    main(sys.argv[1])
