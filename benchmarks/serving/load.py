"""Measure a server under 200 clients, newer runs and a killed worker in between; every answer is checked.

    python -m benchmarks.serving.load run --data data/tiktok --out result.json    # minutes; wants an idle machine

The clients are one lean process (`benchmarks.serving.client`) on the same cores. A client asks again as soon as it has
its answer, so that a latency is the time in which the server gets through all clients once.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paths import RUNS, module_command, module_environment
from benchmarks.serving import peers
from benchmarks.serving.clients import CLIENTS, end_clients, start_clients
from benchmarks.serving.kills import kill_workers
from benchmarks.serving.processes import Watch, descendants

EVENT_EVERY = 500
RELOADS, KILL = (0.15, 0.35, 0.55), 0.75  # when, as shares of the time
LARGE = "large"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run_ = verbs.add_parser("run", help="measure")
    run_.add_argument("--data", type=Path, required=True, help="the data set of the smaller catalog")
    run_.add_argument("--out", type=Path, required=True)
    run_.add_argument("--models", type=Path, default=RUNS / "serving", help="where the models lie, or are trained to")
    run_.add_argument("--seconds", type=float, default=60)
    run_.add_argument("--items", type=int, default=1_000_000, help="items of the larger catalog; 0 leaves it out")
    run_.add_argument("--workers", type=int, default=2)
    run_.add_argument("--epochs", type=int, default=2)
    run_.add_argument("--kills", type=int, default=100)
    run_.add_argument(
        "--peers",
        default=os.environ.get("PEERS_PYTHON", ""),
        help="a Python with implicit, cornac, fastapi, flask, gunicorn, uvicorn, uvloop; else no peer is measured",
    )
    arguments = parser.parse_args(words)
    run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Train what is missing, measure all servers one after the other, kill workers, and write the result."""
    sizes = {"data": str(arguments.data)} | ({LARGE: str(arguments.items)} if arguments.items else {})
    rows = []
    for name, source in sizes.items():
        folder = (arguments.models / name).resolve()
        words = ("prepare", folder, name, source, arguments.epochs)
        subprocess.run(module_command("benchmarks.serving.models", *words), check=True, env=module_environment())
        rows.append(measure(folder, arguments.seconds, arguments.workers))
        print(json.dumps(rows[-1]), flush=True)
    if arguments.peers:
        rows[1:1] = peers.measure(
            arguments.peers, (arguments.models / "data").resolve(), arguments.seconds / 3, arguments.workers
        )
    with tempfile.TemporaryDirectory() as place:
        killed = kill_workers(Path(place), arguments.kills)
    about = {"cores": os.cpu_count(), "python": platform.python_version()}
    result = {"about": about | {"clients": CLIENTS, "event_every": EVENT_EVERY}, "rows": rows, "kills": killed}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(arguments.out)


def measure(folder: Path, seconds: float, workers: int) -> dict[str, Any]:
    """Serve the first model of a folder, point to the others meanwhile, kill a worker; return what was seen."""
    models = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal())
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as place:
        link = Path(place) / "live"
        link.symlink_to(models[0])
        words = ("serve", link, "--port", 0, "--events", f"{place}/events.db", "--reload-seconds", 1)
        command = module_command("gtcrec", *words, "--workers", workers)
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=module_environment()) as server:
            try:
                port = wait_for(server, workers)
                watch = Watch(server.pid)
                job = {"port": port, "seconds": seconds, "clients": CLIENTS, "event_every": EVENT_EVERY}
                client = start_clients(Path(place), job | {"expected": str(folder / "expected.npz")})
                changes = _disturb(link, models, server, watch, seconds)
                result = end_clients(client)
                cost = watch.end(result.pop("client_seconds"))
            finally:
                server.send_signal(signal.SIGTERM)
                server.wait(60)
    return {"name": about["name"], "workers": workers, **about, **result, **cost, "memory": changes}


def wait_for(server: "subprocess.Popen[str]", workers: int) -> int:
    """Return the port of a server once all its workers have loaded the model; drain what it says afterwards."""
    assert server.stderr
    port, loaded = 0, 0
    for line in server.stderr:
        loaded += line.startswith("events: ")
        found = re.match(r"http://\S+:(\d+) answers", line)
        port = int(found[1]) if found else port
        if port and loaded >= workers:
            threading.Thread(target=server.stderr.read, daemon=True).start()
            time.sleep(1)  # until they accept
            return port
    raise SystemExit("the server ended")


def _disturb(
    link: Path, models: Sequence[Path], server: "subprocess.Popen[str]", watch: Watch, seconds: float
) -> dict[str, float]:
    """Point to newer models and kill a worker at their times; return the memory just before each, and at the end."""
    start, memory = time.monotonic(), {}

    def wait(share: float, what: str) -> None:
        time.sleep(max(0.0, start + share * seconds - time.monotonic()))
        memory[what] = watch.memory()

    for number, share in enumerate(RELOADS, 1):
        wait(share, f"before reload {number}")
        fresh = link.with_name("next")
        fresh.symlink_to(models[number % len(models)])
        os.replace(fresh, link)
    wait(KILL, "before the kill")
    watch.kill(max(descendants(server.pid, "spawn_main")))
    wait(0.98, "at the end")
    return memory


if __name__ == "__main__":
    main()
