"""Time batch recommendation and text encoding: this process, and Ray with one and two workers; the files must be equal.

    python -m benchmarks.speed.batch run --out result.json       # minutes; wants an idle machine
    python -m benchmarks.speed.batch page result.json            # Markdown lines

Every measurement is a process of its own with one thread, and Ray's workers have one each. `objects` makes one Python
object a row, and is there for comparison.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.blocks import Block
from benchmarks.paths import module_command, module_environment
from gtcrec.serving.list_request import ListRequest

JOBS = {"recommend": ("local", "ray1", "ray2", "objects"), "encode": ("local", "ray1", "ray2")}
NAMES = {"local": "this process", "ray1": "Ray, 1 worker", "ray2": "Ray, 2 workers", "objects": "an object a row"}
K = 10


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run_ = verbs.add_parser("run", help="measure")
    run_.add_argument("--out", type=Path, required=True)
    run_.add_argument("--users", type=int, default=100_000)
    run_.add_argument("--items", type=int, default=20_000)
    run_.add_argument("--texts", type=int, default=2_000)
    run_.add_argument("--rounds", type=int, default=3)
    run_.add_argument("--only", nargs="*", choices=NAMES, default=list(NAMES))
    page_ = verbs.add_parser("page", help="print the result as Markdown")
    page_.add_argument("result", type=Path)
    one = verbs.add_parser("one", help="one measurement; `run` calls it")
    for name in ("folder", "job", "who"):
        one.add_argument(name)
    data = verbs.add_parser("prepare", help="what is measured upon; `run` calls it")
    data.add_argument("folder", type=Path)
    for name in ("users", "items", "texts"):
        data.add_argument(name, type=int)
    arguments = parser.parse_args(words)
    if arguments.verb == "run":
        run(arguments)
    elif arguments.verb == "page":
        for block in blocks(json.loads(arguments.result.read_text(encoding="utf-8"))).values():
            print("\n".join([*block.lines(), ""]))
    elif arguments.verb == "prepare":
        prepare(arguments.folder, arguments.users, arguments.items, arguments.texts)
    else:
        print(json.dumps(measure(Path(arguments.folder), arguments.job, arguments.who)))


def run(arguments: argparse.Namespace) -> None:
    """Measure all rounds, one after the other through every job, and write the result."""
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        # In its own process as well: the memory of this one would count as its children's.
        sizes = [str(size) for size in (arguments.users, arguments.items, arguments.texts)]
        command = module_command("benchmarks.speed.batch", "prepare", folder, *sizes)
        subprocess.run(command, check=True, env=module_environment())
        for number in range(arguments.rounds):
            rounds.append(
                {job: {who: _answer(folder, job, who) for who in _chosen(job, arguments.only)} for job in JOBS}
            )
            print(f"round {number + 1} of {arguments.rounds}", flush=True)
    about = {
        "users": arguments.users,
        "items": arguments.items,
        "texts": arguments.texts,
        "k": K,
        "rounds": arguments.rounds,
    }
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    result = {"about": about | machine, **{job: _summary([one[job] for one in rounds]) for job in JOBS}}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(arguments.out)


def prepare(folder: Path, users: int, items: int, texts: int) -> None:
    """Write drawn interactions and a run on them, of BPR with 64 numbers a user after one epoch, and drawn texts."""
    from gtcrec import train

    rng = np.random.default_rng(0)
    pairs = np.unique(np.repeat(np.arange(users), 10) * items + (items * rng.random(10 * users) ** 2).astype(int))
    labels = rng.choice(3, len(pairs), p=[0.8, 0.1, 0.1])
    labels[:1] = 0
    rows = np.stack([pairs // items, pairs % items, labels], axis=1)
    (folder / "data").mkdir()
    with (folder / "data" / "data.inter").open("w", encoding="utf-8") as stream:
        np.savetxt(stream, rows, "%d", "\t", header="userID\titemID\tx_label", comments="")
    train(folder / "data", "bpr", folder / "run", epochs=1, batch_size=65_536, evaluate__resamples=1)
    words = np.array([f"{a}{b}{c}" for a in ("ba", "co", "di", "fu") for b in ("lin", "mar", "so") for c in ("e", "o")])
    drawn = rng.choice(words, (texts, 40))
    drawn[:, -1] = np.arange(texts)  # no two alike
    cells = "".join(f"{' '.join(text)}\n" for text in drawn)
    (folder / "items.tsv").write_text(f"title\n{cells}", encoding="utf-8")


def measure(folder: Path, job: str, who: str) -> dict[str, Any]:
    """Do a job and return its seconds, those until the first block, its rows, this process's memory, the file's sum."""
    from gtcrec.runtime.block_jobs import Local, RayData

    out = Path(tempfile.mkdtemp(dir=folder)) / f"{job}_feat.npy"  # beside an earlier one, encoding would reuse its rows
    executor = RayData(int(who.removeprefix("ray"))) if who.startswith("ray") else Local()
    start, first = time.perf_counter(), []

    def on_block(done: int, total: int) -> None:
        if done and not first:
            first.append(time.perf_counter() - start)

    if job == "encode":
        from gtcrec.data.features.extract import EncodeConfig, encode

        config = EncodeConfig(text=("title",))
        rows = encode(folder / "items.tsv", out, config, executor=executor, on_block=on_block).rows
    else:
        from gtcrec.serving.batch import write_all_lists

        start = time.perf_counter()
        if who == "objects":
            rows = _objects(folder / "run", out)
        else:
            rows = write_all_lists(folder / "run", out, ListRequest(K), executor=executor, on_block=on_block)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    total = None if who == "objects" else hashlib.sha256(out.read_bytes()).hexdigest()
    return {"seconds": seconds, "first": first[0] if first else seconds, "rows": rows, "peak": peak, "sha256": total}


def _objects(folder: Path, out: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from gtcrec.serving.trained_model import TrainedModel

    model = TrainedModel.load(folder)
    rows = model.recommend(np.arange(len(model.bundle.users)), ListRequest(K)).to_pylist()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return len(rows)


def blocks(result: dict[str, Any]) -> dict[str, Block]:
    """The tables of a result, and how it was measured."""
    about = result["about"]
    text = f"{about['cores']} cores, one thread a worker, {about['rounds']} rounds: median (smallest to largest)."
    made = {"batch": Block([text])}
    titles = {
        "recommend": f"the {K} best of {about['items']:,} items for {about['users']:,} users",
        "encode": f"{about['texts']:,} texts of 40 words",
    }
    for job, title in titles.items():
        rows = []
        for who, one in result[job].items():
            rate, peak = one["rows"] / one["seconds"]["median"], one["peak"] / 1e6
            rows.append([NAMES[who], _spread(one["seconds"]), _spread(one["first"]), f"{rate:,.0f}", f"{peak:,.0f}"])
        headers = (title, "seconds", "until the first block", "rows a second", "peak memory, MB")
        made[f"batch-{job}"] = Block((), headers, rows)
    return made


def _spread(seconds: dict[str, float]) -> str:
    return f"{seconds['median']:.1f} ({seconds['min']:.1f} to {seconds['max']:.1f})"


def _chosen(job: str, only: list[str]) -> list[str]:
    return [who for who in JOBS[job] if who in only]


def _answer(folder: str, job: str, who: str) -> dict[str, Any]:
    environment = module_environment(1, HF_HUB_OFFLINE="1")
    command = module_command("benchmarks.speed.batch", "one", folder, job, who)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Spreads over the rounds. Exits when two files differ."""
    sums = {one["sha256"] for round_ in rounds for one in round_.values()} - {None}
    if len(sums) > 1:
        raise SystemExit(f"the files differ: {rounds}")
    found = {}
    for who in rounds[0]:
        ones = [round_[who] for round_ in rounds]
        spreads = {
            key: {"min": min(values), "median": median(values), "max": max(values)}
            for key in ("seconds", "first")
            for values in [[one[key] for one in ones]]
        }
        peak = max(one["peak"] for one in ones)
        found[who] = {**spreads, "rows": ones[0]["rows"], "peak": peak, "sha256": ones[0]["sha256"]}
    return found


if __name__ == "__main__":
    main()
