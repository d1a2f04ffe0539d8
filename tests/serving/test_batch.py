"""Lists for all users go to Parquet in blocks, the same bytes whoever computes them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gtcrec
from gtcrec.cli.main import execute
from gtcrec.data import write_catalog
from gtcrec.errors import DataError, RunError
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run
from gtcrec.serving.batch import write_all_lists
from gtcrec.serving.list_request import ListRequest
from gtcrec.serving.trained_model import TrainedModel

FAST = ["epochs=2", "embedding_dim=8", "batch_size=256"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    data = write_catalog(tmp_path_factory.mktemp("data") / "shop", n_users=90, n_items=40)
    run = Run.create(load_config(str(data), "bpr", assignments=FAST), tmp_path_factory.mktemp("runs") / "bpr")
    list(run.epochs())
    return run


def test_the_file_holds_what_recommend_returns_a_row_group_a_block(finished: Run, tmp_path: Path) -> None:
    out, told = tmp_path / "lists.parquet", []
    rows = write_all_lists(
        finished.folder, out, ListRequest(5), block_users=40, on_block=lambda *done: told.append(done)
    )
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    found = pq.ParquetFile(out)
    assert [found.metadata.row_group(place).num_rows for place in range(3)] == [200, 200, 50]
    assert found.schema_arrow.names == ["user_id", "item_id", "rank", "score"]
    assert found.schema_arrow.types == [pa.string(), pa.string(), pa.int32(), pa.float32()]
    expected = gtcrec.Recommender.load(finished.folder).recommend(k=5).to_pydict()
    columns = found.read().to_pydict()
    assert rows == len(expected["user_id"]) == 450
    for name in ("user_id", "item_id", "rank"):
        assert columns[name] == expected[name]
    # Products of other shapes may round otherwise.
    assert columns["score"] == pytest.approx(expected["score"], rel=1e-5)
    assert os.listdir(tmp_path) == ["lists.parquet"]


def test_no_more_than_a_block_of_users_is_ranked_at_once(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    recommend = TrainedModel.recommend

    def counted(model: TrainedModel, users: np.ndarray, k: int) -> pa.Table:
        asked.append(users.tolist())
        return recommend(model, users, k)

    monkeypatch.setattr(TrainedModel, "recommend", counted)
    write_all_lists(finished.folder, tmp_path / "lists.parquet", ListRequest(3), block_users=32)
    assert asked == [list(range(32)), list(range(32, 64)), list(range(64, 90))]


def test_a_job_that_stopped_goes_on_and_gives_the_same_bytes(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all_lists(finished.folder, tmp_path / "whole.parquet", block_users=20)
    recommend, left, asked = TrainedModel.recommend, 2, []

    def stop_after_two(model: TrainedModel, users: np.ndarray, k: int) -> pa.Table:
        if len(asked) == left:
            raise DataError("stopped")
        asked.append(users[0])
        return recommend(model, users, k)

    monkeypatch.setattr(TrainedModel, "recommend", stop_after_two)
    with pytest.raises(DataError, match="stopped"):
        write_all_lists(finished.folder, tmp_path / "lists.parquet", block_users=20)
    left = 5
    write_all_lists(finished.folder, tmp_path / "lists.parquet", block_users=20)
    assert asked == [0, 20, 40, 60, 80]
    assert (tmp_path / "lists.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_users_for_whom_nothing_is_left_have_no_rows(tmp_path: Path) -> None:
    pairs = [(0, 0), (1, 0), (1, 1), (1, 2), (2, 1)]  # user 1 has met all items
    data = tmp_path / "few"
    data.mkdir()
    rows = [f"{user}\t{item}\t0" for user, item in pairs] + ["0\t1\t1", "2\t2\t2"]
    (data / "few.inter").write_text("\n".join(["userID\titemID\tx_label", *rows, ""]))
    run = Run.create(load_config(str(data), "popular"), tmp_path / "run")
    list(run.epochs())
    write_all_lists(run.folder, tmp_path / "lists.parquet", ListRequest(2), block_users=1)
    found = pq.read_table(tmp_path / "lists.parquet").to_pylist()
    ranked = [(row["user_id"], row["item_id"], row["rank"]) for row in found]
    assert ranked == [("0", "1", 1), ("0", "2", 2), ("2", "0", 1), ("2", "2", 2)]


def test_an_unfinished_run_is_refused_before_anything_is_written(finished: Run, tmp_path: Path) -> None:
    run = Run.create(load_config(finished.config.data.path, "bpr", assignments=FAST), tmp_path / "run")
    with pytest.raises(RunError, match="training has not ended; run `gtcrec resume"):
        write_all_lists(run.folder, tmp_path / "lists.parquet")
    assert os.listdir(tmp_path) == ["run"]


def test_the_command_counts_blocks_and_rows(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "lists.parquet"
    line = ["recommend", str(finished.folder), "--all", "--format", "parquet", "--out", str(out), "-k", "4"]
    assert execute([*line, "--block-users", "50"]) == 0
    shown, said = capsys.readouterr()
    assert (shown, said.splitlines()) == (
        "",
        [*(f"{done} of 2 blocks of users" for done in range(3)), f"360 rows: {out}"],
    )
    assert execute([*line, "--workers", "2"]) == 1
    assert "--engine local is one process, found --workers 2" in capsys.readouterr().err
    assert execute([*line[:3], "--engine", "ray"]) == 2
    assert "--engine ray is for --all --format parquet" in capsys.readouterr().err


@pytest.mark.slow
def test_ray_writes_the_same_file(finished: Run, tmp_path: Path, loopback: list[str]) -> None:
    line = [*loopback, sys.executable, "-m", "gtcrec", "recommend", str(finished.folder), "--all"]
    for name, more in (("local", []), ("1", ["--engine", "ray"]), ("2", ["--engine", "ray", "--workers", "2"])):
        out = tmp_path / name
        command = [*line, "--format", "parquet", "--block-users", "16", "--out", str(out), *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # other numbers of threads may round otherwise
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert done.stderr.splitlines() == [*(f"{n} of 6 blocks of users" for n in range(7)), f"900 rows: {out}"]
        assert out.read_bytes() == (tmp_path / "local").read_bytes()
