"""A job of blocks gives the same bytes whoever does it, and survives kills."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pytest

from gtcrec.errors import ConfigError, DataError, InUseError, RunError, WriteError
from gtcrec.runtime.block_jobs import BlockResults, Local, RayData, choose_executor, run_in_blocks
from gtcrec.runtime.ray_session import ray_session
from helpers.faults import count_events, fail_at

SCRIPT = Path(__file__).with_name("blocks_process.py")
PORTS = Path(__file__).with_name("ray_ports_process.py")
WHOLE = json.dumps([2 * x for x in range(20)])


class Job:
    """x -> x + 1 for ten rows in blocks of three; remembers which blocks it did, and fails at block `fails`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.did: list[int] = []
        self.told: list[tuple[int, int]] = []
        self.fails = -1

    def stage(self, block: pa.Table) -> pa.Table:
        number = block["x"][0].as_py() // 3
        if number == self.fails:
            raise DataError(f"block {number} is bad")
        self.did.append(number)
        return pa.table({"y": [x + 1 for x in block["x"].to_pylist()]})

    def run(self, rows: int = 10, size: int = 3, **settings: str) -> int:
        return run_in_blocks(
            pa.table({"x": range(rows)}), size, lambda: self.stage, settings, self.out, self.assemble,
            on_block=lambda done, total: self.told.append((done, total)),
        )  # fmt: skip

    def assemble(self, results: BlockResults, path: Path) -> int:
        numbers = [y for table in results for y in table["y"].to_pylist()]
        path.write_text(json.dumps(numbers))
        return len(numbers)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / "out.json")


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_the_file_holds_all_blocks_in_order_and_nothing_else_is_left(job: Job) -> None:
    assert job.run() == 10
    assert json.loads(job.out.read_text()) == list(range(1, 11))
    assert job.did == [0, 1, 2, 3]
    assert job.told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert files(job.out.parent) == ["out.json"]


def test_a_job_that_stopped_goes_on_behind_its_complete_blocks(job: Job) -> None:
    job.fails = 2
    with pytest.raises(DataError, match="block 2 is bad"):
        job.run()
    assert [re.sub(r"\.[0-9a-f]{12}\.", ".KEY.", name) for name in files(job.out.parent)] == [".out.json.KEY.blocks"]
    job.fails, job.did, job.told = -1, [], []
    job.run()
    assert (job.did, job.told[0]) == ([2, 3], (2, 4))
    assert json.loads(job.out.read_text()) == list(range(1, 11))


@pytest.mark.parametrize("change", [{"rows": 11}, {"size": 4}, {"encoder": "other"}])
def test_blocks_of_other_rows_or_settings_are_done_anew(job: Job, change: dict[str, int]) -> None:
    job.fails = 2
    with pytest.raises(DataError, match="block 2 is bad"):
        job.run()
    job.fails, job.did = -1, []
    job.run(**change)
    assert min(job.did) == 0
    assert json.loads(job.out.read_text()) == list(range(1, 12 if "rows" in change else 11))


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_block_is_done_anew(job: Job, damage: bytes | None) -> None:
    job.fails = 2
    with pytest.raises(DataError, match="block 2 is bad"):
        job.run()
    block = next(job.out.parent.glob(".out.json.*.blocks")) / "000001.block"
    content = bytearray(block.read_bytes())
    content[-20] ^= 1
    block.write_bytes(bytes(content) if damage is None else damage)
    job.fails, job.did = -1, []
    job.run()
    assert job.did == [1, 2, 3]
    assert json.loads(job.out.read_text()) == list(range(1, 11))


def test_a_second_job_for_the_same_file_is_refused_and_destroys_nothing(job: Job, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, str(SCRIPT), str(job.out), "0", "slow"], stdout=subprocess.PIPE) as process:
        while not list(tmp_path.glob(".out.json.*.blocks/000002.block")):
            assert process.poll() is None
            time.sleep(0.01)
        with pytest.raises(InUseError, match=rf"out\.json: in use by process {process.pid} on .*; wait for it to end"):
            job.run()
        assert process.stdout is not None
        assert json.loads(process.stdout.read()) == 20
    assert job.did == []
    assert job.out.read_text() == WHOLE


def test_blocks_of_other_settings_are_kept_for_who_goes_on_with_them(job: Job) -> None:
    job.fails = 2
    with pytest.raises(DataError, match="block 2 is bad"):
        job.run(k="10")
    job.fails, job.did = -1, []
    job.run(k="20")
    assert job.did == [0, 1, 2, 3]
    job.did = []
    job.run(k="10")
    assert job.did == [2, 3]
    assert files(job.out.parent) == ["out.json"]


def test_temporary_files_of_dead_processes_are_swept(job: Job) -> None:
    for pid in (4194304, os.getpid()):  # the first is a number that no process has
        (job.out.parent / f".out.json.{pid}.tmp").touch()
        (job.out.parent / f".other.json.{pid}.tmp").touch()
    job.run()
    assert files(job.out.parent) == sorted([
        "out.json", ".other.json.4194304.tmp", f".other.json.{os.getpid()}.tmp"
    ])  # fmt: skip


def test_a_missing_folder_is_made_and_one_that_cannot_be_made_is_named(job: Job) -> None:
    job.out = job.out.parent / "lists" / "2024" / "out.json"
    assert job.run() == 10
    job.out = job.out / "out.json"
    with pytest.raises(WriteError, match=r"lists/2024/out\.json: cannot be written: the folder cannot be made: "):
        job.run()


