"""What befalls a run: kills at every file event, a full disk, two processes, edits; and how it is checked and ended."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import gtcrec
from gtcrec.cli.main import execute
from gtcrec.data import write_catalog
from gtcrec.errors import GtcrecError, InUseError, RunError, WriteError
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run
from gtcrec.experiments.run_check import check_run, repair_run
from gtcrec.experiments.run_folder import request_stop
from gtcrec.reporting.run_record import read_run_record
from gtcrec.runtime.files import check_manifest, renew_manifest, write_text
from gtcrec.runtime.locks import hold_lock
from helpers.faults import count_events, die_at, fail_at, places

SMALL = ["embedding_dim=8", "batch_size=256", "epochs=4"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_catalog(tmp_path_factory.mktemp("data") / "shop", n_users=60, n_items=40, seed=1)


@pytest.fixture(scope="module")
def popular(shop, tmp_path_factory):
    """A finished run that is quick to evaluate."""
    run = Run.create(load_config(str(shop), "popular"), tmp_path_factory.mktemp("run") / "popular")
    list(run.epochs())
    return run.folder


@pytest.fixture(scope="module")
def trained(shop, tmp_path_factory):
    run = Run.create(load_config(str(shop), "bpr", assignments=SMALL), tmp_path_factory.mktemp("run") / "bpr")
    list(run.epochs())
    return run.folder


@pytest.fixture
def copied(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "bpr"))


@pytest.fixture
def begun(shop, tmp_path):
    """A run with two of four epochs done."""
    run = Run.create(load_config(str(shop), "bpr", assignments=SMALL), tmp_path / "begun")
    steps = run.epochs()
    next(steps), next(steps)
    steps.close()
    return run.folder


def hidden(folder):
    return [file.name for file in folder.iterdir() if file.name.startswith(".")]


# One commit point


def test_a_kill_between_checkpoint_and_history_loses_no_epoch_of_the_history(begun, trained):
    (begun / "history.jsonl").write_text((begun / "history.jsonl").read_text().splitlines(keepends=True)[0])
    list(Run.load(begun).epochs())
    assert (begun / "history.jsonl").read_bytes() == (trained / "history.jsonl").read_bytes()


def test_a_kill_between_the_last_checkpoint_and_its_history_is_made_up_for(begun, trained, monkeypatch):
    def killed(self):
        if self.training.stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_write_history", killed)
        with pytest.raises(KeyboardInterrupt):
            list(Run.load(begun).epochs())
    assert len((begun / "history.jsonl").read_text().splitlines()) == 2
    list(Run.load(begun).epochs())
    assert (begun / "history.jsonl").read_bytes() == (trained / "history.jsonl").read_bytes()
    assert check_run(begun) == []


# Kills and a full disk


def evaluation_events(popular, tmp_path, monkeypatch):
    run = Run.load(shutil.copytree(popular, tmp_path / "counted"))
    with monkeypatch.context() as patch:
        seen = count_events(patch, lambda number, name: None)
        run.evaluate()
    return len(seen)


@pytest.mark.parametrize("most", [12, pytest.param(1000, marks=pytest.mark.slow)])
def test_an_evaluation_killed_at_any_file_event_leaves_a_run_that_can_be_used(popular, tmp_path, monkeypatch, most):
    count = evaluation_events(popular, tmp_path, monkeypatch)
    assert count > 20, "events are no longer counted"
    for place in places(count, most):
        folder = Path(shutil.copytree(popular, tmp_path / str(place)))
        run = Run.load(folder)
        assert die_at(place, run.evaluate) == 9
        check_manifest(folder)
        record = read_run_record(folder)
        if record.result.test:
            assert pq.read_table(folder / "per_user_test.parquet").num_rows == record.result.test.users
        assert gtcrec.Recommender.load(folder).recommend("u0001", k=2).num_rows == 2
        Run.load(folder).evaluate()
        assert read_run_record(folder).result.test is not None
        assert hidden(folder) == []
        assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


@pytest.mark.parametrize("most", [10, pytest.param(1000, marks=pytest.mark.slow)])
def test_an_evaluation_on_a_full_disk_says_so_and_leaves_the_run_as_it_was(popular, tmp_path, monkeypatch, most):
    said, chosen = [], places(evaluation_events(popular, tmp_path, monkeypatch), most)
    for place in chosen:
        folder = Path(shutil.copytree(popular, tmp_path / str(place)))
        run = Run.load(folder)
        with monkeypatch.context() as patch:
            count_events(patch, fail_at(place))
            try:
                run.evaluate()
            except WriteError as error:
                said.append(str(error))
        read_run_record(folder)  # from which nothing that was there is gone
        assert Run.load(folder).finished
    shape = r".*/\d+(/manifest.json)?: cannot be written: (.* cannot be made: )?No space left on device"
    assert [text for text in said if not re.fullmatch(shape, text)] == []
    assert len(said) > len(chosen) / 2  # at the last events nothing is left but to tidy up


@pytest.mark.parametrize("most", [5, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_training_killed_at_any_file_event_ends_as_the_unbroken_one(shop, trained, tmp_path, monkeypatch, most):
    def work():
        folder = tmp_path / name
        open_run = Run.load(folder) if (folder / "config.yaml").exists() else Run.create(config, folder)
        list(open_run.epochs())

    config, name = load_config(str(shop), "bpr", assignments=SMALL), "counted"
    with monkeypatch.context() as patch:
        count = len(count_events(patch, lambda number, name: None))
        seen = count_events(patch, lambda number, name: None)
        work()
        count += len(seen)
    for place in places(count, most):
        name = str(place)
        assert die_at(place, work) == 9
        work()
        for file in ("history.jsonl", "model.safetensors"):
            assert (tmp_path / name / file).read_bytes() == (trained / file).read_bytes(), (place, file)
        assert hidden(tmp_path / name) == []
        assert check_run(tmp_path / name) == []
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_reader_beside_an_evaluation_is_never_disturbed(popular, tmp_path):
    folder = Path(shutil.copytree(popular, tmp_path / "run"))
    code = f"from gtcrec.experiments.run import Run\nrun = Run.load({str(folder)!r})\nwhile True: run.evaluate()"
    reads, end = 0, time.monotonic() + 4
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while not (folder / "per_user_test.parquet").exists():
            assert process.poll() is None
        while time.monotonic() < end or reads < 20:
            check_manifest(folder)
            read_run_record(folder)
            reads += 1
        process.kill()
    check_manifest(folder)


# Two processes


def test_a_second_process_is_refused_in_words(begun, capsys):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom gtcrec.runtime.locks import hold_lock\n"
        f"with hold_lock(Path({str(begun)!r})):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    before = (begun / "checkpoint.safetensors").read_bytes()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert execute(["resume", str(begun)]) == 1
        assert f"error: {begun}: in use by process {process.pid} on " in capsys.readouterr().err
        assert [one.problem for one in check_run(begun)] == ["a process writes to it now"]
        process.kill()
    assert (begun / "checkpoint.safetensors").read_bytes() == before
    assert execute(["resume", str(begun)]) == 0


def test_a_run_that_another_process_has_gone_on_with_is_opened_again_first(begun):
    late = Run.load(begun)
    list(Run.load(begun).epochs())
    with pytest.raises(RunError, match="begun: another process has gone on with this run; open it again"):
        next(late.epochs())
    with pytest.raises(RunError, match="training has not ended"):
        late.evaluate()


def test_two_trainings_into_one_folder_leave_one_whole_run(shop, tmp_path):
    out = tmp_path / "run"
    line = [sys.executable, "-m", "gtcrec", "train", str(shop), "bpr", *SMALL, "--out", str(out)]
    both = [subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    assert "in use" in said[[process.returncode for process in both].index(1)]
    assert check_run(out) == []


# Edits


@pytest.mark.parametrize("name", ["report.json", "per_user_valid.parquet", "data.json"])
def test_an_edited_result_is_not_compared(copied, trained, name, capsys):
    path = copied / name
    path.write_bytes(path.read_bytes().replace(b"0", b"9", 1))
    assert execute(["compare", str(copied), str(trained)]) == 1
    assert f"error: {path}: damaged or edited" in capsys.readouterr().err


def test_an_edited_configuration_is_not_resumed(begun, capsys):
    text = (begun / "config.yaml").read_text()
    (begun / "config.yaml").write_text(text.replace("learning_rate: 0.001", "learning_rate: 0.1"))
    assert execute(["resume", str(begun)]) == 1
    said = capsys.readouterr().err
    assert "edited or damaged since training began: found 'learning_rate: 0.1', expected 'learning_rate: 0.001'" in said
    assert execute(["runs", "check", str(begun)]) == 1
    assert execute(["runs", "check", str(begun), "--repair"]) == 0
    assert (begun / "config.yaml").read_text() == text
    assert execute(["resume", str(begun)]) == 0


# Checks and repairs


def test_a_run_that_is_whole_has_nothing_to_repair(copied, capsys):
    assert execute(["runs", "check", str(copied)]) == 0
    assert "every file is as it was written" in capsys.readouterr().out


def test_what_is_no_run_is_not_checked(tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        check_run(tmp_path)


def test_a_sealed_history_without_its_last_epoch_is_restored(copied, trained):
    whole = (trained / "history.jsonl").read_text()
    write_text(copied / "history.jsonl", "".join(whole.splitlines(keepends=True)[:-1]))
    renew_manifest(copied, ["history.jsonl"])
    assert [one.problem for one in check_run(copied)] == ["differs from the copy in the checkpoint"]
    assert repair_run(copied) == []
    assert (copied / "history.jsonl").read_text() == whole
    assert read_run_record(copied).history[-1].epoch == 4


@pytest.mark.parametrize("name", ["manifest.json", "report.json", "model.safetensors", "items.parquet"])
def test_results_that_are_damaged_are_written_again_from_the_checkpoint(copied, trained, name):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    assert execute(["runs", "check", str(copied)]) == 1
    assert execute(["runs", "check", str(copied), "--repair"]) == 0
    assert execute(["resume", str(copied)]) == 0
    assert check_run(copied) == []
    for same in ("model.safetensors", "report.json", "items.parquet"):
        assert (copied / same).read_bytes() == (trained / same).read_bytes()


def test_a_finished_run_goes_on_without_a_damaged_checkpoint(copied):
    content = bytearray((copied / "checkpoint.safetensors").read_bytes())
    content[-20] ^= 1
    (copied / "checkpoint.safetensors").write_bytes(content)
    assert [one.harmful for one in check_run(copied)] == [True, True]
    assert repair_run(copied) == []
    assert gtcrec.Recommender.load(copied).recommend("u0001", k=2).num_rows == 2


@pytest.mark.parametrize("text", ["{}", "[]", "7", "{", "\udcff", "[" * 5000])
def test_facts_of_the_data_that_are_none_are_refused_in_words(copied, text):
    (copied / "data.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    renew_manifest(copied, ["data.json"])
    with pytest.raises(RunError, match=r"data\.json: cannot be read as facts of the data: "):
        Run.load(copied)


@pytest.mark.parametrize("name", [".model.safetensors.4194304.tmp", ".tmpGxC7pC"])
def test_resuming_a_run_that_has_ended_removes_what_a_kill_left(copied, name, capsys):
    (copied / name).touch()
    assert execute(["resume", str(copied)]) == 0
    assert "training has ended already" in capsys.readouterr().err
    assert hidden(copied) == []


@pytest.mark.parametrize("name", [".model.safetensors.4194304.tmp", ".tmpGxC7pC"])
def test_leftovers_of_a_killed_process_are_named_and_removed(copied, name):
    (copied / name).touch()  # a number that no process has, or what safetensors writes first
    found = check_run(copied)
    assert [(one.problem, one.harmful) for one in found] == [("left by a process that was killed", False)]
    assert repair_run(copied) == []
    assert hidden(copied) == []


# The end of a training


def test_stop_ends_a_run_with_its_best_weights_so_far(begun, capsys):
    best = Run.load(begun).training.best_weights
    assert execute(["stop", str(begun)]) == 0
    run = Run.load(begun)
    assert (run.finished, run.epochs_done, run.training.stop) == (True, 2, "ended after 2 epochs as asked")
    assert all(torch.equal(best[name], weights) for name, weights in run.model.state_dict().items())
    assert "training ended: ended after 2 epochs as asked" in capsys.readouterr().err
    assert execute(["evaluate", str(begun)]) == 0
    assert execute(["stop", str(begun)]) == 0
    assert "training has ended already" in capsys.readouterr().err


def test_resume_ends_after_as_many_epochs_as_asked(begun, trained, capsys):
    assert execute(["resume", str(begun), "--epochs", "9"]) == 1
    assert "--epochs must be at most 4, as the run is configured, found 9" in capsys.readouterr().err
    assert execute(["resume", str(begun), "--epochs", "3"]) == 0
    history = (begun / "history.jsonl").read_text().splitlines()
    assert history == (trained / "history.jsonl").read_text().splitlines()[:3]
    assert read_run_record(begun).result.stop == "ended after 3 epochs as asked"


def test_an_epoch_that_was_not_validated_is_validated_when_it_becomes_the_last(shop, tmp_path):
    config = load_config(str(shop), "bpr", assignments=[*SMALL, "valid_every=4"])
    run = Run.create(config, tmp_path / "run")
    steps = run.epochs()
    assert next(steps).valid == {}
    steps.close()
    last = list(Run.load(run.folder).epochs(end_after=1))
    assert [(epoch.number, epoch.best) for epoch in last] == [(1, True)]
    assert last[0].valid["recall@20"] >= 0
    assert read_run_record(run.folder).result.best_epoch == 1


def test_without_an_epoch_there_is_nothing_to_stop(shop, tmp_path, capsys):
    Run.create(load_config(str(shop), "bpr", assignments=SMALL), tmp_path / "run")
    assert execute(["stop", str(tmp_path / "run")]) == 1
    assert "no epoch is done yet, so there are no weights to keep" in capsys.readouterr().err


def test_a_training_that_runs_ends_after_its_epoch_when_asked(shop, tmp_path):
    run = Run.create(load_config(str(shop), "bpr", assignments=[*SMALL, "epochs=50"]), tmp_path / "run")
    done = []
    for epoch in run.epochs():
        done.append(epoch.number)
        if epoch.number == 3:
            request_stop(run.folder)
    assert done == [1, 2, 3, 4]
    assert run.training.stop == "stopped after 4 epochs as asked"
    assert hidden(run.folder) == []


def test_a_diverging_training_stops_at_the_step_and_keeps_the_last_checkpoint(begun, monkeypatch):
    before, steps = (begun / "checkpoint.safetensors").read_bytes(), []
    run = Run.load(begun)
    real = run.training.hooks.loss

    def diverges(batch, rng):
        steps.append(1)
        terms = real(batch, rng)
        return {**terms, "bpr": terms["bpr"] * float("nan")} if len(steps) == 2 else terms

    monkeypatch.setattr(run.training.hooks, "loss", diverges, raising=False)
    with pytest.raises(GtcrecError, match=r"epoch 3, step 2 of \d+: loss term 'bpr' is nan"):
        list(run.epochs())
    assert len(steps) == 2
    assert (begun / "checkpoint.safetensors").read_bytes() == before
    assert execute(["stop", str(begun)]) == 0


def test_a_lock_is_gone_with_its_holder(tmp_path):
    with hold_lock(tmp_path / "run"), hold_lock(tmp_path / "run"):  # one thread may hold it twice
        assert hidden(tmp_path) == [".run.lock"]
    assert hidden(tmp_path) == []
    (tmp_path / ".run.lock").write_text("process 1 on moon")  # of a killed process
    with hold_lock(tmp_path / "run"):
        assert json.loads((tmp_path / ".run.lock").read_text().split()[1]) == os.getpid()
    with pytest.raises(InUseError), hold_lock(tmp_path / "run"):
        raise InUseError("from inside")
