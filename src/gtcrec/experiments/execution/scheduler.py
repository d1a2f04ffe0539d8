"""Local processes that work side by side, and the runs of a study trained by them, none twice."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from gtcrec.errors import GtcrecError
from gtcrec.experiments.execution.worker import is_done, train_locked
from gtcrec.experiments.planned_run import Part, PlannedRun
from gtcrec.experiments.run_folder import sweep_run
from gtcrec.runtime.locks import is_locked
from gtcrec.runtime.memory import keep_freed_memory
from gtcrec.runtime.threads import available_cores, wait_passively

__all__ = ["OnEvent", "WorkerPool", "train_runs"]

OnEvent = Callable[[PlannedRun, Mapping[str, Any]], None]
_POLL = 1.0  # seconds between looks at runs that another process trains
Key = TypeVar("Key")


class WorkerPool(Generic[Key]):
    """At most `jobs` processes, each with its share of the cores; a context, at whose end those alive are ended.

    A process calls one task with a function that sends events, mappings, to this one. An exception becomes the event
    {"error": GtcrecError}, the end of the process the event {"exit": its code}. A process ends with the one that
    started it, however that ends. As for all processes that Python spawns, a script needs `if __name__ == "__main__":`.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._context = multiprocessing.get_context("spawn")
        self._working: dict[Any, tuple[Key, Any]] = {}  # receiver -> (key, process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for _, process in self._working.values():
            process.terminate()
            process.join()

    @property
    def busy(self) -> bool:
        return bool(self._working)

    @property
    def full(self) -> bool:
        return len(self._working) >= self.jobs

    def start(self, key: Key, task: Callable[..., None], *arguments: Any) -> None:
        """Call task(send, *arguments), a function of a module, in a process of its own; `key` names its events."""
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_run_task, args=(sender, task, arguments), daemon=True)
        with _cores_divided(self.jobs):
            process.start()
        sender.close()
        self._working[receiver] = (key, process)

    def events(self, seconds: float) -> list[tuple[Key, Mapping[str, Any]]]:
        """Wait for events, at most so long, and return them with their keys."""
        if not self._working:
            time.sleep(seconds)
        found: list[tuple[Key, Mapping[str, Any]]] = []
        receiver: Any
        for receiver in wait(list(self._working), seconds):
            key, process = self._working[receiver]
            try:
                found.append((key, receiver.recv()))
            except (EOFError, OSError):
                process.join()
                del self._working[receiver]
                found.append((key, {"exit": process.exitcode}))
        return found


def train_runs(
    runs: Sequence[PlannedRun],
    jobs: int,
    on_event: OnEvent = lambda run, event: None,
    on: Part = "test",
    keep: str = "all",
) -> list[tuple[PlannedRun, str]]:
    """Train the runs that have not ended and measure them on `on`, `jobs` at a time; return those that failed and why.

    A run that another process trains is waited for. With `keep` "results" a run loses its weights once it is
    measured. `on_event` receives {"epoch", "of", "value", "best"} after each epoch and {"ended": "done" | "failed"}.
    """
    waiting = []
    for run in runs:
        if is_done(run.folder, on, keep):
            sweep_run(run.folder)
        else:
            waiting.append(run)
    failed: list[tuple[PlannedRun, str]] = []
    verdicts: dict[Path, Mapping[str, Any]] = {}
    with WorkerPool[PlannedRun](jobs) as pool:
        while waiting or pool.busy:
            for run in _start_free(pool, waiting, on, keep):
                on_event(run, {"ended": "done"})
            for run, event in pool.events(_POLL):
                if "epoch" in event:
                    on_event(run, event)
                elif "exit" not in event:
                    verdicts[run.folder] = event
                elif "busy" in (verdict := verdicts.pop(run.folder, {})):
                    waiting.append(run)
                else:
                    code = event["exit"]
                    why = str(verdict.get("error", f"its process ended with code {code}" if code else ""))
                    failed += [(run, why)] if why else []
                    on_event(run, {"ended": "failed" if why else "done"})
    return failed


def _start_free(pool: WorkerPool[PlannedRun], waiting: list[PlannedRun], on: Part, keep: str) -> Iterator[PlannedRun]:
    """Start what no other process trains until the pool is full; yield the runs that another has ended meanwhile."""
    for run in list(waiting):
        if pool.full:
            break
        if not is_locked(run.folder):
            waiting.remove(run)
            if is_done(run.folder, on, keep):
                yield run
            else:
                pool.start(run, train_locked, run, on, keep)


def _run_task(sender: Connection, task: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """What a process of the pool does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the one that started this ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()

    def send(event: Mapping[str, Any]) -> None:
        with suppress(OSError):  # the one that listened is gone
            sender.send(event)

    try:
        task(send, *arguments)
    except GtcrecError as error:
        send({"error": error})
    except Exception as error:
        send({"error": GtcrecError(f"{type(error).__name__}: {error}")})


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _cores_divided(jobs: int) -> Iterator[None]:
    """Let processes that start now have their share of the cores, and wait for it asleep.

    What the environment sets is kept.
    """
    before = dict(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // jobs)))  # which MKL reads too
    wait_passively()
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
