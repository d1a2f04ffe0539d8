"""Time training and evaluation of GTC, its peers and a plain transcription of the published arithmetic, side by side.

    python -m benchmarks.speed.side_by_side run --out result.json               # minutes; wants an idle machine
    python -m benchmarks.speed.side_by_side compare before.json after.json      # what changed, and by how much

In each round every candidate runs once, in an order drawn anew, in a process of its own, so that its peak memory is
its own. Seconds are CPU time (all threads) and wall time.
"""

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.paths import module_command, module_environment
from benchmarks.speed.tables import compare

CANDIDATES = ("gtc", "gtc-released", "freedom", "lightgcn", "bpr", "naive_gtc")
BATCH = 2048
WIDTHS: dict[str, dict[str, int]] = {  # of content that is drawn, as a step's time does not depend on its values
    "baby": {"image": 4096, "text": 384},
    "tiktok": {},
    "small": {"image": 48, "text": 16},
}
SMALL = (300, 200, 12)  # users, items, interactions a user


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run_ = verbs.add_parser("run", help="measure")
    run_.add_argument("--out", type=Path, required=True)
    run_.add_argument("--size", choices=["baby", "tiktok", "small"], default="baby")
    run_.add_argument("--data", type=Path, default=Path("data"), help="the folder that holds baby/ and tiktok/")
    run_.add_argument("--steps", type=int, default=7, help="timed training steps a round, after one that is not")
    run_.add_argument("--rounds", type=int, default=5)
    run_.add_argument("--passes", type=int, default=3, help="evaluation passes a round")
    run_.add_argument("--threads", type=int, default=1)
    run_.add_argument("--seed", type=int, default=0)
    run_.add_argument("--only", nargs="*", choices=CANDIDATES, default=CANDIDATES)
    compare_ = verbs.add_parser("compare", help="print the ratios of two results")
    compare_.add_argument("before", type=Path)
    compare_.add_argument("after", type=Path)
    serve_ = verbs.add_parser("serve", help="answer requests to measure; used by run")
    serve_.add_argument("threads", type=int)
    arguments = parser.parse_args(words)
    if arguments.verb == "run":
        run(arguments)
    elif arguments.verb == "serve":
        serve(arguments.threads)
    else:
        print("\n".join(compare(_read(arguments.before), _read(arguments.after))))


def run(arguments: argparse.Namespace) -> None:
    """Measure all rounds and write the result, also after each round."""
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "about": {
            **{key: getattr(arguments, key) for key in ("size", "steps", "passes", "threads", "seed")},
            "batch": BATCH,
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load": [os.getloadavg()[0]],
        },
        "rounds": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        content = write_inputs(arguments.size, arguments.data, Path(folder), arguments.seed)
        with _measuring(arguments.threads) as measure:
            for number in range(arguments.rounds):
                result["rounds"].append(_round(arguments, measure, folder, number))
                result["about"]["load"].append(os.getloadavg()[0])
                result |= _summary(result["rounds"])
                result["data"] = result["machine"].pop("data") | {"content": content}
                arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(arguments.out)


def _round(arguments: argparse.Namespace, measure: Callable[..., Any], folder: str, number: int) -> dict[str, Any]:
    """Every candidate and the machine once, in an order that the seed and the round draw."""
    order = [*arguments.only, "machine"]
    random.Random(f"{arguments.seed} {number}").shuffle(order)
    found: dict[str, Any] = {}
    for name in order:
        shared = {"folder": folder, "seed": arguments.seed + number}
        if name == "machine":
            found[name] = measure(kind="machine", full=arguments.size != "small", **shared)
            continue
        found[name] = one = measure(
            kind="candidate", name=name, steps=arguments.steps, passes=arguments.passes, **shared
        )
        cost = "not among the models" if "absent" in one else f"{one['costs']['step']['cpu']:.4f} CPU-s a step"
        print(f"round {number + 1} of {arguments.rounds}: {name}: {cost}", flush=True)
    return {"order": order, **found}


@contextmanager
def _measuring(threads: int) -> Iterator[Callable[..., Any]]:
    """A function that has a process of its own measure what its keywords ask for."""
    command = module_command("benchmarks.speed.side_by_side", "serve", threads)
    pipe, environment = subprocess.PIPE, module_environment(threads)
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


def serve(threads: int) -> None:
    """Answer requests to measure, one line of JSON each, every one in a process of its own.

    The libraries are imported once; each request is answered by a fork of this process, which has computed nothing. So
    a measurement's memory and warmth are its own, and all start alike.
    """
    import torch

    from benchmarks.speed import candidates, machine

    kinds: dict[str, Callable[..., Any]] = {"candidate": candidates.measure, "machine": machine.measure}
    torch.set_num_threads(threads)
    torch.optim.Adam([torch.zeros(1)])  # the first optimizer imports a second's worth of modules
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            print(json.dumps(kinds[request.pop("kind")](**request)), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(1)


def write_inputs(size: str, data: Path, folder: Path, seed: int) -> dict[str, list[str]]:
    """Fill `folder` and say which contents are random and which came with the interactions."""
    rng = np.random.default_rng(seed)
    if size == "small":
        n_items = _write_interactions(folder / "small.inter", rng)
    else:
        source = data / size
        if not source.is_dir():
            raise SystemExit(f"{source}: no such folder; --data names the one that holds {size}/")
        for file in [*source.glob("*.inter"), *source.glob("*_feat.npy")]:
            shutil.copyfile(file, folder / file.name)
        n_items = _count_items(next(folder.glob("*.inter")))
    came = sorted(file.name.removesuffix("_feat.npy") for file in folder.glob("*_feat.npy"))
    for name, width in WIDTHS[size].items():
        np.save(folder / f"{name}_feat.npy", rng.standard_normal((n_items, width), dtype=np.float32))
    return {"random": sorted(WIDTHS[size]), "real": came}


def _write_interactions(path: Path, rng: np.random.Generator) -> int:
    """Users' distinct items by power-law popularity, one of them each for validation and test."""
    n_users, n_items, per_user = SMALL
    popularity = 1 / np.arange(1, n_items + 1) ** 0.8
    rows = ["userID\titemID\tx_label"]
    for user in range(n_users):
        items = rng.choice(n_items, per_user, replace=False, p=popularity / popularity.sum())
        rows += [f"{user}\t{item}\t{max(0, place - per_user + 3)}" for place, item in enumerate(items.tolist())]
    rows += [f"{n_users}\t{item}\t0" for item in range(n_items)]  # ids are dense
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return n_items


def _count_items(path: Path) -> int:
    with path.open(encoding="utf-8") as stream:
        place = next(stream).rstrip("\n").split("\t").index("itemID")
        return 1 + max(int(line.split("\t")[place]) for line in stream)


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
