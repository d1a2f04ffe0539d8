"""Ray, started quietly for one piece of work, or an existing cluster joined for it.

Ray's ports let whoever reaches them run code. A Ray started here listens on the loopback interface alone; use a cluster
in a private network only.
"""

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gtcrec.errors import ConfigError

__all__ = ["ray_session"]

_OBJECT_STORE = 200 << 20  # bytes; what travels between workers here is small
_PATIENCE = 10  # seconds
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # the rest is told by exceptions as well
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # spares a warning about the future
    "RAY_worker_niceness": "0",  # of a Ray started here; the default 15 all but stops workers beside a busy process
}
_ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0", on any system: Ray takes 127.0.0.1 for its address


@contextmanager
def ray_session(address: str | None = None, cpus: int | None = None) -> Iterator[None]:
    """Run the block with Ray: a fresh one with `cpus` cores of this machine, or the cluster at `address`.

    What a fresh one opens can be reached from this machine alone.

    A session that is already open is used as it is and stays open. Raises `ConfigError` when ray is not
    installed or no cluster answers at `address`.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ConfigError('ray is not installed; pip install "gtcrec[scale]"') from error
    if ray.is_initialized():
        yield
        return
    folder = None if address else tempfile.mkdtemp(prefix="ray-")  # a short path: Ray's sockets lie in it
    try:
        with _untouched_sigterm(), _silenced():
            if address:
                _connect(address)
            else:
                with _loopback():
                    ray.init(
                        address="local",  # whatever RAY_ADDRESS says
                        num_cpus=cpus,
                        include_dashboard=False,
                        object_store_memory=_OBJECT_STORE,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        _temp_dir=folder,
                        _node_ip_address="127.0.0.1",
                    )
        yield
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _connect(address: str) -> None:
    import ray

    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        text = f"no Ray cluster at {address}: {str(error).splitlines()[0]}"
        raise ConfigError(f"{text}; RAY_AUTH_MODE must be as the cluster's") from error


@contextmanager
def _loopback() -> Iterator[None]:
    """Let a Ray that starts now listen on 127.0.0.1 alone.

    Ray has no option for it: it turns 127.0.0.1 into the machine's address unless clusters are switched off, by a
    variable that its processes read, and that this one read when it imported ray.
    """
    from ray._private import ray_constants

    before, constant = os.environ.get(_ONE_MACHINE), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[_ONE_MACHINE], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = constant
        if before is None:
            del os.environ[_ONE_MACHINE]
        else:
            os.environ[_ONE_MACHINE] = before


@contextmanager
def _untouched_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray sets one of its own, which ends the process at once."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep stderr from what Ray's own libraries write there while they start; no setting does."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
