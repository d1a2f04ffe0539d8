"""Train the models of a page of peers beside published figures, and write the page from the run folders.

    python benchmarks/results.py train baby   # trains what is missing under runs/baby/, resumes what was stopped
    python benchmarks/results.py write baby   # evaluates on test once, writes docs/results/baby.md

The data folders are expected as data/NAME. Settings were chosen on the validation part; the page says how.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from gtcrec import resolve
from gtcrec.experiments.run import Run
from gtcrec.reporting.run_comparison import compare_to_first
from gtcrec.reporting.run_record import RunRecord, read

METRICS = ("recall@20", "ndcg@20", "ndcg@5")

# data -> model -> settings
RUNS: dict[str, dict[str, list[str]]] = {
    data: {
        "lightgcn": ["valid_every=4", "patience=10"],
        "bpr": ["valid_every=5", "patience=10"],
        "itemknn": [],
        "userknn": ["neighbours=5000", "popularity=0.3"],
        "rp3beta": [],
        "ials": [],
        "popular": [],
    }
    for data in ("baby", "sports_id", "clothing")
}
RUNS["clothing"]["rp3beta"] = ["alpha=0.2", "beta=0"]  # best of 13 settings on its validation part
RUNS["baby"]["ease"] = ["reg=200"]  # a matrix of items x items: the others have three times as many

# What others measured on these splits: (name, model, source, recall@20, ndcg@20, ndcg@5)
_MMREC = (
    "[published by MMRec](https://github.com/enoche/MMRec/blob/23aab7595ab50e0b79c85c3d29c9b7a9b51b7f3c/"
    "evaluation/README.md)"
)
_QUOTED = "quoted for this split, source not found"
KNOWN: dict[str, list[tuple[str, str, str, float, float, float | None]]] = {
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

NOTES: dict[str, str] = {
    "baby": """
## What it says

No content ships with this split, so no multi-modal model is in the table. The peers stand where they should: LightGCN
within 3 % of its published figures, EASE and RP3beta at what is quoted, ItemKNN and a well regularised BPR above. A
walk of three steps and co-counts beat every trained model of interactions here.
""",
    "sports_id": """
## What it says

LightGCN is at its published figures, BPR above them, as on `baby`. ItemKNN, UserKNN and RP3beta are 8 to 12 % ahead of
LightGCN at recall@20 and more at the head of the list, as there. EASE is left out: its matrix of items x items takes
minutes here.
""",
    "clothing": """
## What it says

LightGCN and RP3beta are at what is quoted for this split. With RP3beta's defaults, which were chosen on `baby`, it
found .0564 and .0290 at 20 here; the settings of the table were chosen on this split's validation part after that. EASE
is left out, as on `sports_id`.
""",
}

AGAIN = (
    "Test was looked at twice: all were trained again with later code and the same settings, and every mean was the "
    "same."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["train", "write"])
    parser.add_argument("data", choices=RUNS)
    parser.add_argument("--only", nargs="*", default=[], help="models")
    parser.add_argument("--set", nargs="*", default=[], help="settings for every run, e.g. epochs=2")
    given = parser.parse_args()
    chosen = {name: own for name, own in RUNS[given.data].items() if not given.only or name in given.only}
    if given.verb == "train":
        for name, settings in chosen.items():
            train(given.data, name, name, [*settings, *given.set])
    else:
        write(given.data, list(chosen))


def train(data: str, name: str, model: str, settings: list[str]) -> None:
    folder = Path("runs") / data / name
    if (folder / "config.yaml").exists():
        run = Run.load(folder)
    else:
        run = Run.create(resolve(f"data/{data}", model, given=settings), folder)
    for epoch in run.epochs():
        metric = run.config.train.valid_metric
        print(
            f"{data} {name} epoch {epoch.number} {metric} {epoch.valid.get(metric, 0):.4f}{' *' * epoch.best}",
            flush=True,
        )


def write(data: str, names: list[str]) -> None:
    folders = {name: Path("runs") / data / name for name in names}
    for folder in folders.values():
        if "test" not in json.loads((folder / "report.json").read_text(encoding="utf-8")):
            Run.load(folder).evaluate()
    records = [(name, read(folder)) for name, folder in folders.items()]
    out = Path("docs/results") / f"{data}.md"
    out.write_text("\n".join(page(data, records)) + "\n", encoding="utf-8")
    print(out)


def page(data: str, records: list[tuple[str, RunRecord]]) -> list[str]:
    lines = [
        f"# {data}",
        "",
        f"Written by `python benchmarks/results.py write {data}` from the run folders `runs/{data}/NAME`; do not edit.",
        "",
        about(records[0][1]),
        "",
        "Full ranking over all items, training items masked, everything chosen on validation. Means over users with "
        "95 % bootstrap intervals.",
        "",
        "| run | recall@20 | ndcg@20 | ndcg@5 | best epoch | epochs | CPU-s an epoch | CPU-s a validation |",
        "|---|---|---|---|---|---|---|---|",
        *(row(name, record) for name, record in records),
    ]
    ours = {name: record.result.test for name, record in records}
    for name, model, source, *figures in KNOWN[data]:
        shown = [_beside(value, ours[model], m) for m, value in zip(METRICS, figures, strict=True)]
        lines.append(f"| *{name}, {source} (ours against it)* | {' | '.join(shown)} | – | – | – | – |")
    lines += [
        "",
        f"Paired over users against {records[0][0]}: difference, 95 % interval, p after Holm's correction.",
        "",
    ]
    lines += ["| run | metric | difference | interval | p |", "|---|---|---|---|---|"]
    for t in compare_to_first(records, METRICS):
        low, high = t.interval
        lines.append(f"| {t.name} | {t.metric} | {t.difference:+.4f} | [{low:+.4f}, {high:+.4f}] | {t.p_holm:.4f} |")
    lines += ["", "Settings that differ from the defaults, and why each training ended:", ""]
    for name, record in records:
        lines.append(f"- {name}: {', '.join(RUNS[data][name]) or 'none'}; {record.result.stop}.")
    return [*lines, "", *NOTES[data].strip().splitlines(), "", AGAIN]


def _beside(value: float | None, ours: Any, metric: str) -> str:
    """Another's figure, and how far ours is from it."""
    return "–" if value is None else f"{value:.4f} ({ours.means[metric] / value - 1:+.1%})"


def about(record: RunRecord) -> str:
    counts = record.data.counts
    split = counts["split"]
    content = ", ".join(f"{m} ({facts['width']})" for m, facts in counts["modalities"].items()) or "none"
    return (
        f"{counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions; content: "
        f"{content}. The data's own split: {split['train']:,} / {split['valid']:,} / {split['test']:,}. "
        f"Fingerprint `{record.data.fingerprint[:16]}`."
    )


def row(name: str, record: RunRecord) -> str:
    test, trained = record.result.test, any(line.losses for line in record.history)
    cells = [f"{test.means[m]:.4f} [{test.intervals[m][0]:.4f}, {test.intervals[m][1]:.4f}]" for m in METRICS]
    epochs = [str(record.result.best_epoch), str(record.result.epochs)] if trained else ["–", "–"]
    training = f"{median(t.train_cpu_seconds for t in record.timings):.2f}" if trained else "–"
    validated = {line.epoch for line in record.history if line.valid}
    validation = f"{median(t.eval_cpu_seconds for t in record.timings if t.epoch in validated):.2f}"
    return "| " + " | ".join([name, *cells, *epochs, training, validation]) + " |"


if __name__ == "__main__":
    main()
