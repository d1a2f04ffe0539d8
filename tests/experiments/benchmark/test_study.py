"""`gtcrec benchmark`: its file, its runs and what they cost, and going on after kills."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from gtcrec.cli.benchmark import show_runs, train_planned
from gtcrec.cli.main import execute
from gtcrec.errors import ConfigError, DataError, RunError
from gtcrec.experiments.benchmark.plan import BenchmarkConfig, plan, read_file
from gtcrec.experiments.execution.scheduler import WorkerPool, train_runs
from gtcrec.experiments.execution.worker import (
    RESULTS,
    keep_results,
    peak_bytes,
    train_and_measure,
    train_locked,
)
from gtcrec.experiments.planned_run import PlannedRun, is_evaluated
from gtcrec.experiments.run import Run
from gtcrec.models.registry import MODELS
from gtcrec.runtime.files import check_manifest
from gtcrec.runtime.locks import hold_lock
from helpers.bench import RUNS, SMALL, planned, write_file

# The file.


def test_a_model_without_a_gradient_has_one_run_and_folders_say_data_name_and_seed(data: Path) -> None:
    found = planned(write_file(data.parent))
    assert [one.folder.name for one in found.runs["shop"]] == RUNS
    assert {one.folder.parent for one in found.trained} == {data.parent / "out" / "shop"}
    first, second = found.runs["shop"][:2]
    assert (first.config.train.seed, second.config.train.seed) == (0, 1)
    assert first.config.evaluate.metrics[:2] == ("recall@5", "recall@10")


def test_names_and_paths_alone_stand_for_entries(data: Path) -> None:
    config = read_file(write_file(data.parent, models=["bpr", "popular"]))
    assert {name: entry.model for name, entry in config.models.items()} == {"bpr": "", "popular": ""}
    assert config.data["shop"].path == str(data)
    assert read_file(write_file(data.parent, models={"bpr": "lightgcn"})).models["bpr"].model == "lightgcn"


def test_settings_lie_over_the_data_set_over_all_over_the_config_file(data: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "best.yaml"
    tuned.write_text("model: bpr\nsettings: {dim: 4, reg: 0.5}\ntrain: {epochs: 9, patience: 7, learning_rate: 0.5}\n")
    models = {"bpr": {"config": {"shop": str(tuned)}, "settings": {"embedding_dim": 12}, "train": {"batch_size": 64}}}
    source = {"path": str(data), "train": {"epochs": 5}, "split": {"strategy": "leave_one_out"}}
    config = planned(write_file(data.parent, models=models, data={"shop": source, "bare": str(data)})).runs
    shop, bare = config["shop"][0].config, config["bare"][0].config
    assert shop.settings == {**bare.settings, "embedding_dim": 12, "reg": 0.5}
    train = shop.train
    assert (train.epochs, train.patience, train.learning_rate, train.batch_size) == (5, 7, 0.02, 64)
    assert (shop.split.strategy, bare.split.strategy) == ("leave_one_out", "auto")
    assert (bare.train.epochs, bare.train.patience) == (1, 50)


def test_one_config_stands_for_a_file_for_each_data_set_and_line(data: Path, tmp_path: Path) -> None:
    for source, line, model, dim in (("a", "bpr", "bpr", 4), ("a", "mine", "lightgcn", 5), ("b", "bpr", "bpr", 6)):
        (tmp_path / source).mkdir(exist_ok=True)
        (tmp_path / source / f"{line}.yaml").write_text(f"model: {model}\nsettings: {{dim: {dim}}}\n")
    own = {"config": {"b": str(tmp_path / "a" / "mine.yaml")}, "model": "lightgcn"}
    file = write_file(
        data.parent,
        data={"a": str(data), "b": str(data)},
        models={"bpr": None, "mine": own},
        config=str(tmp_path / "{data}" / "{model}.yaml"),
    )
    found = {
        (name, one.variant): one.config.settings["embedding_dim"]
        for name, runs in planned(file).runs.items()
        for one in runs
    }
    assert found == {("a", "bpr"): 4, ("a", "mine"): 5, ("b", "bpr"): 6, ("b", "mine"): 5}


def test_only_names_models_data_sets_or_both(data: Path) -> None:
    file = write_file(data.parent, data={"a": str(data), "b": str(data)})
    names = {
        word: [f"{one.folder.parent.name}/{one.variant}" for one in planned(file, (word,)).trained if not one.seed]
        for word in ("wide", "b", "a/bpr")
    }
    assert names == {"wide": ["a/wide", "b/wide"], "b": ["b/bpr", "b/popular", "b/wide"], "a/bpr": ["a/bpr"]}
    with pytest.raises(ConfigError, match=r"--only: expected a model, .* found 'widr' \(did you mean 'wide'\?\)"):
        planned(file, ("widr",))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"seed": [1]}, r"bench.yaml: unknown key 'seed' \(did you mean 'seeds'\?\); known: data, models"),
        ({"models": {"bpr": {"set": {}}}}, r"unknown key 'models.bpr.set' \(did you mean 'preset'\?\); known: model, "),
        ({"data": {"a": {"paths": "x"}}}, r"bench.yaml: data.a.path: Field required"),
        ({"data": {"a": {"path": "x", "spilt": {}}}}, r"unknown key 'data.a.spilt' \(did you mean 'split'\?\)"),
        ({"seeds": [0, -1]}, r"bench.yaml: seeds.1: Input should be greater than or equal to 0, found -1"),
        ({"seeds": [1, 1]}, r"bench.yaml: seeds: expected distinct numbers, found \[1, 1\]"),
        ({"metrics": ["recal@5"]}, r"unknown metric 'recal@5' \(did you mean 'recall'\?\)"),
        (
            {"base": "bpt"},
            r"base: expected one of the models, bpr, popular, wide; found 'bpt' \(did you mean 'bpr'\?\)",
        ),
        ({"models": ["bpr", "wibe"]}, r"bench.yaml: models.wibe: unknown model 'wibe'"),
        ({"models": {"../x": "bpr", "bpr": None}}, r"bench.yaml: models.../x: String should match pattern"),
        (
            {"models": {"bpr": {"config": {"shp": "x"}}}},
            r"bpr.config: no data set 'shp' \(did you mean 'shop'\?\)",
        ),
        (
            {"models": {"bpr": {"settings": {"embeding_dim": 1}}}},
            r"bpr on shop: bpr has no setting 'embeding_dim' \(did you mean",
        ),
        ({"models": {"bpr": {"config": "none.yaml"}}}, r"bpr on shop: none.yaml: cannot be read"),
        ({"train": {"seed": 3}}, r"bpr on shop: train.seed: the seeds stand under `seeds`"),
    ],
)
def test_a_wrong_file_is_refused_by_key(data: Path, tmp_path: Path, more: dict[str, object], message: str) -> None:
    file = write_file(tmp_path, **{"data": {"shop": str(data)}, **more})
    with pytest.raises((ConfigError, DataError), match=message):
        planned(file)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_none_and_the_config_of_another_model_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read: .*No such file"):
        read_file(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"list.yaml: expected keys and values, found list"):
        read_file(tmp_path / "list.yaml")
    (tmp_path / "best.yaml").write_text("model: lightgcn\n")
    file = write_file(tmp_path, data={"shop": str(data)}, models={"bpr": {"config": str(tmp_path / "best.yaml")}})
    with pytest.raises(ConfigError, match=r"best.yaml: expected a config file with model: bpr, found 'lightgcn'"):
        planned(file)


# The runs.


def test_a_run_that_differs_from_the_file_is_refused_by_key(copied: Path) -> None:
    changed = yaml.safe_load(copied.read_text())
    changed["train"]["epochs"] = 3
    copied.write_text(yaml.safe_dump(changed))
    with pytest.raises(RunError, match=r"shop/bpr-0: holds a run with train.epochs = 1, expected 3; give the settings"):
        planned(copied)


def test_a_run_that_has_ended_is_not_repeated(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(WorkerPool, "start", never)
    before = {path: path.stat().st_mtime_ns for path in (copied.parent / "out" / "shop").rglob("*") if path.is_file()}
    assert execute(["benchmark", str(copied)]) == 0
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before


def test_a_run_is_measured_on_test_once_and_its_costs_are_sealed(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = planned(copied).trained[0]
    folder = wanted.folder
    costs = json.loads((folder / "costs.json").read_text())
    assert 0 < costs["bare_bytes"] <= costs["peak_bytes"] <= peak_bytes()
    assert 0 < costs["setup_cpu_seconds"] < 60
    assert "costs.json" in json.loads((folder / "manifest.json").read_text())["files"]
    calls: list[Path] = []
    monkeypatch.setattr(Run, "evaluate", lambda run: calls.append(run.folder))
    train_and_measure(wanted)
    assert calls == []


def test_what_a_killed_process_left_half_written_is_swept(copied: Path) -> None:
    wanted = planned(copied).trained[0]
    (wanted.folder / ".report.json.77.tmp").write_text("{")
    made = wanted.folder.with_name(".bpr-0.77.tmp")
    made.mkdir()
    other = wanted.folder.with_name(".bpr-1.77.tmp")
    other.mkdir()
    train_and_measure(wanted)
    assert not made.exists()
    assert not (wanted.folder / ".report.json.77.tmp").exists()
    assert other.exists()


def test_what_a_kill_left_beside_a_run_that_is_done_is_swept(copied: Path) -> None:
    plan = planned(copied)
    left = [plan.out / ".summary.parquet.4194304.tmp", plan.trained[0].folder / ".results.4194304.tmp"]
    for folder in left:
        folder.mkdir()
    assert train_planned(plan.trained, plan.out, 1, "test", "again") == []
    assert [folder for folder in left if folder.exists()] == []


def test_a_run_that_another_process_does_is_left_to_it_and_then_taken(copied: Path) -> None:
    wanted = planned(copied).trained[0]
    shutil.rmtree(wanted.folder)
    told: list[object] = []
    with hold_lock(wanted.folder):
        other = ThreadPoolExecutor(1)  # this thread would get the lock that it holds
        other.submit(train_locked, told.append, wanted, "test", "all").result()
        assert told == [{"busy": True}]
        assert not wanted.folder.exists()
        working = other.submit(train_runs, [wanted], 1, lambda run, event: told.append(event))
        time.sleep(2)
        assert told == [{"busy": True}]
    assert working.result() == []
    assert told[-1] == {"ended": "done"}
    assert is_evaluated(wanted.folder, "test")


def test_a_run_that_fails_is_named_with_its_reason(copied: Path) -> None:
    plan = planned(copied)
    wanted = plan.trained[0]
    shutil.rmtree(wanted.folder)
    gone = wanted.config.data.model_copy(update={"path": "gone"})
    wrong = type(wanted)("bpr", 0, wanted.config.model_copy(update={"data": gone}), wanted.folder)
    ((failed, why),) = train_runs([wrong, *plan.trained[1:]], 1)
    assert failed is wrong
    assert why.startswith("gone: ")


def test_the_worker_tells_each_epoch(copied: Path) -> None:
    wanted = planned(copied).trained[0]
    shutil.rmtree(wanted.folder)
    events: list[Mapping[str, Any]] = []
    train_locked(events.append, wanted, "test", "all")
    assert [(event["epoch"], event["of"]) for event in events] == [(0, 1), (1, 1)]
    assert is_evaluated(wanted.folder, "test")


def untested(wanted: PlannedRun) -> PlannedRun:
    """The run as it was before its evaluation on test, its model damaged."""
    report = json.loads((wanted.folder / "report.json").read_text())
    (wanted.folder / "report.json").write_text(json.dumps({k: v for k, v in report.items() if k != "test"}))
    (wanted.folder / "model.safetensors").write_bytes(b"?")
    return wanted


def test_an_error_in_a_worker_is_the_reason_of_its_run_and_the_others_go_on(copied: Path) -> None:
    first, second, *_ = planned(copied).trained
    shutil.rmtree(second.folder)
    events: list[tuple[str, Mapping[str, Any]]] = []
    failed = train_runs([untested(first), second], 2, lambda run, event: events.append((run.name, event)))
    ((run, why),) = failed
    assert run is first
    assert "model.safetensors: damaged or edited" in why
    assert [name for name, event in events if event == {"ended": "failed"}] == ["bpr-0"]
    assert [name for name, event in events if event == {"ended": "done"}] == ["bpr-1"]


def test_kept_results_give_the_same_tables_without_the_models(copied: Path, data: Path, tmp_path: Path) -> None:
    whole = tmp_path / "out"
    assert execute(["benchmark", str(copied)]) == 0
    (tmp_path / "kept").mkdir()
    file = write_file(tmp_path / "kept", data={"shop": str(data)}, keep="results")
    assert execute(["benchmark", str(file)]) == 0
    same_tables(whole, kept := tmp_path / "kept/out")
    for run in planned(file).trained:
        assert is_evaluated(run.folder, "test")
        assert sorted(path.name for path in run.folder.iterdir()) == sorted([*RESULTS, "manifest.json"])
        same = pq.read_table(run.folder / "per_user_test.parquet")
        assert same.equals(pq.read_table(whole / "shop" / run.folder.name / "per_user_test.parquet"))
    with pytest.raises(RunError, match=r"bpr-0: only the results of this run were kept, not the trained model"):
        Run.load(kept / "shop/bpr-0")
    assert execute(["compare", str(kept / "shop/bpr-0"), str(whole / "shop/popular-0")]) == 0


def test_after_a_kill_while_files_are_removed_the_run_is_whole_and_they_go_next_time(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = planned(copied).trained[0]
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            keep_results(wanted.folder)
    assert is_evaluated(wanted.folder, "test")
    assert sorted(check_manifest(wanted.folder)["files"]) == sorted(RESULTS)
    assert (wanted.folder / "model.safetensors").exists()
    assert train_runs([wanted], 1, keep="results") == []
    assert sorted(path.name for path in wanted.folder.iterdir()) == sorted([*RESULTS, "manifest.json"])


def test_progress_is_a_line_a_run_or_on_a_terminal_a_bar_of_each_at_work(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied.parent / "out/shop/wide-0")
    found = planned(copied)
    events = [{"epoch": 1, "of": 7, "value": 0.25, "best": True}, {"epoch": 2, "of": 7, "value": 0.2, "best": False}]
    with show_runs(found.trained, found.out, "test") as on_event:
        for event in (*events, {"ended": "done"}):
            on_event(found.trained[3], event)
    assert capsys.readouterr().err == "5/5  shop/wide-0  done  ndcg@20 0.2500\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "150")
    with show_runs(found.trained, found.out, "test") as on_event:
        for event in events:
            on_event(found.trained[3], event)
        time.sleep(0.3)  # the bars are drawn several times a second
        on_event(found.trained[3], {"ended": "done"})
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", capsys.readouterr().err)  # without colours
    assert re.search(r"runs .* 4/5", shown)
    assert re.search(r"shop/wide-0 .* 2/7 .*best ndcg@20 0\.2500", shown)
    assert re.search(r"runs .* 5/5", shown)


# Kills.


def start(file: Path, out: Path, jobs: int) -> "subprocess.Popen[bytes]":
    line = [sys.executable, "-m", "gtcrec", "benchmark", str(file), "--out", str(out), "--jobs", str(jobs)]
    return subprocess.Popen(line, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def epochs_on_disk(out: Path) -> int:
    return sum(path.read_text().count("\n") for path in out.glob("shop/*/history.jsonl"))


def kill_at_random_and_restart(file: Path, out: Path, kills: int, jobs: int, seed: int) -> None:
    """Kill the command, or it and the trainings under it, as often as said; then let it go to its end."""
    rng = np.random.default_rng(seed)
    config = read_file(file)
    total = sum(one.config.train.epochs if one.variant != "popular" else 1 for one in plan(config, out).trained)
    for place in np.sort(rng.choice(total - 2, kills, replace=False)).tolist():
        process = start(file, out, jobs)
        while epochs_on_disk(out) <= place:
            time.sleep(0.01)
            assert process.poll() is None
        time.sleep(rng.uniform(0, 0.05))
        if rng.random() < 0.7:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()  # its trainings end with it
        assert process.wait() == -signal.SIGKILL
    assert start(file, out, jobs).wait() == 0


def same_tables(one: Path, other: Path) -> None:
    for name in ("results", "summary"):
        assert pq.read_table(one / f"{name}.parquet").equals(pq.read_table(other / f"{name}.parquet"))
    kept = ["data", "name", "model", "seed", "epochs", "best_epoch", "parameters"]
    first, second = (pq.read_table(out / "costs.parquet").select(kept) for out in (one, other))
    assert first.equals(second)
    assert list(other.glob("shop/**/.*.tmp")) == []


@pytest.mark.timeout(900)
def test_killed_once_and_started_again_it_gives_the_same_tables(data: Path, tmp_path: Path) -> None:
    models = {"bpr": {"settings": {"embedding_dim": 8}}, "popular": None}
    train = {**SMALL["train"], "epochs": 3}  # type: ignore[dict-item]
    file = write_file(tmp_path, data={"shop": str(data)}, models=models, seeds=[0], train=train)
    for wanted in planned(file).trained:
        train_and_measure(wanted)
    assert execute(["benchmark", str(file)]) == 0
    kill_at_random_and_restart(file, tmp_path / "killed", kills=1, jobs=1, seed=0)
    same_tables(tmp_path / "out", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_five_times_at_random_and_started_again_it_gives_the_same_tables(
    data: Path, tmp_path: Path, seed: int
) -> None:
    train = {**SMALL["train"], "epochs": 12}  # type: ignore[dict-item]
    models = {**SMALL["models"], "lightgcn": None}  # type: ignore[dict-item]
    file = write_file(tmp_path, data={"shop": str(data)}, models=models, train=train)
    assert start(file, tmp_path / "out", 2).wait() == 0
    kill_at_random_and_restart(file, tmp_path / "killed", kills=5, jobs=2, seed=seed)
    same_tables(tmp_path / "out", tmp_path / "killed")


def test_the_peers_file_names_every_model_that_there_is() -> None:
    config = read_file(Path(__file__).parents[3] / "benchmarks" / "configs" / "peers.yaml")
    assert set(config.models) == set(MODELS)
    assert (list(config.data), config.seeds, config.base) == (["tiktok", "sports", "ml100k"], (0, 1, 2), "gtc")


def test_the_documented_file_is_a_benchmark() -> None:
    page = (Path(__file__).parents[3] / "docs" / "benchmarking.md").read_text()
    texts = [part.partition("```")[0] for part in page.split("```yaml\n")[1:]]
    short, whole = (BenchmarkConfig.model_validate(yaml.safe_load(text)) for text in texts)
    assert (short.base, list(short.models)) == ("gtc", ["gtc", "itemknn"])
    assert (whole.base, whole.models["gtc-one"].model) == ("gtc", "gtc")
