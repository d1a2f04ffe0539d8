"""Kill workers under posted events, and look whether every acknowledged event is there, once.

    python -m benchmarks.serving.kills --kills 100 --out result.json

Two workers answer. Clients post events one after the other, each under its own key, and post again when no answer
comes. A worker is killed at a random moment once both have loaded the model.
"""

import argparse
import http.client
import json
import os
import queue
import random
import re
import signal
import sqlite3
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gtcrec
from benchmarks.paths import module_command, module_environment
from benchmarks.serving.processes import descendants

CLIENTS, LONGEST = 4, 0.5  # seconds that a worker lives on


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        result = kill_workers(Path(folder), arguments.kills)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


class _Poster(threading.Thread):
    """Posts events until stopped and keeps what was acknowledged."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__()
        self.port, self.number, self.stopped = port, number, threading.Event()
        self.acknowledged: list[str] = []
        self.posted_again = 0

    def run(self) -> None:
        while not self.stopped.is_set():
            item = f"{self.number}-{len(self.acknowledged)}"
            event = {"user": f"poster {self.number}", "item": item, "kind": "click"}
            while not self._post(json.dumps({"events": [event], "idempotency_key": item})):
                self.posted_again += 1
            self.acknowledged.append(item)

    def _post(self, body: str) -> bool:
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
                connection.request("POST", "/v1/events", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                said = answer.read()
        except (OSError, http.client.HTTPException):  # the worker was killed
            return False
        if answer.status != 200:
            raise SystemExit(f"status {answer.status}: {said!r}")
        return True


def kill_workers(folder: Path, kills: int) -> dict[str, Any]:
    """Serve a small model from two workers, kill so many, and return what was acknowledged and what was kept."""
    model = gtcrec.Recommender("popular").fit(gtcrec.data.make_catalog(n_users=60, n_items=40).dataset)
    words = ("serve", model.save(folder / "model"), "--port", 0, "--events", folder / "events.db", "--workers", 2)
    command, rng = module_command("gtcrec", *words), random.Random(0)
    loaded, ports = threading.Semaphore(0), queue.SimpleQueue[int]()

    def listen(server: "subprocess.Popen[str]") -> None:
        assert server.stderr
        for line in server.stderr:
            if found := re.match(r"http://\S+:(\d+) answers", line):
                ports.put(int(found[1]))
            if line.startswith("events: "):
                loaded.release()

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=module_environment(1)) as server:
        listener = threading.Thread(target=listen, args=(server,))
        listener.start()
        posters: list[_Poster] = []
        try:
            port = ports.get(timeout=120)
            posters = [_start(port, number) for number in range(CLIENTS)]
            _wait(loaded)
            for _ in range(kills):
                _wait(loaded)
                threading.Event().wait(rng.uniform(0, LONGEST))
                os.kill(rng.choice(descendants(server.pid, "spawn_main")), signal.SIGKILL)
            _wait(loaded)
        finally:
            for poster in posters:
                poster.stopped.set()
                poster.join()
            server.send_signal(signal.SIGTERM)
            listener.join()
    return _compare(folder / "events.db", posters) | {"kills": kills}


def _wait(loaded: threading.Semaphore) -> None:
    if not loaded.acquire(timeout=120):
        raise SystemExit("a worker did not come back")


def _start(port: int, number: int) -> _Poster:
    poster = _Poster(port, number)
    poster.start()
    return poster


def _compare(path: Path, posters: Sequence[_Poster]) -> dict[str, Any]:
    with closing(sqlite3.connect(path)) as log:
        kept = Counter(item for (item,) in log.execute("SELECT item FROM events"))
    acknowledged = [item for poster in posters for item in poster.acknowledged]
    return {
        "acknowledged": len(acknowledged),
        "lost": sum(item not in kept for item in acknowledged),
        "twice": sum(count > 1 for count in kept.values()),
        "posted_again": sum(poster.posted_again for poster in posters),
    }


if __name__ == "__main__":
    main()
