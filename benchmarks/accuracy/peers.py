"""Train every model of configs/peers.yaml alike, and make the tables of the pages docs/results/peers*.md.

The settings are those in benchmarks/tuned, which `benchmarks.accuracy.tuning` finds. Training goes on where it stopped.
The tables are computed from the stored runs (`benchmarks.store`).
"""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import ledger, store
from benchmarks.accuracy import tuning
from benchmarks.accuracy.running import quick_catalog
from benchmarks.blocks import Block
from benchmarks.paths import CONFIGS, RESULTS, ROOT
from gtcrec.experiments.benchmark.plan import BenchmarkConfig, BenchmarkPlan, plan, read_file
from gtcrec.experiments.benchmark.results import Results, Row, read_tested, results
from gtcrec.experiments.benchmark.tables import about, tables
from gtcrec.experiments.execution.scheduler import train_runs
from gtcrec.experiments.planned_run import PlannedRun
from gtcrec.experiments.run_folder import read_stored_config
from gtcrec.reporting.tables import Cell, Table, markdown_lines

FILE = CONFIGS / "peers.yaml"
TESTED = ("recall@20", "ndcg@20")  # the metrics whose paired tests a page shows
WITHDRAWN = {  # rows that rest on faults of version 0.1, until they are measured again
    "lgmrec": "its contrast was averaged where the published code sums it, so it hardly counted",
    "diffmm": "its L2 counted far too little, and its graphs lacked self-loops",
    "smore": "its contrast left out rows that the published code has",
    "freedom": "no item could be its own neighbour, as the published code allows",
    "vbpr": "form and size of its L2 were not the published ones",
    "simgcl": "its L2 was not that of the published code",
}
README = ("recall@20", "ndcg@5")  # the whole list, and the head that the paper speaks of
FAMILIES = {
    "untrained": ("popular", "itemknn", "userknn", "rp3beta", "ease", "ials", "contentknn", "mmgf"),
    "interactions": ("bpr", "lightgcn", "simgcl"),
    "content": ("vbpr", "freedom", "bm3", "mgcn", "lgmrec", "diffmm", "smore"),
}


def read_plan(data: Path, file: Path = FILE) -> BenchmarkConfig:
    """Read the benchmark's file, with the data sets under the folder `data`."""
    config = read_file(file)
    sources = {
        name: one.model_copy(update={"path": str(data / Path(one.path).name)}) for name, one in config.data.items()
    }
    tuned = str(ROOT / config.config) if config.config else ""
    return config.model_copy(update={"data": sources, "config": tuned})


NEW = ("l3ae",)  # models that the stored measurements are older than
NOT_SHOWN = (*WITHDRAWN, *NEW)


def train(
    config: BenchmarkConfig,
    only: Sequence[str],
    jobs: int,
    runs: Path,
    results_folder: Path = RESULTS,
    note: Callable[[str, Sequence[str], str], object] | None = None,
) -> None:
    """Train and test what is missing under `runs`, then store the data sets of which all runs have ended.

    `note` is told of each data set, and of the models that were now tested on it.
    """
    chosen = plan(config, runs, only)
    untested = {run.folder for run in chosen.trained if not store.is_tested(run.folder)}

    def on_event(run: PlannedRun, event: Mapping[str, object]) -> None:
        if "ended" in event:
            print(f"{run.folder.parent.name}/{run.folder.name}: {event['ended']}", flush=True)

    failed = train_runs(chosen.trained, jobs, on_event, keep="results")
    for run, why in failed:
        print(f"{run.folder}: {why}")
    for data, planned in chosen.runs.items():
        tested = dict.fromkeys(run.variant for run in planned if run.folder in untested and store.is_tested(run.folder))
        if tested and note:
            note(data, list(tested), "models tuned alike")
    complete = [data for data, planned in chosen.runs.items() if all(store.is_tested(run.folder) for run in planned)]
    for data in set(chosen.runs) - set(complete):
        print(f"{data}: some runs have not ended; benchmarks/results keeps what it has")
    for file in store.collect(runs, results_folder, complete):
        print(file)
    if failed:
        raise SystemExit(f"{len(failed)} of {len(chosen.trained)} runs failed")


