"""What the process does with freed memory, and the most that it had."""

import platform
import subprocess
import sys

import pytest

from gtcrec.experiments.execution import worker
from gtcrec.runtime import memory

SCRIPT = """
import resource, sys
from gtcrec.runtime.memory import keep_freed_memory

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

if sys.argv[1] == "keep":
    keep_freed_memory()
before = held()
large = bytearray(1 << 26)
del large
print(held() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_stays_with_the_process_only_if_asked(keep: bool) -> None:
    command = [sys.executable, "-c", SCRIPT, "keep" if keep else "not"]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (grown > 1 << 25) == keep


def test_a_c_library_that_lacks_the_call_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.keep_freed_memory()


def test_the_peak_of_a_process_never_sinks(monkeypatch):
    marks = iter([300, 500, 400])
    monkeypatch.setattr(worker, "_highest", 0)
    monkeypatch.setattr(worker, "_peak_of_kernel", lambda: next(marks))
    assert [worker.peak_bytes() for _ in range(3)] == [300, 500, 500]
