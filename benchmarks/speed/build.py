"""Time and memory of `gtcrec data build` on large drawn tables.

    python -m benchmarks.speed.build run --out build.json    # 20 million interactions; wants 8 GB of disk

A million users and items of power-law popularity; ids are text, with leading zeros, blanks and letters beyond ASCII;
some rows lack an id, name an unknown item or repeat another. Items have a title, a description of some 200 characters,
a category, tags and a price. Building is a process of its own, so that its peak memory is its own. Tags and prices are
encoded; texts are kept only, since encoding them is the time of an encoder.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from benchmarks.blocks import Block
from benchmarks.clock import peak_bytes
from benchmarks.paths import module_command, module_environment
from gtcrec.data.build.pipeline import BuildConfig, build
from gtcrec.runtime.files import write_json

PART = 1 << 20  # rows drawn and written at a time
WORDS = ("red", "blue", "wool", "oak", "steel", "light", "größe", "été", "мир", "木", "soft", "round", "tall", "warm")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run_ = verbs.add_parser("run", help="measure")
    run_.add_argument("--out", type=Path, required=True)
    run_.add_argument("--interactions", type=int, default=20_000_000)
    run_.add_argument("--users", type=int, default=1_000_000)
    run_.add_argument("--items", type=int, default=1_000_000)
    run_.add_argument("--kinds", nargs="*", default=["parquet", "csv"], choices=["parquet", "csv"])
    run_.add_argument("--folder", type=Path, help="where the tables are drawn; a temporary folder by default")
    point_ = verbs.add_parser("point", help="build one folder; used by run")
    for name in ("items", "interactions", "out"):
        point_.add_argument(name, type=Path)
    arguments = parser.parse_args(words)
    if arguments.verb == "run":
        run(arguments)
    else:
        print(json.dumps(point(arguments.items, arguments.interactions, arguments.out)))


def run(arguments: argparse.Namespace) -> None:
    """Draw the tables in each format, build of them, and write the result after each."""
    about = {
        "cores": os.cpu_count(),
        "interactions": arguments.interactions,
        "users": arguments.users,
        "items": arguments.items,
    }
    result: dict[str, Any] = {"about": about, "points": []}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        for kind in arguments.kinds:
            tables = [folder / f"{word}.{kind}" for word in ("items", "interactions")]
            write(tables[0], draw_items(arguments.items))
            write(tables[1], draw_interactions(arguments.interactions, arguments.users, arguments.items))
            command = module_command("benchmarks.speed.build", "point", *tables, folder / "built")
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=module_environment())
            sizes = {table.stem: table.stat().st_size for table in tables}
            result["points"].append({"kind": kind, "bytes": sizes, **json.loads(done.stdout)})
            write_json(arguments.out, result)
            shutil.rmtree(folder / "built")
            for table in tables:
                table.unlink()
            last = result["points"][-1]
            print(f"{kind}: {last['wall']:.0f} s, {last['cpu']:.0f} CPU-s, {last['peak'] / 2**30:.2f} GiB", flush=True)


def table_block(result: dict[str, Any]) -> Block:
    """Seconds and memory of each format."""
    about = result["about"]
    text = f"{about['interactions']:,} interactions of {about['users']:,} users with {about['items']:,} items."
    rows = [
        (one["kind"], f"{one['wall']:.0f}", f"{one['cpu']:.0f}", f"{one['peak'] / 2**30:.2f}")
        for one in result["points"]
    ]
    return Block([text], ("tables", "seconds", "CPU-s", "peak GiB"), rows)


def point(items: Path, interactions: Path, out: Path) -> dict[str, Any]:
    """Seconds of each stage and in all, peak memory, and what was kept and left out."""
    stages, last = [], [time.perf_counter()]

    def on_stage(what: str) -> None:
        now = time.perf_counter()
        stages.append({"before": what, "wall": now - last[0], "peak": peak_bytes()})
        last[0] = now

    config = BuildConfig(keep=("description", "brand"), tags=("tags",), numbers=("price",))
    start, cpu = time.perf_counter(), time.process_time()
    report = build(items, interactions, out, config, on_stage=on_stage)
    on_stage("the end")
    costs = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu, "peak": peak_bytes()}
    for one in stages:
        one["before"] = one["before"].replace(str(items.parent), ".")
    size = sum(file.stat().st_size for file in out.iterdir())
    return {**costs, "stages": stages, "built_bytes": size, "kept": report["kept"], "dropped": report["dropped"]}


def write(path: Path, parts: Iterator[pa.Table]) -> None:
    """Write a table part by part, in the format that the name's ending says."""
    first = next(parts)
    writer = pa.parquet.ParquetWriter if path.suffix == ".parquet" else pa.csv.CSVWriter
    with writer(path, first.schema) as stream:
        stream.write_table(first)
        for part in parts:
            stream.write_table(part)


def draw_items(n: int) -> Iterator[pa.Table]:
    rng = np.random.default_rng(1)
    words = pa.array(WORDS)
    for start in range(0, n, PART // 8):
        items = np.arange(start, min(start + PART // 8, n))
        texts = [words.take(pa.array(rng.integers(0, len(WORDS), len(items)))) for _ in range(40)]
        yield pa.table(
            {
                "item_id": _item_ids(items),
                "title": pc.binary_join_element_wise(*texts[:4], " "),
                "description": pc.binary_join_element_wise(*texts, " "),
                "brand": texts[0],
                "tags": pc.binary_join_element_wise(*texts[1:4], "|"),
                "price": pa.array(rng.gamma(2, 20, len(items)).round(2)),
            }
        )


def draw_interactions(n: int, n_users: int, n_items: int) -> Iterator[pa.Table]:
    """Rows in random order; of a hundred, one each lacks an id, names an unknown item and repeats an earlier row."""
    rng = np.random.default_rng(2)
    for start in range(0, n, PART):
        size = min(PART, n - start)
        users = (n_users * rng.random(size) ** 1.5).astype(np.int64)
        items = (n_items * rng.random(size) ** 2).astype(np.int64)
        items[rng.random(size) < 0.01] += n_items
        again = np.flatnonzero(rng.random(size) < 0.01)
        users[again], items[again] = users[again - 1], items[again - 1]
        ids = pc.if_else(pa.array(rng.random(size) < 0.01), pa.scalar("", pa.string()), _user_ids(users))
        yield pa.table(
            {
                "user_id": ids,
                "item_id": _item_ids(items),
                "rating": pa.array(rng.integers(1, 6, size)),
                "timestamp": pa.array(1_600_000_000 + rng.integers(0, 10**8, size)),
            }
        )


def _user_ids(users: NDArray[np.int64]) -> Any:
    return pc.binary_join_element_wise("u ", pc.utf8_lpad(pc.cast(pa.array(users), pa.string()), 9, "0"), "é", "")


def _item_ids(items: NDArray[np.int64]) -> Any:
    return pc.utf8_lpad(pc.cast(pa.array(items), pa.string()), 10, "0")


if __name__ == "__main__":
    main()
