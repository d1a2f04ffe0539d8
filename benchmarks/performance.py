"""Write docs/results/performance.md from what the other scripts measured; train the runs whose accuracy it compares.

    python benchmarks/performance.py train tiktok      # and sports: hours; resumes what was stopped
    python benchmarks/performance.py write             # evaluates these runs on test once

Measurements are read from runs/performance/{speed,growth,index,ray_training,blocks}.json, each written by the script of
that name with --out; what is missing is listed on the page as not measured.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blocks
import growth
import index
import numpy as np
import pyarrow.parquet as pq
import ray_training
import results
import speed_page

from gtcrec.evaluation.statistics import bootstrap_interval
from gtcrec.experiments.run import Run
from gtcrec.reporting.run_record import read

MEASURED = Path("runs/performance")
PAGE = Path("docs/results/performance.md")
METRIC = "ndcg@20"

# What is compared: name of a run -> settings; the first is the whole that the others make cheaper.
WHOLE = "gtc"
TIKTOK = ["als_reg=0.05", "epochs=40", "valid_every=2", "patience=6"]
SPORTS = ["als_reg=0.05", "learning_rate=0.003", "train.decay=linear", "epochs=12", "valid_every=4"]
SHARED = {"tiktok": TIKTOK, "sports": SPORTS}
SETTINGS = {data: {WHOLE: settings, "gtc-sampled": ["preset=sampled", *settings]} for data, settings in SHARED.items()}
SEEDS = {"tiktok": (0, 1, 2), "sports": (0, 1, 2)}
SHOWN = {
    WHOLE: "`default`: embeddings over the whole graph at every step",
    "gtc-sampled": "`sampled`: walks instead of the whole graph",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    train_ = verbs.add_parser("train")
    train_.add_argument("data", choices=SEEDS)
    verbs.add_parser("write")
    given = parser.parse_args()
    if given.verb == "train":
        for seed in SEEDS[given.data]:
            for name, settings in SETTINGS[given.data].items():
                results.train(given.data, _run(name, seed), "gtc", [*settings, f"seed={seed}"])
    else:
        PAGE.write_text("\n".join(page()) + "\n", encoding="utf-8")
        print(PAGE)


def page() -> list[str]:
    found = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(MEASURED.glob("*.json"))}
    lines = speed_page.page(found["speed"])
    lines += ["", *accuracy()]
    if "growth" in found:
        growth.plot(found["growth"], PAGE.with_name("growth.svg"))
        lines += ["", *grown(found["growth"])]
    if "ray_training" in found:
        lines += ["", "## Several workers", "", *ray_training.page(found["ray_training"], METRIC)]
    if "blocks" in found:
        lines += ["", "## Batch recommendation and encoding", "", *blocks.lines(found["blocks"])]
    if "index" in found:
        lines += ["", "## Approximate search", "", *index.rows(found["index"])]
    return [*lines, "", *not_measured(found)]


def accuracy() -> Iterator[str]:
    """What the cheaper settings cost in accuracy: pairs of runs of one seed, user by user, means over seeds."""
    yield "## Accuracy of the cheaper settings"
    yield ""
    yield (
        f"Test {METRIC}; each setting against `default` of the same seeds: a user's values are averaged "
        "over seeds and paired, 95 % bootstrap interval over users, as a share of the whole's mean. It does not cover "
        "the chance that lies in the seeds. Both sides have the same settings otherwise: "
        + "; ".join(f"on {data} {', '.join(settings)}" for data, settings in SHARED.items())
        + "."
    )
    for data, seeds in SEEDS.items():
        yield ""
        yield f"| {data} | seeds | {METRIC} | to the whole | interval | best epoch | CPU-s an epoch |"
        yield "|---|---|---|---|---|---|---|"
        values = {}
        for name in SETTINGS[data]:
            folders = [Path("runs") / data / _run(name, seed) for seed in seeds]
            folders = [folder for folder in folders if (folder / "report.json").exists()]
            if not folders:
                yield f"| {SHOWN[name]} | 0 | not measured | – | – | – | – |"
                continue
            values[name] = {folder.name: _per_user(folder) for folder in folders}
            yield _row(name, folders, values)


def _row(name: str, folders: list[Path], values: dict[str, dict[str, Any]]) -> str:
    records = [read(folder) for folder in folders]
    epochs = ", ".join(str(record.result.best_epoch) for record in records)
    seconds = np.median([t.train_cpu_seconds for record in records for t in record.timings])
    mean = np.mean([one.mean() for one in values[name].values()])
    share, interval = "–", "–"
    if name != WHOLE and WHOLE in values:
        pairs = [
            (run, run.replace(name, WHOLE, 1)) for run in values[name] if run.replace(name, WHOLE, 1) in values[WHOLE]
        ]
        ours = np.mean([values[name][run] for run, _ in pairs], axis=0)
        theirs = np.mean([values[WHOLE][run] for _, run in pairs], axis=0)
        low, high = bootstrap_interval(ours - theirs, np.random.default_rng(0))
        share = f"{(ours.mean() / theirs.mean() - 1) * 100:+.1f} %"
        interval = f"[{low / theirs.mean() * 100:+.1f} %, {high / theirs.mean() * 100:+.1f} %]"
        if len(pairs) < len(values[name]):
            share += f" ({len(pairs)} seeds)"
    return f"| {SHOWN[name]} | {len(folders)} | {mean:.4f} | {share} | {interval} | {epochs} | {seconds:.2f} |"


def _per_user(folder: Path) -> Any:
    if "test" not in json.loads((folder / "report.json").read_text(encoding="utf-8")):
        Run.load(folder).evaluate()
    return np.asarray(pq.read_table(folder / "per_user_test.parquet")[METRIC])


def grown(result: dict[str, Any]) -> Iterator[str]:
    """How a step grows with the catalogue."""
    about = result["about"]
    yield "## Growth with the catalogue"
    yield ""
    yield "![Time of a step and peak memory by number of items](growth.svg)"
    yield ""
    yield (
        f"As many users as items, {growth.PER_USER} interactions a user, items of power-law popularity, two modalities "
        f"of {growth.WIDTH} random numbers in memory-mapped files; batch {growth.BATCH:,}, {about['threads']} thread "
        f"of {about['cores']} cores, {about['rounds']} rounds of {about['steps']} timed steps, medians over rounds. "
        "Seconds are CPU time. Peak memory is that of a process that built the model, refreshed, stepped and "
        "validated, libraries included. At "
        f"more than {growth.STRAIGHT:,} items an approximate index finds the content neighbours. Validation: "
        f"{growth.VALID_USERS:,} users against all items. An epoch is refresh + steps."
    )
    yield ""
    yield "| propagation | items | step | construction | refresh | steps an epoch | validation | peak GiB |"
    yield "|---|---|---|---|---|---|---|---|"
    for mode in growth.MODES:
        for one in growth.points(result, mode):
            spread = "{median:.3f} [{min:.3f}, {max:.3f}]".format(**one["step"])
            cells = f"{one['construction']:.1f} | {one['refresh']:.2f} | {one['steps']:,} | {one['validation']:.1f}"
            yield f"| {mode} | {one['items']:,} | {spread} | {cells} | {one['peak'] / 2**30:.1f} |"
    yield ""
    for mode in growth.MODES:
        found = growth.points(result, mode)
        if len(found) > 1:
            first, last = found[0], found[-1]
            ratio, steep = last["step"]["median"] / first["step"]["median"], growth.slope(found, _step)
            yield (
                f"- {mode}: a step at {last['items']:,} items takes {ratio:.2f} times the time of one at "
                f"{first['items']:,}; slope {steep:.2f} (time ~ items^slope)."
            )


def _step(one: dict[str, Any]) -> float:
    return float(one["step"]["median"])


def not_measured(found: dict[str, Any]) -> Iterator[str]:
    yield "## Not measured"
    yield ""
    yield "- GPU: not measured."
    yield "- The published code itself: naive GTC (`benchmarks/naive_gtc.py`) is a transcription of its arithmetic."
    yield "- Training to the end: an epoch is extrapolated from a few steps."
    absent = found["speed"]["absent"]
    if absent:
        yield f"- {', '.join(speed_page.NAMES[name] for name in absent)}: not among the models."
    for name in ("growth", "ray_training", "blocks", "index"):
        if name not in found:
            yield f"- {name}: `benchmarks/{name}.py` has not been run."


def _run(name: str, seed: int) -> str:
    """The run folder's name: a model's, with the seed but for the first."""
    return f"{name}-{seed}" if seed else name


if __name__ == "__main__":
    main()
