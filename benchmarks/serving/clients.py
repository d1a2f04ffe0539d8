"""The process of the clients, and what it says."""

import json
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.paths import module_command, module_environment

CLIENTS = 200


def start_clients(place: Path, job: dict[str, Any]) -> "subprocess.Popen[str]":
    """Start the clients as a process of their own."""
    (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = module_command("benchmarks.serving.client", place / "job.json")
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=module_environment(1))


def end_clients(client: "subprocess.Popen[str]") -> dict[str, Any]:
    """Return what the clients saw."""
    said, _ = client.communicate()
    if client.returncode:
        raise SystemExit("the clients gave up")
    seen: dict[str, Any] = json.loads(said)
    return seen
