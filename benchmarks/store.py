"""Keep measured runs in few files: a table with a row a run, and a table a data set with the values of its users.

`collect` packs the run folders of `gtcrec benchmark` into `runs.parquet` and `per_user_{data}.parquet`. `restore`
writes them back as run folders without weights, so that every table and test is computed again from what git holds.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from gtcrec.experiments.execution.worker import RESULTS as KEPT
from gtcrec.runtime.files import check_manifest, write_manifest
from gtcrec.types import ReportContext

RUNS = "runs.parquet"
_TIMES = ("train_seconds", "train_cpu_seconds", "eval_seconds", "eval_cpu_seconds")
_COSTS = ("setup_seconds", "setup_cpu_seconds", "bare_bytes", "peak_bytes")
_TEXTS = ("config", "data_facts", "environment", "about")  # nested, kept as JSON


def per_user_file(data: str) -> str:
    return f"per_user_{data}.parquet"


def collect(runs: Path, results: Path, names: Sequence[str]) -> list[Path]:
    """Pack the tested runs of data sets, under `runs` as DATA/NAME-SEED, into `results`; return the files.

    What is stored of other data sets stays. Raises `DataError` for a damaged folder.
    """
    if not names:
        return []
    rows, files = [], []
    for data in sorted(names):
        folders = [folder for folder in sorted((runs / data).iterdir()) if is_tested(folder)]
        rows += [_run_row(folder) for folder in folders]
        files.append(_write_users(folders, results / per_user_file(data)))
    path = results / RUNS
    kept = [row for row in _read_rows(path) if row["data"] not in names] if path.exists() else []
    rows = sorted([*kept, *rows], key=lambda row: (row["data"], row["name"], row["seed"]))
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd", compression_level=19)
    return [path, *files]


def restore(results: Path, runs: Path, only: Sequence[str] = ()) -> None:
    """Write the stored runs as run folders `runs`/DATA/NAME-SEED, of some data sets or of all."""
    users: dict[str, pa.Table] = {}
    for row in _read_rows(results / RUNS):
        data, run = row["data"], f"{row['name']}-{row['seed']}"
        if only and data not in only:
            continue
        if data not in users:
            users[data] = pq.read_table(results / per_user_file(data))
        folder = runs / data / run
        folder.mkdir(parents=True)
        for name, text in _run_files(row):
            (folder / name).write_text(text, encoding="utf-8")
        columns = {name.rpartition("/")[2]: name for name in users[data].column_names if name.startswith(f"{run}/")}
        table = users[data].select(["user", *columns.values()]).rename_columns(["user", *columns])
        pq.write_table(table, folder / "per_user_test.parquet", compression="none")
        write_manifest(folder, list(KEPT))


def train_settings(results: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the training settings of the stored runs that gradients trained, by data set."""
    settings: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(results / RUNS, columns=["data", "config", "epoch_loss"]).to_pylist():
        if any(loss is not None for loss in row["epoch_loss"]):
            settings.setdefault(row["data"], []).append(json.loads(row["config"])["train"])
    return settings


def is_tested(folder: Path) -> bool:
    """Return whether a folder holds a run that has been measured on test."""
    report = folder / "report.json"
    return report.exists() and "test" in json.loads(report.read_text(encoding="utf-8"))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def _run_row(folder: Path) -> dict[str, Any]:
    """A run folder as a row: what its files say, but for the losses of each epoch other than their sum."""
    check_manifest(folder)
    files = {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("report", "data", "costs")}
    environment = json.loads((folder / "environment.json").read_text("utf-8"))
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    report, test = files["report"], files["report"]["test"]
    history, timings = (_read_lines(folder / f"{name}.jsonl") for name in ("history", "timings"))
    metric = config["train"]["valid_metric"]
    prints = ReportContext.from_dict(test["about"]).fingerprints
    return {
        "data": folder.parent.name,
        "name": folder.name.rpartition("-")[0],
        "seed": int(folder.name.rpartition("-")[2]),
        **{key: report[key] for key in ("model", "best_epoch", "epochs", "stop", "parameters")},
        **{key: int(files["costs"][key]) if "bytes" in key else float(files["costs"][key]) for key in _COSTS},
        "fingerprint_data": files["data"]["fingerprint"],
        "fingerprint_train": prints["train"],
        "fingerprint_test": prints["relevant"],
        "users": test["users"],
        **{key: test[key] for key in ("means", "lists", "slices")},
        "valid_users": report["valid"]["users"],
        "valid_means": report["valid"]["means"],
        "epoch_loss": [line["losses"].get("total") for line in history],
        "epoch_valid": [(line["valid"] or {}).get(metric) for line in history],
        "epoch_best": [line["best"] for line in history],
        **{f"epoch_{key}": [line.get(key) for line in timings] for key in _TIMES},
        **dict(zip(_TEXTS, map(json.dumps, (config, files["data"], environment, test["about"])), strict=True)),
    }


def _run_files(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The text files of a run folder, by name."""
    config, facts, environment, about = (json.loads(row[key]) for key in _TEXTS)
    test = {"users": row["users"], **{key: _without_none(row[key]) for key in ("means", "lists")}, "about": about}
    slices = {group: dict(means) for group, means in row["slices"].items() if means is not None}
    valid = {"users": row["valid_users"], "means": _without_none(row["valid_means"]), "intervals": {}}
    report = {key: row[key] for key in ("model", "best_epoch", "epochs", "stop", "parameters")}
    report |= {"valid": valid, "test": {**test, "intervals": {}, "slices": slices}}
    metric = config["train"]["valid_metric"]
    first = row["epochs"] - len(row["epoch_best"]) + 1  # 0 where the start was validated too
    epochs = zip(row["epoch_loss"], row["epoch_valid"], row["epoch_best"], strict=True)
    history = [
        {
            "epoch": number,
            "losses": {} if loss is None else {"total": loss},
            "valid": None if value is None else {metric: value},
            "best": best,
        }
        for number, (loss, value, best) in enumerate(epochs, first)
    ]
    columns = zip(*(row[f"epoch_{key}"] for key in _TIMES), strict=True)
    timings = [
        {"epoch": n, **_without_none(dict(zip(_TIMES, one, strict=True)))} for n, one in enumerate(columns, first)
    ]
    yield "config.yaml", yaml.safe_dump(config, sort_keys=False)
    for name, value in {"data": facts, "environment": environment, "report": report}.items():
        yield f"{name}.json", json.dumps(value)
    yield "costs.json", json.dumps({key: row[key] for key in _COSTS})
    for name, lines in {"history": history, "timings": timings}.items():
        yield f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _write_users(folders: list[Path], path: Path) -> Path:
    """Write a row a user, a column a run and metric; a metric has few distinct values, which a dictionary holds."""
    columns: dict[str, Any] = {}
    for folder in folders:
        table = pq.read_table(folder / "per_user_test.parquet")
        user = table.column("user")
        if not pc.all(pc.equal(columns.setdefault("user", user), user)).as_py():
            raise SystemExit(f"{folder}: measured on other users than {folders[0]}")
        columns |= {f"{folder.name}/{name}": table.column(name) for name in table.column_names[1:]}
    pq.write_table(pa.table(columns), path, compression="zstd", compression_level=22)
    return path
