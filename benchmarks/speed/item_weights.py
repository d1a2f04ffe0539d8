"""L3AE by one inverse and in its local form: accuracy, CPU seconds and memory; then the local form on drawn catalogs.

    python -m benchmarks.speed.item_weights run --out item_weights.json --data data/sports

Accuracy is of the validation part. Every point is a process of its own, so that its peak memory is its own. The drawn
catalogs are those of `growth`; near content is searched approximately from 100,000 items on.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import gtcrec
from benchmarks.blocks import Block
from benchmarks.clock import Clock, peak_bytes
from benchmarks.paths import module_command, module_environment
from benchmarks.speed import growth
from gtcrec import models
from gtcrec.evaluation.evaluator import evaluate_split
from gtcrec.evaluation.protocol import EvaluateConfig

METRICS = ("ndcg@5", "ndcg@20", "recall@20")
FORMS: dict[str, dict[str, Any]] = {
    "all": {},
    **{f"local, {k}": {"candidates": "local", "num_candidates": k} for k in (50, 100, 200, 400)},
}
DRAWN = 100  # candidates an item on drawn catalogs


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run_ = verbs.add_parser("run", help="measure")
    run_.add_argument("--out", type=Path, required=True)
    run_.add_argument("--data", type=Path, default=Path("data/sports"))
    run_.add_argument("--items", type=int, nargs="*", default=[10**5, 10**6], help="of the drawn catalogs")
    run_.add_argument("--forms", nargs="*", default=list(FORMS), choices=list(FORMS))
    point_ = verbs.add_parser("point", help="measure one point; used by run")
    point_.add_argument("what")
    point_.add_argument("form")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    if arguments.verb == "run":
        run(arguments)
    else:
        print(json.dumps(point(arguments.what, arguments.form)))


def run(arguments: argparse.Namespace) -> None:
    """Measure every point that the result lacks, and write it after each."""
    result: dict[str, Any] = {"about": {"cores": os.cpu_count(), "data": arguments.data.name}, "points": {}}
    if arguments.out.exists():
        result = json.loads(arguments.out.read_text(encoding="utf-8"))
    wanted = [(str(arguments.data), form) for form in arguments.forms] + [(str(n), "drawn") for n in arguments.items]
    for what, form in wanted:
        name = f"{Path(what).name}: {form}"
        if name in result["points"]:
            continue
        command = module_command("benchmarks.speed.item_weights", "point", what, form)
        done = subprocess.run(command, env=module_environment(1), stdout=subprocess.PIPE, text=True, check=True)
        result["points"][name] = json.loads(done.stdout.splitlines()[-1])
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(name, result["points"][name], flush=True)


def point(what: str, form: str) -> dict[str, Any]:
    """The costs of making the model, and its accuracy on validation if the data are not drawn."""
    if form == "drawn":
        n = int(what)
        search = "approximate" if n >= growth.STRAIGHT else "exact"
        settings: Mapping[str, Any] = {"candidates": "local", "num_candidates": DRAWN, "neighbor_search": search}
        with tempfile.TemporaryDirectory() as folder:
            split = growth.draw(n, Path(folder))
            return _solved(split, settings)[1]
    split = gtcrec.split(gtcrec.load_dataset(what))
    model, costs = _solved(split, FORMS[form])
    clock = Clock()
    found = evaluate_split(model.scorer(), split, "valid", EvaluateConfig(), metrics=METRICS, details=False)
    return {**costs, "evaluation": clock.lap()["cpu"], **{name: found.means[name] for name in METRICS}}


def _solved(split: Any, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    before, clock = peak_bytes(), Clock()
    config = models.make_config("l3ae", settings)
    model = models.build_model("l3ae", split.train, split.features, config, 0)
    costs = {"items": split.train.n_items, "pairs": len(split.train), "solve": clock.lap()["cpu"]}
    return model, {**costs, "before": before, "peak": peak_bytes()}


def blocks(result: Mapping[str, Any]) -> dict[str, Block]:
    """The two tables of the page."""
    forms, drawn = [], []
    for name, one in result["points"].items():
        source, _, form = name.partition(": ")
        costs = [f"{one['solve']:,.0f}", f"{one['peak'] / 2**30:.1f}"]
        if form == "drawn":
            drawn.append((f"{one['items']:,}", f"{one['pairs']:,}", *costs))
        else:
            forms.append((source, form, *(f"{one[m]:.4f}" for m in METRICS), *costs))
    costs_of = ("CPU-s to solve", "peak GiB")
    made = {}
    if forms:
        made["forms"] = Block((), ("data", "candidates", *METRICS, *costs_of), forms, (0, 1))
    if drawn:
        made["drawn"] = Block((), ("items", "interactions", *costs_of), drawn, ())
    return made


if __name__ == "__main__":
    main()
