"""The work of a benchmark: several runs at a time, each in a process of its own, none done twice."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from gtcrec.experiments.benchmark.worker import is_done
from gtcrec.experiments.planned_run import PlannedRun

__all__ = ["OnEvent", "work"]

OnEvent = Callable[[PlannedRun, Mapping[str, Any]], None]
_PATIENCE = 1.0  # seconds between looks at runs that another process does


def work(
    runs: Sequence[PlannedRun], jobs: int, on_event: OnEvent = lambda wanted, event: None, keep: str = "all"
) -> list[tuple[PlannedRun, str]]:
    """Train and test what has not been, `jobs` at a time; returns the runs that failed and why.

    `keep` is that of `BenchmarkConfig`. Runs that another process does are waited for. `on_event` is told, from several
    threads, {"epoch", "of", "value", "best"} after each epoch and {"ended": "done" | "failed"} at the end.
    """
    waiting, failed = [one for one in runs if not is_done(one.folder, keep)], []
    with _Crew(jobs, on_event, keep) as crew:
        while waiting or crew.busy:
            for wanted in list(waiting):
                if not crew.free:
                    break
                if crew.take(wanted):
                    waiting.remove(wanted)
            failed += crew.ended(_PATIENCE)
    return failed


class _Crew:
    """The processes at work and the threads that listen to them."""

    def __init__(self, jobs: int, on_event: OnEvent, keep: str = "all") -> None:
        self.jobs, self.on_event, self.keep = jobs, on_event, keep
        self.threads = ThreadPoolExecutor(jobs)
        self.working: dict[Future[str], PlannedRun] = {}
        self.processes: set[subprocess.Popen[str]] = set()
        self.stopping = False

    def __enter__(self) -> "_Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping = True
        for process in list(self.processes):
            process.terminate()
        self.threads.shutdown(cancel_futures=True)

    @property
    def busy(self) -> bool:
        return bool(self.working)

    @property
    def free(self) -> bool:
        return len(self.working) < self.jobs

    def take(self, wanted: PlannedRun) -> bool:
        """Begin a run unless another process is at it."""
        wanted.folder.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(wanted.folder.with_name(f".{wanted.folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self.working[self.threads.submit(self._do, wanted, lock)] = wanted
        return True

    def ended(self, seconds: float) -> list[tuple[PlannedRun, str]]:
        """Wait for runs to end, at most so long; returns those that failed."""
        if not self.working:
            time.sleep(seconds)
        done, _ = wait(self.working, timeout=seconds, return_when=FIRST_COMPLETED)
        over = [(self.working.pop(one), one.result()) for one in done]
        return [(wanted, why) for wanted, why in over if why]

    def _do(self, wanted: PlannedRun, lock: int) -> str:
        """Do one run in a process that holds the lock as long as it lives; returns why it failed, or ""."""
        if is_done(wanted.folder, self.keep):  # another process did it just now
            os.close(lock)
            self.on_event(wanted, {"ended": "done"})
            return ""
        why = ""
        task = {"variant": wanted.variant, "seed": wanted.seed, "folder": str(wanted.folder), "keep": self.keep}
        task["config"] = wanted.config.model_dump(mode="json")
        with tempfile.TemporaryFile("w+", encoding="utf-8") as errors, _started(task, lock, self.jobs, errors) as one:
            self.processes.add(one)
            if self.stopping:
                one.terminate()
            for line in one.stdout or ():
                event = json.loads(line)
                why = event.get("error", "")
                if not why:
                    self.on_event(wanted, event)
            code = one.wait()
            self.processes.discard(one)
            errors.seek(0)
            last = errors.read().strip().rpartition("\n")[2]
        if code and not why:
            why = f"its process ended with code {code}{f': {last}' if last else ''}"
        self.on_event(wanted, {"ended": "failed" if why else "done"})
        return why


@contextmanager
def _started(task: Mapping[str, Any], lock: int, jobs: int, errors: Any) -> Iterator["subprocess.Popen[str]"]:
    """A process for the run with its share of the cores; it inherits the lock and this one lets go of it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // jobs)
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "gtcrec.experiments.benchmark.worker", json.dumps(task)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environment,
        pass_fds=(lock,),
    )
    os.close(lock)
    with process:
        yield process
