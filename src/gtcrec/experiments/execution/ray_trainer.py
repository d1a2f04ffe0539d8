"""Training by Ray: the plain loop in several worker processes, started anew from the last checkpoint if one is lost.

The run folder must lie where all workers and this process see it; each worker reads the data itself.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtcrec.errors import ConfigError, GtcrecError, RunError
from gtcrec.experiments.config import RunConfig
from gtcrec.experiments.run import Run
from gtcrec.runtime.files import MANIFEST
from gtcrec.runtime.locks import hold_lock
from gtcrec.runtime.memory import keep_freed_memory
from gtcrec.runtime.process_group import ProcessGroup, refuse_numbered_gpu
from gtcrec.runtime.ray_session import ray_session
from gtcrec.runtime.threads import available_cores
from gtcrec.training.trainer import Epoch

__all__ = ["Cluster", "epochs", "history"]

_POLL = 0.3  # seconds between looks at the history
_LOCK_WAIT = 30.0  # seconds that a lost worker may take to end, and so to let go of the run


@dataclass(frozen=True)
class Cluster:
    """How many workers, on which Ray (no address: a fresh one on this machine), and how many losses they survive."""

    workers: int = 1
    address: str = ""
    max_failures: int = 3


def epochs(
    config: RunConfig, folder: Path, cluster: Cluster, on_loss: Callable[[str], None] = lambda text: None
) -> Iterator[Epoch]:
    """Train the run in `folder`, new or begun, to its end; yields each epoch when its checkpoint is on disk.

    `on_loss` is called with a reason when workers were lost and others go on. Raises what a worker raised, `RunError`
    when workers were lost too often, `ConfigError` for devices that are not there.
    """
    folder = folder.resolve()
    data = config.data.model_copy(update={"path": str(Path(config.data.path).resolve())})  # workers start elsewhere
    config = config.model_copy(update={"data": data})
    _check_devices(config.train.device, cluster)
    scratch = folder.with_name(f".{folder.name}.ray")  # Ray's own notes, which it wants shared as well
    done = len(history(folder))
    try:
        with _session(cluster):
            for failures in range(cluster.max_failures + 1):
                attempt = _Attempt(config, folder, scratch / str(failures), cluster)
                running = True
                while running:
                    running = attempt.running()  # asked before the look: what was written before the end is seen
                    new = history(folder)[done:]
                    done += len(new)
                    yield from new
                if attempt.error is None:
                    break
                text = _reason(attempt.error)
                if failures == cluster.max_failures:
                    raise RunError(f"{folder}: given up after {failures} restarts: {text}")
                on_loss(f"{text}; starting again from epoch {done}, restart {failures + 1} of {cluster.max_failures}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not (folder / MANIFEST).exists():
        raise RunError(f"{folder}: the workers have ended, but their results are not here; expected a shared folder")


@contextmanager
def _session(cluster: Cluster) -> Iterator[None]:
    """Ray for the block, set up for training."""
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"  # the other generation of Ray Train reports failures otherwise
    if not cluster.address:
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process that this machine does not need
    with ray_session(cluster.address or None, cpus=max(available_cores(), cluster.workers)):
        yield


class _Attempt:
    """One start of all workers, watched from this thread, so that Ctrl-C stays ours."""

    def __init__(self, config: RunConfig, folder: Path, scratch: Path, cluster: Cluster) -> None:
        self.error: BaseException | None = None
        threads = os.environ.get("OMP_NUM_THREADS", "")
        order = {
            "config": config.model_dump(mode="json"),
            "folder": str(folder),
            "threads": int(threads) if threads.isdigit() else 0,
        }
        self._trainer = _trainer(order, scratch, cluster)
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()

    def running(self) -> bool:
        """Wait a moment; whether the workers are still at it."""
        self._thread.join(_POLL)
        return self._thread.is_alive()

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # carried to the other thread
            self.error = error


def _trainer(order: dict[str, Any], scratch: Path, cluster: Cluster) -> Any:
    from ray.train import RunConfig as RayRunConfig
    from ray.train import ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = order["config"]["train"]["device"] == "cuda"
    return TorchTrainer(
        _work,
        train_loop_config=order,
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=cluster.workers, use_gpu=gpu),
        run_config=RayRunConfig(name=scratch.name, storage_path=str(scratch.parent)),
    )


def _work(order: dict[str, Any]) -> None:
    """What each worker does: open the run, or make it, and train it to the end."""
    import torch
    from ray.train import get_context
    from ray.train.torch import get_device

    context = get_context()
    keep_freed_memory()
    torch.set_num_threads(order["threads"] or max(1, available_cores() // context.get_local_world_size()))
    config, folder = RunConfig.model_validate(order["config"]), Path(order["folder"])
    if config.train.device == "cuda":
        torch.cuda.set_device(get_device())
    workers = ProcessGroup(context.get_world_rank(), context.get_world_size())
    with hold_lock(folder, wait=_LOCK_WAIT) if workers.is_main else nullcontext():
        if (folder / "config.yaml").is_file():
            run = Run.load(folder, config.data.path, config.train.device, workers)
        else:
            run = Run.create(config, folder, workers)
        for _ in run.epochs():
            pass


def _check_devices(device: str, cluster: Cluster) -> None:
    refuse_numbered_gpu(device)
    if device == "cuda" and not cluster.address:
        import torch

        seen = torch.cuda.device_count()
        if seen < cluster.workers:
            raise ConfigError(f"{cluster.workers} workers want {cluster.workers} GPUs, torch sees {seen}")


def history(folder: Path) -> list[Epoch]:
    """The epochs whose checkpoint is on disk."""
    try:
        lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    entries = map(json.loads, lines)
    return [Epoch(entry["epoch"], entry["losses"], entry["valid"] or {}, entry["best"], "") for entry in entries]


def _reason(failure: BaseException) -> str:
    """Say in one line why the workers ended; raises what one of them raised on purpose."""
    errors: dict[int, BaseException] = getattr(failure, "worker_failures", {})
    for error in errors.values():
        if isinstance(error, GtcrecError):
            raise error
    lost = [rank for rank, error in errors.items() if type(error).__name__.startswith("WorkerHealthCheck")]
    if lost:
        return f"lost worker {', '.join(map(str, lost))}"
    # One worker's own failure breaks the connections of the others, which torch reports as RuntimeError.
    for rank, error in sorted(errors.items(), key=lambda one: isinstance(one[1], RuntimeError)):
        return f"worker {rank} failed: {_line(error)}"
    return f"the workers failed: {_line(failure)}"


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
