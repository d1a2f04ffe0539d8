"""How many processors are there and free, and how threads wait."""

import os

import pytest

from gtcrec.experiments.execution.scheduler import _cores_divided
from gtcrec.runtime import threads
from gtcrec.runtime.threads import CpuTimes, available_cores, free_cores, read_cpu_times


@pytest.fixture
def eight(monkeypatch):
    """A machine of 8 processors, all of them ours, where a minute's load was 5."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (5.0, 0.0, 0.0), raising=False)
    monkeypatch.setattr(threads, "_limit", lambda cgroup: (0.0, 1.0))


@pytest.mark.parametrize(
    ("busy", "own", "free"),
    [(0, 0.0, 8), (100, 1.0, 8), (300, 1.0, 6), (250, 0.1, 6), (800, 0.0, 1), (800, 2.0, 2)],
)
def test_processors_that_others_used_since_the_reading_are_not_free(eight, busy, own, free):
    """Of 800 ticks in a second, 100 a processor; `own` are seconds of this process."""
    since = CpuTimes(busy=50, whole=1000, own=3.0, clock=10.0)
    assert free_cores(since, CpuTimes(50 + busy, 1800, 3.0 + own, 11.0)) == free


def test_without_two_readings_apart_the_load_average_says_it(eight):
    since = CpuTimes(busy=50, whole=1000, own=3.0, clock=10.0)
    assert free_cores(None, since) == 3
    assert free_cores(since, CpuTimes(50, 1010, 3.0, 10.1)) == 3


def test_a_part_of_the_machine_has_its_part_of_the_load(eight, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    assert free_cores(None, None) == 1  # of 2, with a load of 5 on 8
    monkeypatch.setattr(os, "getloadavg", lambda: (1.0, 0.0, 0.0))
    assert free_cores(None, None) == 2


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu.max": "1600000 100000"}, 8),
        ({"cpu.max": "?"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({}, 8),
    ],
)
def test_the_limit_of_a_container_counts(monkeypatch, tmp_path, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert available_cores(tmp_path) == cores


def test_a_reading_has_busy_and_whole_time(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  10 20 30 400 50 6 7 8 900 1000\ncpu0 1 2 3 4\n")
    found = read_cpu_times(stat)
    assert (found.busy, found.whole) == (10 + 20 + 30 + 6 + 7 + 8, 10 + 20 + 30 + 400 + 50 + 6 + 7 + 8)
    for text in ("", "intr 1 2 3 4 5", "cpu 1 2", "cpu a b c d e"):
        stat.write_text(text)
        assert read_cpu_times(stat) is None
    assert read_cpu_times(tmp_path / "none") is None


@pytest.mark.parametrize(("jobs", "share"), [(1, "8"), (3, "2"), (20, "1")])
def test_processes_side_by_side_share_the_cores_and_sleep_while_they_wait(eight, monkeypatch, jobs, share):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with _cores_divided(jobs):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == (share, "PASSIVE")
    assert dict(os.environ) == before


def test_what_the_environment_says_of_threads_is_kept(eight, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    before = dict(os.environ)
    with _cores_divided(2):
        assert dict(os.environ) == before