def stored_results(
    config: BenchmarkConfig, folder: Path = RESULTS, only: Sequence[str] = (), hidden: Container[str] = NOT_SHOWN
) -> list[Results]:
    """Compute the results of the stored runs of each data set: means, intervals over users, paired tests."""
    with tempfile.TemporaryDirectory() as name:
        runs = Path(name)
        store.restore(folder, runs, only)
        planned = {
            data: tuple(_stored_runs(config, runs / data, hidden)) for data in config.data if (runs / data).is_dir()
        }
        chosen = BenchmarkPlan(config, runs, planned, ())
        return [results(chosen, data, read_tested(chosen_runs)) for data, chosen_runs in planned.items()]


def _stored_runs(config: BenchmarkConfig, data: Path, hidden: Container[str]) -> Iterator[PlannedRun]:
    for model in config.models:
        if model in hidden:
            continue
        for folder in sorted(data.glob(f"{model}-*"), key=lambda path: int(path.name.rpartition("-")[2])):
            name, _, seed = folder.name.rpartition("-")
            if name == model:
                yield PlannedRun(name, int(seed), read_stored_config(folder), folder)


def blocks(only: Sequence[str] = ()) -> dict[str, dict[str, Block]]:
    """Return the blocks of each page by its name, README.md among them; of some data sets their own pages alone."""
    config = read_plan(Path("data"))
    shown = [model for model in config.models if model not in NOT_SHOWN]
    complete = [one for one in stored_results(config, only=only) if len(one.rows) == len(shown)]
    looks = ledger.read_ledger()
    made = {
        f"peers-{one.data}.md": data_blocks(one)
        | {"withdrawn": withdrawn_block(), "looks": ledger.ledger_block(looks, [one.data])}
        for one in complete
    }
    made |= {
        f"peers-{one.data}-tuning.md": {
            "tuning": tuning.tuning_block(one.data, [name for name in config.models if name not in NEW])
        }
        for one in complete
    }
    if only:
        return made
    made["peers.md"] = {
        "protocol": protocol_block(config),
        "places": places_block(complete),
        "withdrawn": withdrawn_block(),
        "looks": ledger.ledger_block(looks),
    }
    made["README.md"] = {"peers-readme": readme_block(complete)}
    return made


def withdrawn_block() -> Block:
    """Return which models have no rows, and why."""
    reasons = [f"- `{model}`: {reason}." for model, reason in WITHDRAWN.items()]
    return Block(
        ["Withdrawn until they are measured again, as version 0.1 did not train what they name:", "", *reasons]
    )


def data_blocks(result: Results) -> dict[str, Block]:
    """Return the tables of a data set, a sentence on its data, and one on who is behind the popular items."""
    made = {"data": Block([about(result)])}
    for table in tables(result):
        if table.title == "Paired tests":
            table = dataclasses.replace(table, rows=tuple(row for row in table.rows if row[1].text in TESTED))
        made[table.title.lower().replace(", ", "-").replace(" ", "-")] = table_block(table)
    return made | {"not-above-popular": Block([not_above("popular", result)])}


def not_above(name: str, result: Results) -> str:
    """Return a sentence: at which metrics whose mean is not above that of the model `name`."""
    least = next(row for row in result.rows if row.name == name).estimates
    others = [row for row in result.rows if row.name != name]
    behind = {m: [row.name for row in others if row.estimates[m].mean <= least[m].mean] for m in result.metrics}
    parts = [f"at {metric} {', '.join(names)}" for metric, names in behind.items() if names]
    return f"Not above `{name}`: {'; '.join(parts) or 'none'}."


