"""Peers under the same clients on the same interactions: implicit in FastAPI, and Cornac's own server."""

import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paths import ROOT
from benchmarks.serving.clients import CLIENTS, end_clients, start_clients
from benchmarks.serving.processes import Watch

PORT = 8765
_UVICORN = ("-m", "uvicorn", "--factory", "peer_models:make_app", "--no-access-log", "--port", str(PORT), "--workers")
_GUNICORN = ("-m", "gunicorn", "cornac.serving.app:app", "-k", "gthread", "--threads", "8", "--bind")
PEERS = {
    "implicit": ("implicit in FastAPI", "/recommend/{user}", _UVICORN),
    "cornac": (
        "Cornac's server",
        "/recommend?uid={user}&k=10&remove_seen=true",
        (*_GUNICORN, f"127.0.0.1:{PORT}", "-w"),
    ),
}


def measure(python: str, folder: Path, seconds: float, workers: int) -> list[dict[str, Any]]:
    """Train, serve and ask each peer; nothing is reloaded or killed meanwhile."""
    rows = []
    for name, (title, path, command) in PEERS.items():
        script = ROOT / "benchmarks/serving/peer_models.py"
        if not (folder / f"expected-{name}.npz").exists():
            subprocess.run([python, script, name, folder], check=True)
        settings = {"PEER_FOLDER": str(folder), "MODEL_CLASS": "cornac.models.BPR", "OPENBLAS_NUM_THREADS": "1"}
        settings |= {"MODEL_PATH": str(folder / "cornac-model/BPR")}
        with subprocess.Popen(
            [python, *command, str(workers)], cwd=script.parent, env=os.environ | settings, stderr=subprocess.DEVNULL
        ) as server:
            try:
                pairs = np.load(folder / "pairs.npz")
                sizes = {side: int(pairs[side].max()) + 1 for side in ("users", "items")}
                rows.append({"name": title, "workers": workers} | sizes | _ask(server.pid, folder, name, path, seconds))
            finally:
                server.send_signal(signal.SIGTERM)
                server.wait(60)
    return rows


def _ask(pid: int, folder: Path, name: str, path: str, seconds: float) -> dict[str, Any]:
    _wait(f"http://127.0.0.1:{PORT}{path.format(user=0)}")
    watch = Watch(pid)
    job = {"port": PORT, "seconds": seconds, "clients": CLIENTS, "path": path}
    with tempfile.TemporaryDirectory() as place:
        client = start_clients(Path(place), job | {"expected": str(folder / f"expected-{name}.npz")})
        result = end_clients(client)
    memory = {"at the end": watch.memory()}
    return result | watch.end(result.pop("client_seconds")) | {"memory": memory}


def _wait(address: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(address, timeout=5).read()
        except OSError:
            time.sleep(0.2)
        else:
            time.sleep(3)  # until all workers have loaded the model
            return
    raise SystemExit(f"no answer of {address}")
