"""The tables of docs/results/serving.md."""

from collections.abc import Mapping
from typing import Any

from benchmarks.blocks import Block


def blocks(result: Mapping[str, Any]) -> dict[str, Block]:
    """Return the tables of a measurement: latencies, memory, and what kills left."""
    about, rows = result["about"], result["rows"]
    made = {"latency": _latency(about, rows), "memory": _memory([row for row in rows if len(row["memory"]) > 1])}
    if "kills" in result:
        made["kills"] = _kills(result["kills"])
    return made


def _latency(about: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> Block:
    text = [
        f"{about['clients']} clients on the {about['cores']} cores of the server, Python {about['python']}; "
        "each asks again as soon as it has its answer. Milliseconds from a request to its answer. Of gtcrec "
        f"three newer runs came meanwhile and a worker was killed; one of {about['event_every']} requests "
        "posted a click. Wrong: answers that differ from the library's own list. Versions: how many answered. "
        "Sent again: requests whose connection was lost with the killed worker. CPU: microseconds of the "
        "server for a request, reloads and the worker's restart included. Others: what other processes had of "
        "the cores."
    ]
    headers = ["server", "items", "users", "workers", "lists", "a second", "p50", "p95", "p99", "longest"]
    headers += ["wrong", "versions", "sent again", "server CPU", "client CPU", "others"]
    cells = [
        [
            str(row["name"]),
            f"{row['items']:,}",
            f"{row['users']:,}",
            str(row["workers"]),
            f"{row['answers']:,}",
            f"{row['answers'] / row['seconds']:,.0f}",
            *(f"{row[name]:.0f}" for name in ("p50", "p95", "p99", "longest")),
            str(row["wrong"]),
            str(len(row["versions"]) or 1),
            str(row["resent"]),
            *(f"{row[side] / (row['answers'] + row['events']) * 1e6:.0f}" for side in ("server_cpu", "client_cpu")),
            f"{row['others']:.0%}",
        ]
        for row in rows
    ]
    return Block(text, headers, cells)


def _memory(rows: list[Mapping[str, Any]]) -> Block:
    moments = list(rows[0]["memory"])
    text = ["Memory of all processes of the server in MB; what they share counts once."]
    cells = [[f"{row['items']:,}", *(f"{row['memory'][moment]:,.0f}" for moment in moments)] for row in rows]
    return Block(text, ["items", *moments], cells, left=())


def _kills(kills: Mapping[str, int]) -> Block:
    names = {"kills": "kills", "acknowledged": "events acknowledged", "lost": "of them lost", "twice": "kept twice"}
    names |= {"posted_again": "posted again"}
    text = ["Two workers answered; one after the other was killed by SIGKILL while four clients posted events."]
    return Block(text, list(names.values()), [[f"{kills[name]:,}" for name in names]], left=())
