"""Time batch recommendation and text encoding: this process, and Ray with one and two workers; the files must be equal.

    python benchmarks/blocks.py run --out result.json       # minutes; wants an idle machine
    python benchmarks/blocks.py page result.json            # Markdown lines

Every measurement is a process of its own with one thread, and Ray's workers have one each. `objects` makes one Python
object a row, as `Run.recommend` does for a few users, and is there for comparison.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

JOBS = {"recommend": ("local", "ray1", "ray2", "objects"), "encode": ("local", "ray1", "ray2")}
NAMES = {"local": "this process", "ray1": "Ray, 1 worker", "ray2": "Ray, 2 workers", "objects": "an object a row"}
K = 10


def main() -> None:
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
    given = parser.parse_args()
    if given.verb == "run":
        run(given)
    elif given.verb == "page":
        print("\n".join(lines(json.loads(given.result.read_text(encoding="utf-8")))))
    elif given.verb == "prepare":
        prepare(given.folder, given.users, given.items, given.texts)
    else:
        print(json.dumps(measure(Path(given.folder), given.job, given.who)))


def run(given: argparse.Namespace) -> None:
    """Measure all rounds, one after the other through every job, and write the result."""
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        # In its own process as well: the memory of this one would count as its children's.
        sizes = [str(size) for size in (given.users, given.items, given.texts)]
        subprocess.run([sys.executable, __file__, "prepare", folder, *sizes], check=True)
        for number in range(given.rounds):
            rounds.append({job: {who: _answer(folder, job, who) for who in _chosen(job, given.only)} for job in JOBS})
            print(f"round {number + 1} of {given.rounds}", flush=True)
    about = {"users": given.users, "items": given.items, "texts": given.texts, "k": K, "rounds": given.rounds}
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    result = {"about": about | machine, **{job: _summary([one[job] for one in rounds]) for job in JOBS}}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(given.out)


def prepare(folder: Path, users: int, items: int, texts: int) -> None:
    """Write drawn interactions and a run on them, of BPR with 64 numbers a user after one epoch, and drawn texts."""
    from gtcrec import fit

    rng = np.random.default_rng(0)
    pairs = np.unique(np.repeat(np.arange(users), 10) * items + (items * rng.random(10 * users) ** 2).astype(int))
    labels = rng.choice(3, len(pairs), p=[0.8, 0.1, 0.1])
    labels[:1] = 0
    rows = np.stack([pairs // items, pairs % items, labels], axis=1)
    (folder / "data").mkdir()
    with (folder / "data" / "data.inter").open("w", encoding="utf-8") as stream:
        np.savetxt(stream, rows, "%d", "\t", header="userID\titemID\tx_label", comments="")
    fit(folder / "data", "bpr", folder / "run", epochs=1, batch_size=65_536, evaluate__resamples=1)
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
        from gtcrec.experiments.run import Run
        from gtcrec.serving.batch import write_all_lists

        run = Run.load(folder / "run")
        start = time.perf_counter()
        if who == "objects":
            rows = _objects(run, out)
        else:
            rows = write_all_lists(run, out, K, executor=executor, on_block=on_block)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    total = None if who == "objects" else hashlib.sha256(out.read_bytes()).hexdigest()
    return {"seconds": seconds, "first": first[0] if first else seconds, "rows": rows, "peak": peak, "sha256": total}


def _objects(run: Any, out: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = run.recommend(run.dataset.users.ids.tolist(), K)
    columns = zip(*((one.user, one.item, one.rank, one.score) for one in found), strict=True)
    pq.write_table(pa.Table.from_arrays([pa.array(list(column)) for column in columns], names=list("uirs")), out)
    return len(found)


def lines(result: dict[str, Any]) -> list[str]:
    """The result as Markdown."""
    about = result["about"]
    made = [
        f"{about['cores']} cores, one thread a worker, {about['rounds']} rounds: median (smallest to largest). "
        "Seconds include the start of Ray and of its workers, each of which loads the run or the encoder."
    ]
    titles = {
        "recommend": f"the {K} best of {about['items']:,} items for {about['users']:,} users",
        "encode": f"{about['texts']:,} texts of 40 words",
    }
    for job, title in titles.items():
        head = f"| {title} | seconds | until the first block | rows a second | peak memory, MB |"
        made += ["", head, "|---|--:|--:|--:|--:|"]
        for who, one in result[job].items():
            rate, peak = one["rows"] / one["seconds"]["median"], one["peak"] / 1e6
            spreads = f"{_spread(one['seconds'])} | {_spread(one['first'])}"
            made.append(f"| {NAMES[who]} | {spreads} | {rate:,.0f} | {peak:,.0f} |")
    return [
        *made,
        "",
        "All files of a job but that of objects were equal. Memory is that of the starting process.",
    ]


def _spread(seconds: dict[str, float]) -> str:
    return f"{seconds['median']:.1f} ({seconds['min']:.1f} to {seconds['max']:.1f})"


def _chosen(job: str, only: list[str]) -> list[str]:
    return [who for who in JOBS[job] if who in only]


def _answer(folder: str, job: str, who: str) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "one", folder, job, who]
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
