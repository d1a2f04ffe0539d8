"""The processes of a server: this one alone, or several on one port that share the file of events."""

import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from functools import partial
from multiprocessing.synchronize import Semaphore
from typing import TYPE_CHECKING, Any

from gtcrec.cli.console import say
from gtcrec.errors import GtcrecError, RunError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from gtcrec.serving.http import ServerConfig

__all__ = ["answer_alone", "answer_together"]

_SETTINGS: dict[str, Any] = {
    "log_config": None,
    "access_log": False,  # an address holds a user's id
    "server_header": False,
    "timeout_graceful_shutdown": 10,
}


def answer_alone(config: "ServerConfig", listening: socket.socket) -> None:
    """Answer from this process until it is asked to end."""
    import uvicorn

    app = _load(config)
    _say_address(config, listening)
    uvicorn.Server(uvicorn.Config(app, **_SETTINGS)).run(sockets=[listening])


def answer_together(config: "ServerConfig", listening: socket.socket, n: int) -> None:
    """Let n processes answer until this one is asked to end; one that dies is replaced.

    Raises `RunError` when one cannot start.
    """
    import uvicorn
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.supervisors import Multiprocess

    ready = multiprocessing.get_context("spawn").Semaphore(0)  # an event would wait for those who wait for it

    def say_when_ready() -> None:
        ready.acquire()
        _say_address(config, listening)

    with tempfile.TemporaryDirectory(prefix="gtcrec-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read when the workers import prometheus_client
        app = partial(_load_worker, config, n, ready)
        settings = uvicorn.Config(app, factory=True, workers=n, timeout_worker_healthcheck=10, **_SETTINGS)
        supervisor = Multiprocess(settings, [listening])
        threading.Thread(target=say_when_ready, daemon=True).start()
        supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        raise RunError("a worker could not start; it said why")


def _load_worker(config: "ServerConfig", n: int, ready: Semaphore) -> "FastAPI":
    """Return the application of one of n workers; end the worker where it cannot be had."""
    import torch
    from uvicorn.config import STARTUP_FAILURE

    torch.set_num_threads(max(1, torch.get_num_threads() // n))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        app = _load(config)
    except GtcrecError as error:
        say(f"error: {error}")
        sys.exit(STARTUP_FAILURE)
    ready.release()
    return app


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _load(config: "ServerConfig") -> "FastAPI":
    """Return the application, and say what answers."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("gtcrec").setLevel(logging.INFO)
    from gtcrec.serving.http import create_app

    app: FastAPI = create_app(config)
    for one in app.state.variants:
        run = one.live.current()
        say(f"{one.name}: {run.folder}, version {run.version}, {one.share:.0%} of users")
    say(f"events: {config.events_path}")
    gc.collect()
    gc.freeze()  # a full collection would else go through all modules, and stop the answers for a tenth of a second
    return app


def _say_address(config: "ServerConfig", listening: socket.socket) -> None:
    host = f"[{config.host}]" if ":" in config.host else config.host
    say(f"http://{host}:{listening.getsockname()[1]} answers until Ctrl-C", style="bold")
