"""Time training and evaluation of GTC, its peers and a plain transcription of the published arithmetic, side by side.

    python benchmarks/speed.py run --out result.json               # minutes; wants an idle machine
    python benchmarks/speed.py compare before.json after.json      # what changed, and by how much

In each round every candidate runs once, in an order drawn anew, in a process of its own, so that its peak memory is
its own. Seconds are CPU time (all threads) and wall time.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import speed_data
from speed_page import compare

HERE = Path(__file__).resolve().parent
CANDIDATES = ("gtc", "gtc-released", "freedom", "lightgcn", "bpr", "naive_gtc")
BATCH = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run_ = verbs.add_parser("run", help="measure")
    run_.add_argument("--out", type=Path, required=True)
    run_.add_argument("--size", choices=["baby", "tiktok", "small"], default="baby")
    run_.add_argument("--data", type=Path, default=HERE.parent / "data", help="the folder that holds baby/ and tiktok/")
    run_.add_argument("--steps", type=int, default=7, help="timed training steps a round, after one that is not")
    run_.add_argument("--rounds", type=int, default=5)
    run_.add_argument("--passes", type=int, default=3, help="evaluation passes a round")
    run_.add_argument("--threads", type=int, default=1)
    run_.add_argument("--seed", type=int, default=0)
    run_.add_argument("--only", nargs="*", choices=CANDIDATES, default=CANDIDATES)
    compare_ = verbs.add_parser("compare", help="print the ratios of two results")
    compare_.add_argument("before", type=Path)
    compare_.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.verb == "run":
        run(given)
    else:
        print("\n".join(compare(_read(given.before), _read(given.after))))


def run(given: argparse.Namespace) -> None:
    """Measure all rounds and write the result, also after each round."""
    given.out.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "about": {
            **{key: getattr(given, key) for key in ("size", "steps", "passes", "threads", "seed")},
            "batch": BATCH,
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load": [os.getloadavg()[0]],
        },
        "rounds": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        content = speed_data.write(given.size, given.data, Path(folder), given.seed)
        with _measuring(given.threads) as measure:
            for number in range(given.rounds):
                result["rounds"].append(_round(given, measure, folder, number))
                result["about"]["load"].append(os.getloadavg()[0])
                result |= _summary(result["rounds"])
                result["data"] = result["machine"].pop("data") | {"content": content}
                given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(given.out)


def _round(given: argparse.Namespace, measure: Callable[..., Any], folder: str, number: int) -> dict[str, Any]:
    """Every candidate and the machine once, in an order that the seed and the round draw."""
    order = [*given.only, "machine"]
    random.Random(f"{given.seed} {number}").shuffle(order)
    found: dict[str, Any] = {}
    for name in order:
        shared = {"folder": folder, "seed": given.seed + number}
        if name == "machine":
            found[name] = measure(kind="machine", full=given.size != "small", **shared)
            continue
        found[name] = one = measure(kind="candidate", name=name, steps=given.steps, passes=given.passes, **shared)
        cost = "not among the models" if "absent" in one else f"{one['costs']['step']['cpu']:.4f} CPU-s a step"
        print(f"round {number + 1} of {given.rounds}: {name}: {cost}", flush=True)
    return {"order": order, **found}


@contextmanager
def _measuring(threads: int) -> Iterator[Callable[..., Any]]:
    """A function that has `speed_process.py` measure what its keywords ask for."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    command = [sys.executable, str(HERE / "speed_process.py"), str(threads)]
    pipe, environment = subprocess.PIPE, {**os.environ, **limits}
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def measure(**request: Any) -> Any:
            print(json.dumps(request), file=process.stdin, flush=True)
            answer = process.stdout.readline()
            if not answer:
                raise SystemExit(f"no answer to {request}; the reason stands above")
            return json.loads(answer)

        yield measure


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Spreads over the rounds: of every candidate's phases and memory, and of the machine's measurements."""
    names = [name for name in CANDIDATES if name in rounds[0]]
    steps_an_epoch = -(-rounds[0]["machine"]["data"]["train"] // BATCH)
    candidates = {}
    for name in names:
        found = [one[name] for one in rounds]
        if "absent" not in found[0]:
            costs = _spread([one["costs"] for one in found])
            epoch = {
                kind: {key: value * steps_an_epoch + costs["refresh"][kind][key] for key, value in spread.items()}
                for kind, spread in costs["step"].items()
            }
            fixed = {key: found[0][key] for key in ("parameters", "flops", "bytes_once", "score_width")}
            memory = _spread([one["memory"] for one in found])
            candidates[name] = {**fixed, "costs": costs | {"epoch": epoch}, "memory": memory}
    kinds = ("rates", "evaluation", "user_graph", "kernels")
    machine = [{key: one["machine"][key] for key in kinds} for one in rounds]
    about = {key: rounds[0]["machine"][key] for key in ("data", "versions")}
    return {
        "absent": [name for name in names if name not in candidates],
        "steps_an_epoch": steps_an_epoch,
        "candidates": candidates,
        "machine": _spread(machine) | about,
    }


def _spread(values: list[Any]) -> Any:
    """Nested numbers of several rounds -> the same nest of their smallest, median and largest."""
    if isinstance(values[0], dict):
        return {key: _spread([one[key] for one in values]) for key in values[0]}
    return {"min": min(values), "median": median(values), "max": max(values)}


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main()
