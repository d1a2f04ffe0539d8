"""Tuning: what is tried, in which order, on what, by whom, and what a kill leaves."""

import csv
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gtcrec import data, models
from gtcrec.cli.main import execute
from gtcrec.data import write_catalog
from gtcrec.errors import ConfigError, RunError
from gtcrec.evaluation.evaluator import evaluate_split
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run
from gtcrec.experiments.tuning import study as tune
from gtcrec.experiments.tuning.study import TuningPlan, TuningSplit, best, list_trials, plan
from gtcrec.experiments.tuning.trials import Outcome, Trial, Trials
from gtcrec.types import Interactions

SMALL = ["epochs=3", "embedding_dim=8", "batch_size=512"]
SET = [word for one in SMALL for word in ("--set", one)]
SPACE = {"a": tuple(range(6)), "b": ("x", "y", "z")}
START = {"a": 2, "b": 1}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalog(tmp_path_factory.mktemp("data") / "shop", n_users=80, n_items=50)


@pytest.fixture(scope="module")
def studied(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> TuningPlan:
    """A whole study of BPR, 12 trials."""
    found = plan(str(shop), "bpr", tmp_path_factory.mktemp("study") / "bpr", 12, SMALL)
    assert [trial.number for trial in tune.tune(found)] == list(range(1, 13))
    return found


def told(found: TuningPlan) -> list[dict[str, str]]:
    """The table of trials without the time that they took."""
    with (found.out / "trials.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def states(folder: Path) -> list[str]:
    """The states of all records in the journal, as Optuna itself reads them."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    study = optuna.load_study(study_name="gtcrec", storage=optuna.storages.JournalStorage(backend))
    return [trial.state.name for trial in study.trials]


def score(settings: Any) -> float:
    """A made-up validation: best at a = 4, b = x."""
    return 1.0 - 0.1 * abs(settings["a"] - 4) - 0.05 * "xyz".index(settings["b"])


def outcome(value: float | None, **more: Any) -> Outcome:
    return Outcome(value, 1, 1, 0.0, **more)


def work(trials: Trials, wanted: int) -> list[dict[str, Any]]:
    """Try settings to the end with the made-up validation; returns the settings in order."""
    while trial := trials.claim(wanted):
        trials.finish(trial, outcome(score(trial.settings)))
    return [dict(trial.settings) for trial in trials.all()]


# What is tried, and on what.


def test_the_first_trial_has_the_defaults_and_the_best_is_never_below_them(studied: TuningPlan) -> None:
    trials = list_trials(studied)
    assert trials[0].settings == {"train.learning_rate": 1e-3, "reg": studied.config.settings["reg"]}
    assert studied.configure(trials[0].settings) == studied.config
    values = [trial.value or 0 for trial in trials]
    assert best(trials) == trials[values.index(max(values))]
    assert max(values) > values[0]


def test_a_trial_is_worth_what_a_run_with_its_settings_reaches_on_validation(
    studied: TuningPlan, tmp_path: Path
) -> None:
    top = best(list_trials(studied))
    config = load_config(file=studied.out / "best.yaml")
    assert config == studied.configure(top.settings)
    run = Run.create(config, tmp_path / "run")
    list(run.epochs())
    assert run.training.best is not None
    assert top.outcome is not None
    assert run.training.best.valid["ndcg@20"] == top.value
    assert (run.training.best.number, run.epochs_done) == (top.outcome.best_epoch, top.outcome.epochs)


def test_every_model_trains_as_often_and_no_settings_twice(studied: TuningPlan) -> None:
    settings = [json.dumps(trial.settings) for trial in list_trials(studied)]
    assert (len(settings), len(set(settings))) == (12, 12)


def test_a_space_smaller_than_the_number_of_trials_is_tried_whole(tmp_path: Path) -> None:
    space = {"a": (1, 2), "b": ("x", "y")}
    with Trials(tmp_path, space, {"a": 0, "b": 0}, seed=0) as trials:
        found = work(trials, 30)
    assert sorted((one["a"], one["b"]) for one in found) == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    (tmp_path / "none").mkdir()
    with Trials(tmp_path / "none", {}, {}, seed=0) as trials:
        assert trials.claim(5) is not None
        assert trials.claim(5) is None


def test_the_sampler_learns_from_the_trials_before(tmp_path: Path) -> None:
    """Of 216 settings only those near one corner are good: after the first ten, drawn evenly, trials gather there."""
    space = {key: tuple(range(6)) for key in "abc"}
    late: list[float] = []
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with Trials(folder, space, dict.fromkeys("abc", 0), seed) as trials:
            while trial := trials.claim(30):
                trials.finish(trial, outcome(float(sum(trial.settings.values()))))
            late += [trial.value or 0 for trial in trials.all()[20:]]
    assert np.mean(late) > 10  # drawn evenly they would have 7.5, standard error 0.5


def test_a_seed_decides_the_trials(shop: Path, tmp_path: Path, studied: TuningPlan) -> None:
    again, other = (plan(str(shop), "bpr", tmp_path / str(seed), 12, SMALL, seed=seed) for seed in (0, 1))
    for found in (again, other):
        list(tune.tune(found))
    assert told(again) == told(studied)
    assert told(other)[0] == told(studied)[0]
    assert told(other) != told(studied)


def test_settings_given_by_hand_are_not_searched_and_the_default_is_among_the_values(
    shop: Path, tmp_path: Path
) -> None:
    whole = plan(str(shop), "bpr", tmp_path, settings=["reg=0.02"])
    assert list(whole.space) == ["embedding_dim", "train.learning_rate"]
    assert list(plan(str(shop), "bpr", tmp_path, settings=["learning_rate=1e-2"]).space) == ["embedding_dim", "reg"]
    assert list(plan(str(shop), "bpr", tmp_path, settings=["train.learning_rate=1e-2"]).space) == [
        "embedding_dim",
        "reg",
    ]
    (tmp_path / "base.yaml").write_text("train: {learning_rate: 0.0015}\nmodel: bpr\nsettings: {reg: 5}\n")
    from_file = plan(str(shop), None, tmp_path, file=tmp_path / "base.yaml")
    assert from_file.space["train.learning_rate"] == (0.0005, 0.001, 0.0015, 0.002, 0.005)
    assert from_file.space["reg"] == (*models.get_spec("bpr").search_space["reg"], 5.0)


def test_a_space_of_ones_own_replaces_the_models(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("embedding_dim: [4, 8, 8.0]\ntrain.batch_size: [256]\n")
    found = plan(str(shop), "bpr", tmp_path / "out", 9, ["epochs=1"], space=tmp_path / "space.yaml")
    assert found.space == {"embedding_dim": (4, 8, 64), "train.batch_size": (256, 2048)}
    assert found.size == 6


@pytest.mark.parametrize("name", models.list_models())
def test_each_models_space_can_be_searched(name: str, shop: Path, tmp_path: Path) -> None:
    found = plan(str(shop), name, tmp_path)
    assert set(found.space) == set(models.get_spec(name).search_space)
    assert found.configure(found.open().claim(1).settings) == found.config  # type: ignore[union-attr]


def test_the_split_that_tuning_sees_has_no_test_pairs(shop: Path) -> None:
    whole = data.split(data.load(shop))
    seen = TuningSplit(whole)
    pairs = [value for value in vars(seen).values() if isinstance(value, Interactions)]
    assert [len(one) for one in pairs] == [len(whole.train), len(whole.valid), 0]
    assert len(whole.final_test()) > 0
    assert "test" not in seen.how
    with pytest.raises(RunError, match="tuning chooses on validation: it has no test pairs"):
        seen.final_test()
    with pytest.raises(RunError, match="it has no test pairs"):
        evaluate_split(lambda users: None, seen, "test")  # type: ignore[arg-type, return-value]


def test_other_test_pairs_make_the_same_study(tmp_path: Path) -> None:
    """Two data sets that differ in their test items alone."""
    rng = np.random.default_rng(3)
    items = np.array([rng.permutation(30)[:10] for _ in range(40)])  # [users, pairs]
    studies = []
    for name, shift in (("one", 0), ("two", 1)):
        test = [np.setdiff1d(np.arange(30), row[:9])[shift] for row in items]
        rows = np.concatenate([items[:, :9], np.array(test)[:, None]], axis=1)
        table = {
            "user_id": np.repeat(np.arange(40), 10),
            "item_id": rows.ravel(),
            "x_label": np.tile([0] * 7 + [1] * 2 + [2], 40),
        }
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(table), tmp_path / name / "interactions.parquet")
        found = plan(str(tmp_path / name), "bpr", tmp_path / f"study-{name}", 3, SMALL)
        list(tune.tune(found))
        studies.append(found)
    one, two = (data.split(data.load(tmp_path / name)) for name in ("one", "two"))
    assert not np.array_equal(one.final_test().items, two.final_test().items)
    assert np.array_equal(one.train.items, two.train.items)
    assert told(studies[0]) == told(studies[1])
    texts = [(found.out / "study.json").read_text() for found in studies]
    assert texts[0] == texts[1]


# Going on.


def test_a_study_done_in_pieces_has_the_trials_of_an_unbroken_one(
    shop: Path, tmp_path: Path, studied: TuningPlan
) -> None:
    found = plan(str(shop), "bpr", tmp_path / "out", 5, SMALL)
    assert list(tune.tune(found, minutes=0)) == []
    assert list_trials(found) == []
    assert len(list(tune.tune(found))) == 5
    assert told(found) == told(studied)[:5]
    more = replace(found, trials=12)
    assert len(list(tune.tune(more))) == 7
    assert told(more) == told(studied)
    assert json.loads((more.out / "study.json").read_text())["trials"] == 12
    assert list(tune.tune(more)) == []


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from gtcrec.experiments.tuning import study as tune
shop, out, *given = sys.argv[1:]

@contextmanager
def watch(trial):
    def after_epoch(epoch):
        if (trial.number, epoch.number) == (4, 2):
            os.kill(os.getpid(), signal.SIGKILL)
    yield after_epoch, lambda step, steps: None

list(tune.tune(tune.plan(shop, "bpr", Path(out), 12, given), watch=watch))
"""


def test_a_study_killed_in_a_trial_ends_with_the_trials_of_an_unbroken_one(
    shop: Path, tmp_path: Path, studied: TuningPlan
) -> None:
    out = tmp_path / "out"
    line = [sys.executable, "-c", KILLED, str(shop), str(out), *SMALL]
    done = subprocess.run(line, capture_output=True, timeout=100, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert states(out) == ["COMPLETE"] * 3 + ["RUNNING"]
    assert len(list((out / "workers").iterdir())) == 1
    (out / ".trials.csv.1.tmp").write_text("half")
    found = plan(str(shop), "bpr", out, 12, SMALL)
    assert [trial.number for trial in tune.tune(found)] == list(range(4, 13))
    assert told(found) == told(studied)
    assert states(out) == ["COMPLETE"] * 3 + ["FAIL"] + ["COMPLETE"] * 9
    names = {file.name for file in out.iterdir()}
    assert names == {"best.yaml", "journal.log", "lock", "study.json", "trials.csv", "workers"}
    assert list((out / "workers").iterdir()) == []


@pytest.mark.slow
def test_a_study_killed_at_random_moments_ends_with_the_trials_of_an_unbroken_one(
    shop: Path, tmp_path: Path, studied: TuningPlan
) -> None:
    line = [sys.executable, "-m", "gtcrec", "tune", "--data", str(shop), "--model", "bpr", "--trials", "12", *SET]
    moments, kills, out = random.Random(), 0, tmp_path / "out"
    for _ in range(60):
        with subprocess.Popen([*line, "--out", str(out)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            assert process.stderr is not None
            process.stderr.readline()  # a trial has ended, or all have
            time.sleep(moments.uniform(0, 0.05))
            if kills < 8 and process.poll() is None:
                process.kill()
                kills += 1
            process.stderr.read()
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert kills > 2
    assert told(replace(studied, out=out)) == told(studied)


@contextmanager
def dead(folder: Path) -> Iterator[Trials]:
    """A worker of another process, as far as locks go, that dies at the end of the block."""
    trials = Trials(folder, SPACE, START, seed=0)
    yield trials
    assert trials._worker is not None
    trials._worker.release()  # as the system does
    trials._worker = None


def test_a_dead_workers_trial_is_tried_again_with_its_settings_and_a_living_ones_is_not(tmp_path: Path) -> None:
    with Trials(tmp_path, SPACE, START, seed=0) as living, Trials(tmp_path, SPACE, START, seed=0) as trials:
        first = living.claim(9)
        with dead(tmp_path) as other:
            second = other.claim(9)
        third = trials.claim(9)
        assert first is not None
        assert second is not None
        assert third is not None
        assert [first.number, second.number, third.number] == [1, 2, 2]
        assert third.settings == second.settings
        assert [trial.state for trial in trials.all()] == ["running", "running"]
        other.finish(second, outcome(0.5))  # it was not dead after all: its result comes too late
        assert not other.report(second, 1, 0.5)
        assert [trial.state for trial in trials.all()] == ["running", "running"]
        assert states(tmp_path) == ["RUNNING", "FAIL", "RUNNING"]
    assert list((tmp_path / "workers").iterdir()) == []


def test_settings_that_a_killed_worker_noted_in_part_are_drawn_again(tmp_path: Path) -> None:
    with dead(tmp_path) as other:
        whole = other.claim(9)
    journal = tmp_path / "journal.log"
    *lines, last = journal.read_bytes().splitlines(keepends=True)
    assert b'"param_name":"b"' in last
    journal.write_bytes(b"".join(lines))
    with Trials(tmp_path, SPACE, START, seed=0) as trials:
        again = trials.claim(9)
        assert whole is not None
        assert again is not None
        assert (again.number, again.settings) == (1, whole.settings)


def test_the_lock_of_a_worker_that_died_between_two_trials_is_removed(tmp_path: Path) -> None:
    with dead(tmp_path) as other:
        work(other, 1)
    assert len(list((tmp_path / "workers").iterdir())) == 1
    with Trials(tmp_path, SPACE, START, seed=0) as trials:
        trials.reap_dead_trials()
    assert list((tmp_path / "workers").iterdir()) == []


def test_another_machines_trial_is_taken_over_only_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as there:
        there.setattr(platform, "node", lambda: "elsewhere")
        with dead(tmp_path) as other:
            lost = other.claim(9)
    with Trials(tmp_path, SPACE, START, seed=0) as trials:
        second = trials.claim(9)
        assert lost is not None
        assert second is not None
        assert (lost.number, second.number) == (1, 2)
        trials.reap_dead_trials(others=True)
        again = trials.claim(9)
        assert again is not None
        assert (again.number, again.settings) == (1, lost.settings)


def test_a_worker_that_leaves_gives_its_trial_back(tmp_path: Path) -> None:
    with Trials(tmp_path, SPACE, START, seed=0) as trials:
        trials.claim(9)
    with Trials(tmp_path, SPACE, START, seed=0) as trials:
        again = trials.claim(9)
        assert again is not None
        assert again.number == 1


def test_what_a_kill_left_of_a_line_is_dropped_and_other_damage_is_refused(tmp_path: Path) -> None:
    with Trials(tmp_path, SPACE, START, seed=0) as trials:
        work(trials, 3)
        whole = (tmp_path / "journal.log").read_bytes()
        with (tmp_path / "journal.log").open("ab") as file:
            file.write(b'{"op_code":4,"worker')
        assert len(trials.all()) == 3
        assert (tmp_path / "journal.log").read_bytes() == whole
        assert len(work(trials, 4)) == 4
    lines = (tmp_path / "journal.log").read_bytes().splitlines(keepends=True)
    (tmp_path / "journal.log").write_bytes(b"".join([*lines[:3], b'{"op_\n', *lines[3:]]))
    with pytest.raises(RunError, match=r"journal\.log: damaged: JSONDecodeError"):
        Trials(tmp_path, SPACE, START, seed=0)


# Several at once.


def test_two_workers_share_the_trials_and_each_is_tried_once(tmp_path: Path) -> None:
    taken: list[Trial] = []
    with Trials(tmp_path, SPACE, START, seed=0) as one, Trials(tmp_path, SPACE, START, seed=0) as two:
        while True:
            pair = [(trials, trials.claim(15)) for trials in (one, two)]  # both under way before either ends
            for trials, trial in pair:
                if trial:
                    taken.append(trial)
                    trials.finish(trial, outcome(score(trial.settings)))
            if not all(trial for _, trial in pair):
                break
    assert [trial.number for trial in taken] == list(range(1, 16))
    assert len({json.dumps(trial.settings) for trial in taken}) == 15
    assert states(tmp_path) == ["COMPLETE"] * 15


def pids(found: TuningPlan) -> set[int]:
    """The processes that try settings now."""
    return {int(file.name.split("-")[-2]) for file in (found.out / "workers").iterdir()}


@pytest.mark.slow
def test_processes_share_the_trials_and_a_killed_one_costs_none(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = plan(str(shop), "bpr", tmp_path / "out", 16, ["epochs=40", "patience=40", *SMALL[1:]])
    numbers = []
    for trial in tune.tune(found, jobs=2):
        numbers.append(trial.number)
        if len(numbers) == 1:
            os.kill(min(pids(found)), signal.SIGKILL)
    assert sorted(numbers) == list(range(1, 17))
    assert len({json.dumps(trial.settings) for trial in list_trials(found)}) == 16
    assert set(states(found.out)) <= {"COMPLETE", "FAIL"}
    assert [row["trial"] for row in told(found)] == [str(number) for number in range(1, 17)]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_whose_processes_all_died_says_how_to_go_on(shop: Path, tmp_path: Path) -> None:
    found = plan(str(shop), "bpr", tmp_path / "out", 16, ["epochs=40", "patience=40", *SMALL[1:]])
    trials = tune.tune(found, jobs=2)
    first = next(trials)
    while pids(found):
        for pid in pids(found):
            os.kill(pid, signal.SIGKILL)
        with found.open() as opened:
            time.sleep(0.2)
            opened.reap_dead_trials()
    with pytest.raises(RunError, match="out: a worker ended with exit code -9; the same command goes on from here"):
        list(trials)
    assert first.number in [trial.number for trial in list_trials(found)]


@pytest.mark.slow
def test_an_error_of_a_process_is_raised_here(shop: Path, tmp_path: Path) -> None:
    found = plan(str(shop), "bpr", tmp_path / "out", 3, [*SMALL, "device=cuda:77"])
    with pytest.raises(ConfigError, match="there is no device 'cuda:77'"):
        list(tune.tune(found, jobs=2))


# Trials that end otherwise.


def test_a_training_that_breaks_down_is_a_failed_trial_and_counts(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("train.learning_rate: [1e30, 1e-3]\n")
    found = plan(str(shop), "bpr", tmp_path / "out", 5, SMALL, space=tmp_path / "space.yaml")
    list(tune.tune(found))
    good, bad = list_trials(found)
    assert (good.state, bad.state, bad.value) == ("done", "failed", None)
    assert bad.outcome is not None
    assert re.match(
        r"epoch \d, step \d of \d: loss term '\w+' is (nan|inf), the sum must be finite; try a lower learning_rate",
        bad.outcome.error,
    )
    assert best([good, bad]) == good
    assert told(found)[1]["error"] == bad.outcome.error
    with pytest.raises(RunError, match="no trial of 1 has a validation: epoch"):
        best([bad])
    with pytest.raises(RunError, match="no trial of 0 has a validation yet"):
        best([])


def test_settings_that_exclude_each_other_are_a_failed_trial(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("filter: [trained, off]\nrerank: [0, 5]\n")
    given = ["preset=embedding", "epochs=1", "dim=4", "batch_size=1024", "pair_weight=0.5"]
    found = plan(str(shop), "gtc", tmp_path / "out", 4, given, space=tmp_path / "space.yaml")
    list(tune.tune(found))
    failed = [trial for trial in list_trials(found) if trial.state == "failed"]
    assert [trial.settings for trial in failed] == [{"filter": "off", "rerank_top_n": 5}]
    assert [trial.outcome and trial.outcome.error for trial in failed] == [
        "gtc: rerank_top_n needs filter=trained and pair_diffusion_weight > 0, which trains what it asks"
    ]
    assert [row["state"] for row in told(found)].count("done") == 3


def test_an_error_that_every_trial_would_meet_ends_the_study(shop: Path, tmp_path: Path) -> None:
    found = plan(str(shop), "bpr", tmp_path / "out", 3, [*SMALL, "device=cuda:77"])
    with pytest.raises(ConfigError, match="there is no device 'cuda:77'"):
        list(tune.tune(found))
    back = replace(found, config=plan(str(shop), "bpr", tmp_path / "out", 3, SMALL).config)
    assert [trial.number for trial in tune.tune(back)] == [1, 2, 3]


def test_pruning_is_off_unless_asked_for_and_ends_what_falls_below_the_median(tmp_path: Path) -> None:
    ends = {}
    for prune in (False, True):
        folder = tmp_path / str(prune)
        folder.mkdir()
        with Trials(folder, SPACE, START, seed=0, prune=prune) as trials:
            for _ in range(5):
                trial = trials.claim(9)
                assert trial is not None
                assert not any(trials.report(trial, epoch, 0.5) for epoch in (1, 11, 12))
                trials.finish(trial, outcome(0.5))
            trial = trials.claim(9)
            assert trial is not None
            ends[prune] = [trials.report(trial, epoch, 0.4) for epoch in (1, 11)]
            trials.finish(trial, outcome(0.4, pruned=True))
            assert trials.all()[-1].state == "pruned"
            assert best(trials.all()).number == 1
    assert ends == {False: [False, False], True: [False, True]}


def test_a_pruned_trial_trains_no_further(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trials, "report", lambda self, trial, epoch, value: trial.number == 2 and epoch == 2)
    found = plan(str(shop), "bpr", tmp_path / "out", 2, SMALL, prune=True)
    list(tune.tune(found))
    assert [(row["state"], row["epochs"]) for row in told(found)] == [("done", "3"), ("pruned", "2")]


# What is refused.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("regg: [1]", r"space.yaml: unknown setting 'regg' \(did you mean 'reg'\?\); bpr has: embedding_dim, reg, "),
        ("learning_rate: [1]", r"unknown setting 'learning_rate' \(did you mean 'train.learning_rate'\?\)"),
        ("train.epochs: [1, 2]", "space.yaml: train.epochs must be the same for all trials; give it with --set"),
        ("split.seed: [1, 2]", "space.yaml: unknown setting 'split.seed'"),
        ("reg: [0.1, -1]", "space.yaml: bpr: reg: Input should be greater than or equal to 0, found -1"),
        ("reg: 0.1", "space.yaml: reg: expected a list of values, found 0.1"),
        ("reg: []", r"space.yaml: reg: expected a list of values, found \[\]"),
        ("- reg", "space.yaml: expected settings and their values, found list"),
        ("reg: [", "space.yaml: not YAML"),
        (None, "space.yaml: cannot be read"),
    ],
)
def test_a_wrong_space_is_refused_by_name(shop: Path, tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        plan(str(shop), "bpr", tmp_path / "out", space=tmp_path / "space.yaml")


def test_another_study_in_the_folder_is_refused_and_what_differs_is_named(
    shop: Path, tmp_path: Path, studied: TuningPlan
) -> None:
    def refused(message: str, **more: Any) -> None:
        facts: dict[str, Any] = {"model": "bpr", "trials": 12, "settings": SMALL, **more}
        path = facts.pop("path", str(shop))
        with pytest.raises(RunError, match=rf"study\.json: another study: {message}; give another --out"):
            list(tune.tune(plan(path, out=studied.out, **facts)))

    before = (studied.out / "study.json").read_bytes()
    refused("seed is 0 there and 1 here", seed=1)
    refused("prune is False there and True here", prune=True)
    refused("config.settings.embedding_dim is 8 there and 4 here", settings=[*SMALL, "dim=4"])
    refused("config.train.epochs is 3 there and 5 here", settings=[*SMALL, "epochs=5"])
    refused(r"space\.num_layers is None there and \[1, 2, 3, 4\] here", model="lightgcn")
    refused(r"space\.reg is \[.*\] there and None here", settings=[*SMALL, "reg=0.1"])
    other = write_catalog(tmp_path / "other", n_users=80, n_items=50, seed=5)
    refused("data is '[0-9a-f]{64}' there and '[0-9a-f]{64}' here", path=str(other))
    assert (studied.out / "study.json").read_bytes() == before


def test_a_folder_that_holds_something_else_is_refused(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match=r"expected a study or an empty folder, found letter\.txt and no study\.json"):
        list(tune.tune(plan(str(shop), "popular", tmp_path / "used")))
    with pytest.raises(RunError, match=r"letter\.txt: expected a folder, found a file"):
        list(tune.tune(plan(str(shop), "popular", tmp_path / "used" / "letter.txt")))
    (tmp_path / "study").mkdir()
    for text in ("{", "[]", "{}", '{"data": 1, "seed": 0, "prune": false, "space": 3}'):
        (tmp_path / "study" / "study.json").write_text(text)
        with pytest.raises(RunError, match=r"study\.json: damaged: \w+Error"):
            list(tune.tune(plan(str(shop), "popular", tmp_path / "study")))


def test_without_optuna_the_extra_is_named(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r'optuna is not installed; pip install "gtcrec\[tune\]"'):
        list(tune.tune(plan(str(shop), "popular", tmp_path / "out")))


# The command.


def test_the_command_shows_the_trials_and_the_line_that_trains_the_best(
    shop: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = ["tune", "--data", str(shop), "--model", "bpr", "--out", str(out), "--trials", "4", *SET]
    assert execute(line) == 0
    printed = capfd.readouterr()
    assert [text[:3] for text in printed.err.splitlines()[:4]] == ["1/4", "2/4", "3/4", "4/4"]
    assert "optuna" not in printed.err.lower()
    rows = printed.out.splitlines()
    assert rows[0] == "bpr on validation"
    assert [row.split()[0] for row in rows[2:]] == ["1", "2", "3", "4"]
    assert "1 (defaults)" in rows[2]
    command = re.search(r"train with them: gtcrec (train .*)\n", printed.err)
    assert command is not None
    assert execute(command[1].split()) == 0
    top = best(list_trials(plan(str(shop), "bpr", out, 4, SMALL)))
    history = [json.loads(text) for text in (out / "best" / "history.jsonl").read_text().splitlines()]
    assert max(one["valid"]["ndcg@20"] for one in history) == top.value
    capfd.readouterr()
    assert execute(line) == 0  # everything has been tried
    assert capfd.readouterr().err.startswith(f"best: trial {top.number}, ndcg@20")
    assert execute([*line, "--seed", "3"]) == 1
    assert "seed is 0 there and 3 here" in capfd.readouterr().err


def test_the_command_says_what_is_left_and_when_the_space_is_small(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["tune", "--data", str(shop), "--model", "popular", "--out", str(tmp_path / "p")]
    assert execute([*line, "--stop-after", "0"]) == 1
    assert "no trial of 0 has a validation yet" in capsys.readouterr().err
    assert execute(line) == 0
    assert "the space has 1 settings: all were tried" in capsys.readouterr().err
    line = ["tune", "--data", str(shop), "--model", "bpr", "--out", str(tmp_path / "b"), *SET]
    assert execute([*line, "--trials", "2"]) == 0
    assert execute([*line, "--trials", "9", "--stop-after", "0"]) == 0
    assert "7 of 9 trials have not ended; the same command goes on from here" in capsys.readouterr().err


def test_the_commands_help_imports_nothing_heavy() -> None:
    code = """
import sys
from gtcrec.cli.main import execute
assert execute(["tune", "--help"]) == 0
loaded = [name for name in ("torch", "numpy", "optuna", "scipy", "pyarrow") if name in sys.modules]
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--retry-running" in done.stdout
