"""Train peers on MMRec's splits without content, and set them beside figures that others published.

Settings were chosen on the validation part; the pages say how.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.accuracy.running import quick_catalog, train_run
from benchmarks.blocks import Block
from gtcrec.experiments.run import Run
from gtcrec.reporting.run_comparison import compare_runs
from gtcrec.reporting.run_record import EvaluationRecord, RunRecord, read_run_record

METRICS = ("recall@20", "ndcg@20", "ndcg@5")

# data -> model -> settings
SETTINGS: dict[str, dict[str, list[str]]] = {
    data: {
        "lightgcn": ["valid_every=4", "patience=10"],
        "bpr": ["valid_every=5", "patience=10"],
        "itemknn": [],
        "userknn": ["num_neighbors=5000", "popularity_discount=0.3"],
        "rp3beta": [],
        "ials": [],
        "popular": [],
    }
    for data in ("baby", "sports_id", "clothing")
}
SETTINGS["clothing"]["rp3beta"] = ["alpha=0.2", "beta=0"]  # best of 13 settings on its validation part
SETTINGS["baby"]["ease"] = ["reg=200"]  # a matrix of items x items: the others have three times as many

Published = tuple[str, str, str, float, float, float | None]  # name, model, source, recall@20, ndcg@20, ndcg@5
_MMREC = (
    "[published by MMRec](https://github.com/enoche/MMRec/blob/23aab7595ab50e0b79c85c3d29c9b7a9b51b7f3c/"
    "evaluation/README.md)"
)
_QUOTED = "quoted for this split, source not found"
PUBLISHED: dict[str, list[Published]] = {
    "baby": [
        ("LightGCN", "lightgcn", _MMREC, 0.0754, 0.0328, None),
        ("BPR", "bpr", _MMREC, 0.0575, 0.0249, None),
        ("BPR", "bpr", _QUOTED, 0.0570, 0.0251, None),
        ("ItemKNN", "itemknn", _QUOTED, 0.0801, 0.0396, 0.0279),
        ("RP3beta", "rp3beta", _QUOTED, 0.0875, 0.0409, 0.0271),
        ("EASE", "ease", _QUOTED, 0.0824, 0.0396, 0.0272),
    ],
    "sports_id": [
        ("LightGCN", "lightgcn", _MMREC, 0.0864, 0.0387, None),
        ("BPR", "bpr", _MMREC, 0.0653, 0.0298, None),
    ],
    "clothing": [
        ("LightGCN", "lightgcn", _QUOTED, 0.0533, 0.0239, None),
        ("RP3beta", "rp3beta", _QUOTED, 0.0605, 0.0303, 0.0219),
    ],
}


def measure(data: Path, name: str, runs: Path) -> dict[str, Block]:
    """Train what is missing on a data set, evaluate each run on test once, and return the tables."""
    return _measured(data / name, SETTINGS[name], runs / name, PUBLISHED[name])


def measure_quick(runs: Path) -> dict[str, Block]:
    """The same of a tiny catalog, with two models."""
    settings = {"bpr": ["epochs=2"], "popular": []}
    return _measured(quick_catalog(runs / "catalog"), settings, runs / "published", [])


def _measured(
    data: Path, settings: Mapping[str, Sequence[str]], runs: Path, published: Sequence[Published]
) -> dict[str, Block]:
    records = []
    for name, chosen in settings.items():
        train_run(data, runs / name, name, chosen)
        if read_run_record(runs / name).result.test is None:
            Run.load(runs / name).evaluate()
        records.append((name, read_run_record(runs / name)))
    stops = [f"- {name}: {', '.join(settings[name]) or 'none'}; {record.result.stop}." for name, record in records]
    return {
        "data": Block([_data_facts(records[0][1])]),
        "means": means_block(records, published),
        "tests": tests_block(records),
        "settings": Block(stops),
    }


def means_block(records: Sequence[tuple[str, RunRecord]], published: Sequence[Published]) -> Block:
    """Each run's metrics and costs, then the figures of others with the distance of ours from them."""
    rows = [_run_row(name, record) for name, record in records]
    tests = {name: record.final for name, record in records}
    for name, model, source, *figures in published:
        beside = [_beside(value, tests[model], m) for m, value in zip(METRICS, figures, strict=True)]
        rows.append([f"*{name}, {source} (ours against it)*", *beside, *["–"] * 4])
    headers = ("run", *METRICS, "best epoch", "epochs", "CPU-s an epoch", "CPU-s a validation")
    return Block((), headers, rows)


def tests_block(records: Sequence[tuple[str, RunRecord]]) -> Block:
    """Each run against the first, paired over users."""
    rows = []
    for test in compare_runs(list(records), METRICS):
        low, high = test.interval
        interval = f"[{low:+.4f}, {high:+.4f}]"
        rows.append((test.name, test.metric, f"{test.difference:+.4f}", interval, f"{test.p_holm:.4f}"))
    return Block((), ("run", "metric", "difference", "interval", "p"), rows, (0, 1))


def _beside(value: float | None, ours: EvaluationRecord, metric: str) -> str:
    """Another's figure, and how far ours is from it."""
    return "–" if value is None else f"{value:.4f} ({ours.means[metric] / value - 1:+.1%})"


def _data_facts(record: RunRecord) -> str:
    counts = record.data.counts
    split = counts["split"]
    content = ", ".join(f"{m} ({facts['width']})" for m, facts in counts["modalities"].items()) or "none"
    return (
        f"{counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions; content: "
        f"{content}. The data's own split: {split['train']:,} / {split['valid']:,} / {split['test']:,}. "
        f"Fingerprint `{record.data.fingerprint[:16]}`."
    )


def _run_row(name: str, record: RunRecord) -> list[str]:
    test, trained = record.final, any(line.losses for line in record.history)
    cells = [f"{test.means[m]:.4f} [{test.intervals[m][0]:.4f}, {test.intervals[m][1]:.4f}]" for m in METRICS]
    epochs = [str(record.result.best_epoch), str(record.result.epochs)] if trained else ["–", "–"]
    training = f"{median(line.train_cpu_seconds for line in record.timings):.2f}" if trained else "–"
    validated = {line.epoch for line in record.history if line.valid}
    seconds = [line.eval_cpu_seconds or 0 for line in record.timings if line.epoch in validated]
    return [name, *cells, *epochs, training, f"{median(seconds):.2f}"]