def protocol_block(config: BenchmarkConfig) -> Block:
    """The budgets of the trials and of the final trainings, as the stored files have them."""
    stored = store.train_settings(RESULTS)
    lines = [
        f"- Tuning: {tuning.TRIALS} trials a model, the first with its defaults; fewer where the space is smaller."
    ]
    for data in config.data:
        trials = tuning.trial_budgets(data, [name for name in config.models if name not in NEW])
        finals = Counter(tuning.budget(one) for one in stored[data])
        lines.append(f"- `{data}`. {tuning.budget_text(trials)} {tuning.budget_text(finals, 'A final training')}")
        if set(trials) != set(finals):
            lines[-1] += " So trials had less time than the final trainings."
    seeds = ", ".join(map(str, sorted({one["seed"] for trained in stored.values() for one in trained})))
    return Block([*lines, f"- Final trainings: seeds {seeds}."])


def places_block(summaries: Sequence[Results]) -> Block:
    """GTC's place at each metric, and the best of the others against it."""
    rows = []
    for one in summaries:
        for metric in one.metrics:
            ranked = sorted(one.rows, key=lambda row: -row.estimates[metric].mean)
            place = 1 + [row.name for row in ranked].index(one.base)
            best = next(row for row in ranked if row.name != one.base)
            estimate = best.estimates[metric]
            assert estimate.against is not None
            test, relative, _ = estimate.against
            low, high = estimate.against.wider_interval or (float("nan"), float("nan"))
            share = f"{relative or 0:+.1%} [{low:+.1%}, {high:+.1%}]"
            rows.append((one.data, metric, f"{place} of {len(ranked)}", best.name, share, f"{test.p_holm:.4f}"))
    headers = ("data", "metric", "place of gtc", "best other model", "it against gtc", "p (Holm)")
    return Block((), headers, rows, (0, 1, 3))


def readme_block(summaries: Sequence[Results]) -> Block:
    """Two metrics of each data set for a few models: gtc, popular, the best in any column, the best of each family."""
    headers, columns, ranks = ["model"], [], []
    names = [row.name for row in summaries[0].rows]
    for one in summaries:
        means = next(table for table in tables(one) if table.title == "Means")
        for metric in README:
            cells = [row[means.headers.index(metric)] for row in means.rows]
            headers.append(f"{one.data} {metric}")
            columns.append([dataclasses.replace(cell, text=cell.text.partition(" ")[0]) for cell in cells])
            ranks.append(_ranks(one.rows, metric))
    total = {name: sum(rank[name] for rank in ranks) for name in names}
    best = {name for name in names if any(rank[name] == 1 for rank in ranks)}
    best |= {min(set(family) & set(names), key=lambda name: total[name]) for family in FAMILIES.values()}
    shown = [place for place, name in enumerate(names) if name in {"gtc", "popular", *best}]
    rows = tuple((Cell(names[place]), *(column[place] for column in columns)) for place in shown)
    withdrawn = ", ".join(f"`{name}`" for name in WITHDRAWN)
    why = f"Withdrawn until measured again, as version 0.1 did not train what they name: {withdrawn}."
    return Block([*markdown_lines(Table("", "", tuple(headers), rows)), "", why])


def _ranks(rows: Sequence[Row], metric: str) -> dict[str, int]:
    ranked = sorted(rows, key=lambda row: -row.estimates[metric].mean)
    return {row.name: place for place, row in enumerate(ranked, 1)}


def table_block(table: Table) -> Block:
    """Return a table as a block, its note before it."""
    return Block([table.note, "", *markdown_lines(dataclasses.replace(table, title="", note=""))])


def measure_quick(runs: Path) -> None:
    """Train two models on a tiny catalog, store them apart from the real results, and print the tables."""
    catalog = quick_catalog(runs / "catalog")
    entries = {"data": {"catalog": str(catalog)}, "models": ["gtc", "popular"], "base": "gtc", "seeds": [0]}
    config = BenchmarkConfig.model_validate({**entries, "train": {"epochs": 1}})
    (runs / "results").mkdir()
    train(config, (), 1, runs / "peers", runs / "results")
    for result in stored_results(config, runs / "results"):
        for block in data_blocks(result).values():
            print("\n".join(["", *block.lines()]))
