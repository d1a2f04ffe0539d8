"""Measure gtcrec and write the pages of docs/results: `python -m benchmarks VERB`, from the repository's root.

A measurement trains under runs/benchmarks, goes on where it stopped, and stores what the pages need in
benchmarks/results. `pages` writes every page from there; it needs no data and no run. README.md says more.
"""

import argparse
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.ledger import note_look
from benchmarks.paths import RESULTS, RUNS

if TYPE_CHECKING:
    from benchmarks.blocks import Block

QUICK = RUNS / "quick"


def main(words: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(words)
    if arguments.quick:
        shutil.rmtree(QUICK, ignore_errors=True)
    arguments.verb(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    add = _adder(verbs)
    accuracy = add("accuracy", measure_accuracy, "all models tuned alike; peers beside published figures", "DATA")
    accuracy.add_argument("--only", nargs="*", default=[], metavar="MODEL", help="these models alone")
    accuracy.add_argument("--tune", action="store_true", help="search the settings of the models; train nothing else")
    accuracy.add_argument("--jobs", type=int, default=1, help="runs at a time")
    add("ablation", measure_ablation, "GTC without each of its parts", "DATA")
    add("cold-start", measure_cold_start, "items that training never saw", "")
    add("missing", measure_missing, "content hidden in shares", "")
    add("ground-truth", measure_ground_truth, "catalogs whose truth is planted", "PLANT")
    add(
        "speed",
        measure_speed,
        "training, growth, many-pairs, search, ray, batch, encode, build, item-weights, serving, sampled",
        "WHAT",
    )
    pages = verbs.add_parser("pages", help="write the tables of all pages from benchmarks/results")
    pages.add_argument("names", nargs="*", metavar="PAGE.md", help="these pages alone")
    pages.set_defaults(verb=write_pages, quick=False)
    return parser


def _adder(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> Callable[..., argparse.ArgumentParser]:
    def add(name: str, verb: Callable[[argparse.Namespace], None], text: str, names: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
        if names:
            parser.add_argument("names", nargs="*", metavar=names, help="these alone; default: README.md says which")
        parser.add_argument("--data", type=Path, default=Path("data"), help="the folder that holds the data sets")
        parser.add_argument("--quick", action="store_true", help="try it on tiny drawn data, apart from real results")
        parser.set_defaults(verb=verb)
        return parser

    return add


def measure_accuracy(arguments: argparse.Namespace) -> None:
    from benchmarks.accuracy import peers, planned, published, tuning

    if arguments.quick:
        peers.measure_quick(QUICK)
        _store("published", "a trial", published.measure_quick(QUICK), quick=True)
        return
    plans = [name for name in arguments.names if name in planned.PLANS]
    beside = [name for name in arguments.names if name in published.SETTINGS and not plans]
    tuned = [name for name in arguments.names if name not in published.SETTINGS and not plans]
    for name in plans:  # the other names choose among the plan's data sets
        chosen = [one for one in arguments.names if one not in plans]
        planned.measure(arguments.data, name, chosen, arguments.jobs, note_look)
    if plans:
        return
    config = peers.read_plan(arguments.data)
    _check_names(tuned, config.data)
    if arguments.tune:
        for name in tuned or config.data:
            tuning.tune(config, name, arguments.only or list(config.models))
        return
    for name in beside:
        _store(name, f"peers on {name}", published.measure(arguments.data, name, RUNS))
        note_look(name, list(published.SETTINGS[name]), "peers beside published figures")
    if tuned or not beside:
        data = tuned or list(config.data)
        only = [f"{name}/{model}" for name in data for model in arguments.only] or tuned
        peers.train(config, only, arguments.jobs, RUNS / "peers", note=note_look)


def measure_ablation(arguments: argparse.Namespace) -> None:
    from benchmarks.accuracy import ablation

    if arguments.quick:
        _store("ablation", "a trial", ablation.measure_quick(QUICK), quick=True)
        return
    _check_names(arguments.names, ablation.BUDGETS)
    for name in arguments.names or ablation.BUDGETS:
        blocks = ablation.measure(arguments.data, [name], RUNS / "ablation")
        _store("ablation", f"GTC without each of its parts on {name}, a look at test", blocks)
        note_look(name, ["gtc"], "ablation")


def measure_cold_start(arguments: argparse.Namespace) -> None:
    from benchmarks.accuracy import cold_start

    if arguments.quick:
        _store("cold", "a trial", cold_start.measure_quick(QUICK), quick=True)
        return
    blocks = cold_start.measure(arguments.data, RUNS / "cold")
    _store("cold", "cold items of ml100k, a look at test", blocks)
    note_look("ml100k", list(cold_start.MODELS), "cold items")


def measure_missing(arguments: argparse.Namespace) -> None:
    from benchmarks.accuracy import missing_modalities

    if arguments.quick:
        _store("missing", "a trial", missing_modalities.measure_quick(QUICK), quick=True)
        return
    blocks = missing_modalities.measure(arguments.data, RUNS / "missing")
    _store("missing", "content of movies hidden, a look at test", blocks)
    note_look("movies", ["gtc"], "hidden content")


def measure_ground_truth(arguments: argparse.Namespace) -> None:
    from benchmarks.accuracy import ground_truth

    if arguments.quick:
        _store("planted", "a trial", ground_truth.measure_quick(QUICK), quick=True)
        return
    _check_names(arguments.names, ground_truth.CASES)
    blocks = ground_truth.measure(arguments.names, RUNS / "planted")
    _store("planted", "drawn catalogs, a look at test", blocks)


def measure_speed(arguments: argparse.Namespace) -> None:
    from benchmarks.speed import measurements

    _check_names(arguments.names, measurements.MEASURED)
    for name in arguments.names or measurements.USUAL:
        page, blocks = measurements.measure(name, arguments.data, QUICK if arguments.quick else RUNS, arguments.quick)
        _store(page, f"`python -m benchmarks speed {name}`", blocks, arguments.quick)


def write_pages(arguments: argparse.Namespace) -> None:
    from benchmarks.pages import update_pages

    changed = update_pages(arguments.names)
    print("\n".join(map(str, changed)) or "every page is as it should be")


def _store(page: str, what: str, blocks: "Mapping[str, Block]", quick: bool = False) -> None:
    """Store the blocks of a page; of a trial print them too."""
    from benchmarks.blocks import store_blocks
    from gtcrec import __version__

    if quick:
        for name, block in blocks.items():
            print("\n".join(["", f"{name}:", "", *block.lines()]))
    folder = QUICK / "results" if quick else RESULTS
    print(
        store_blocks(folder / f"{page}.json", f"Measured with version {__version__}, {date.today()}: {what}.", blocks)
    )


def _check_names(names: Sequence[str], known: Mapping[str, object]) -> None:
    for name in names:
        if name not in known:
            raise SystemExit(f"expected one of {', '.join(known)}; found {name}")


if __name__ == "__main__":
    main()