def test_a_full_disk_names_the_file_that_was_asked_for(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        count_events(patch, fail_at(12))
        with pytest.raises(WriteError) as failed:
            job.run()
    assert str(failed.value) == f"{job.out}: cannot be written: No space left on device"
    assert job.run() == 10


def test_an_old_file_stays_until_the_new_one_is_whole(job: Job) -> None:
    job.out.write_text("old")
    job.fails = 3
    with pytest.raises(DataError, match="block 3 is bad"):
        job.run()
    assert job.out.read_text() == "old"
    job.fails = -1
    job.run()
    assert json.loads(job.out.read_text()) == list(range(1, 11))


def test_no_rows_make_a_file_of_none(job: Job) -> None:
    assert job.run(rows=0) == 0
    assert (job.out.read_text(), job.told) == ("[]", [(0, 0)])


def test_a_block_that_vanishes_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"000000\.block: missing or damaged; start the job again"):
        list(BlockResults(tmp_path, 1))


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r": expected the name of a file to write, found a folder"):
        Job(tmp_path).run()


def test_executors_are_chosen_by_name() -> None:
    assert choose_executor("local") == Local()
    assert choose_executor("ray", 3, device="cuda") == RayData(3, None, gpus=1)
    with pytest.raises(ConfigError, match="--engine local is one process, found --workers 2; expected --engine ray"):
        choose_executor("local", 2)
    with pytest.raises(ConfigError, match="workers must be at least 1, found 0"):
        choose_executor("ray", 0)


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r'ray is not installed; pip install "gtcrec\[scale\]"'), ray_session():
        pass


def test_a_cluster_that_is_not_there_is_named() -> None:
    code = "from gtcrec.runtime.ray_session import ray_session\nwith ray_session('127.0.0.1:9'): pass"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert "ConfigError: no Ray cluster at 127.0.0.1:9: [Errno 111] Connection refused; RAY_AUTH_MODE" in done.stderr


PRIORITY = """
import os
import ray
from gtcrec.runtime.ray_session import ray_session
with ray_session(None, 1):
    print(ray.get(ray.remote(lambda: os.nice(0)).remote()))
"""


@pytest.mark.slow
def test_workers_have_the_priority_of_the_process_that_started_them(loopback: list[str]) -> None:
    line = [*loopback, "nice", "-n", "3", sys.executable, "-c", PRIORITY]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200)
    assert done.stdout == "3\n", done.stderr


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the open ports are read from /proc")
def test_a_ray_that_is_started_here_listens_on_the_loopback_interface_alone() -> None:
    done = subprocess.run([sys.executable, str(PORTS)], capture_output=True, text=True, timeout=200)
    addresses = json.loads(done.stdout)
    assert len(addresses) > 2
    assert set(addresses) <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_a_killed_job_loses_the_block_in_work_at_most(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    with subprocess.Popen([sys.executable, str(SCRIPT), str(out), "0", "slow"]) as process:
        while not list(tmp_path.glob(".out.json.*.blocks/000002.block")):
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not out.exists()
    assert process_blocks(out, 0, "slow", []) == 20
    done = (tmp_path / "out.mark").read_text().split()
    assert sorted(set(done)) == [str(number) for number in range(10)]
    assert len(done) <= 11
    assert out.read_text() == WHOLE
    assert files(tmp_path) == ["out.json", "out.mark"]


def process_blocks(out: Path, workers: int, how: str, loopback: list[str]) -> object:
    command = [*loopback, sys.executable, str(SCRIPT), str(out), str(workers), how]
    with tempfile.TemporaryDirectory() as temporary:  # a short path: Ray's sockets lie in it
        environment = {**os.environ, "TMPDIR": temporary}
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
        assert os.listdir(temporary) == []
    assert (done.returncode, done.stderr) == (0, "")
    *noise, found = done.stdout.splitlines()
    assert noise == [] or "killed" in how  # Ray reports a worker's death on stdout
    return json.loads(found)


def test_ray_makes_the_same_file_in_silence(tmp_path: Path, loopback: list[str]) -> None:
    assert process_blocks(tmp_path / "out.json", 2, "plain", loopback) == 20
    assert (tmp_path / "out.json").read_text() == WHOLE
    assert files(tmp_path) == ["out.json", "out.mark"]


@pytest.mark.slow
class TestRay:
    def test_a_killed_worker_is_replaced(self, tmp_path: Path, loopback: list[str]) -> None:
        assert process_blocks(tmp_path / "out.json", 2, "once killed", loopback) == 20
        assert (tmp_path / "out.json").read_text() == WHOLE

    def test_a_block_that_kills_its_workers_is_named(self, tmp_path: Path, loopback: list[str]) -> None:
        found = process_blocks(tmp_path / "out.json", 1, "always killed", loopback)
        assert found == ["RunError", "block 3: 3 workers died over it, for lack of memory perhaps"]
        assert (tmp_path / "out.mark").read_text().split().count("3") == 3

    def test_an_error_in_a_block_arrives_as_it_is(self, tmp_path: Path, loopback: list[str]) -> None:
        assert process_blocks(tmp_path / "out.json", 1, "bad data", loopback) == ["DataError", "block 3 is bad"]

    def test_what_a_killed_job_left_is_gone_on_with_by_others(self, tmp_path: Path, loopback: list[str]) -> None:
        out = tmp_path / "out.json"
        assert process_blocks(out, 0, "bad data", []) == ["DataError", "block 3 is bad"]
        (tmp_path / "out.mark").unlink()
        assert process_blocks(out, 1, "plain", loopback) == 20
        assert sorted((tmp_path / "out.mark").read_text().split()) == ["3", "4", "5", "6", "7", "8", "9"]
        assert out.read_text() == WHOLE
