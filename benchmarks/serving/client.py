"""Many clients in one process: each sends a request when the answer to its last one is there, and checks every answer.

    python -m benchmarks.serving.client JOB.json

The clients share the cores with the server, so they are lean: sockets under `select.epoll`, no HTTP library. An answer
is read as JSON and compared with the list that `Recommender.recommend` gave for its user and its version. Text that was
compared before is not read again.
"""

import errno
import json
import random
import select
import socket
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_MARK = b'"impression": "'
_IMPRESSION = 26  # characters
_VERSION = b'"version": "'
_LENGTH = b"content-length: "


@dataclass(frozen=True)
class Job:
    """What to ask: the port, how long and by how many, and the file of the expected lists.

    `path` is the address with {user}. One of `event_every` requests, if it is not 0, posts a click on the first item of
    the user's list.
    """

    port: int
    seconds: float
    clients: int
    expected: str
    path: str = "/v1/recommend/{user}"
    event_every: int = 0
    n: int = 10


@dataclass
class Result:
    """What the clients saw: lists with their latencies in ms, events with theirs, wrong answers, requests sent again.

    A request is sent again when its connection was lost, and its latency counts from the first time.
    """

    answers: int = 0
    events: int = 0
    seconds: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    event_p50: float = 0.0
    event_p99: float = 0.0
    wrong: int = 0
    resent: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)


class Expected:
    """The lists of `recommend` by version and user, from which clicked items go."""

    def __init__(self, path: Path, n: int) -> None:
        stored = np.load(path)
        self.users: list[str] = stored["users"].tolist()
        self.items: list[str] = stored["items"].tolist()
        self._lists = {v: (stored[f"{v}_items"], stored[f"{v}_scores"]) for v in stored["versions"].tolist()}
        self._n = n
        self.clicked: dict[int, list[str]] = {}
        self._known: list[set[bytes]] = [set() for _ in self.users]

    def click(self, user: int, item: str) -> None:
        """Let a user's lists be without an item from now on."""
        self.clicked.setdefault(user, []).append(item)
        self._known[user].clear()

    def fault(self, user: int, body: bytes) -> str:
        """Return what is wrong with an answer, "" for nothing."""
        place = body.find(_MARK) + len(_MARK)
        key = body[:place] + body[place + _IMPRESSION :] if place >= len(_MARK) else body
        if key in self._known[user]:
            return ""
        answer = _as_ours(json.loads(body))
        version = answer.get("version", "")
        if answer["user"] != self.users[user] or version not in self._lists:
            return f"{self.users[user]}: answer of {answer['user']}, version {version!r}"
        ids, scores = (side[user] for side in self._lists[version])
        gone = set(self.clicked.get(user, ()))
        right = [(self.items[i], s) for i, s in zip(ids.tolist(), scores.tolist(), strict=True) if i >= 0]
        right = [one for one in right if one[0] not in gone][: self._n]
        given = [(row["item"], row["score"]) for row in answer["items"]]
        if [item for item, _ in given] != [item for item, _ in right]:
            return f"{self.users[user]}: items {given} are not {right}"
        if (
            given
            and given[0][1] is not None
            and not np.allclose([s for _, s in given], [s for _, s in right], rtol=1e-5, atol=1e-6)
        ):
            return f"{self.users[user]}: scores {given} are not {right}"
        self._known[user].add(key)
        return ""


def _as_ours(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer of Cornac's server, which has no scores, as ours."""
    if "recommendations" not in answer:
        return answer
    rows = [{"item": item, "score": None} for item in answer["recommendations"]]
    return {"user": answer["query"]["uid"], "version": "cornac", "items": rows}


class _Client:
    """One client: its users, its socket and the request that is under way."""

    def __init__(self, job: Job, number: int, expected: Expected) -> None:
        self.job, self.expected = job, expected
        users = list(range(number, len(expected.users), job.clients))
        random.Random(number).shuffle(users)
        head = f"Host: 127.0.0.1:{job.port}\r\n\r\n"
        self.gets = [(f"GET {job.path.format(user=expected.users[u])} HTTP/1.1\r\n{head}".encode(), u) for u in users]
        self.number, self.sent, self.buffer = number, 0, b""
        self.clicks: str | None = None  # the item whose click is under way
        self.top = self.impression = ""
        self.request, self.user, self.start = b"", 0, 0.0

    def connect(self) -> socket.socket:
        self.socket = socket.create_connection(("127.0.0.1", self.job.port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        return self.socket

    def choose(self) -> None:
        """Take the next request: a list, or a click on the first item of the last one."""
        self.sent += 1
        self.start = time.perf_counter()
        if self.job.event_every and self.top and (self.sent + self.number) % self.job.event_every == 0:
            self.clicks = self.top
            event = {"user": self.expected.users[self.user], "item": self.top, "kind": "click"}
            key = f"{self.number}-{self.sent}"
            body = json.dumps({"events": [event | {"impression": self.impression}], "idempotency_key": key}).encode()
            head = f"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
            self.request = f"{head}Content-Type: application/json\r\n\r\n".encode() + body
            return
        self.clicks = None
        self.request, self.user = self.gets[self.sent % len(self.gets)]

    def check(self, status: bytes, body: bytes) -> str:
        """Return what is wrong with the answer to the request under way."""
        if status != b"200":
            return f"status {status.decode()}: {body[:200]!r}"
        if self.clicks is not None:
            self.expected.click(self.user, self.clicks)
            self.top = ""
            return ""
        if self.job.event_every and (self.sent + 1 + self.number) % self.job.event_every == 0:
            answer = json.loads(body)
            self.top, self.impression = answer["items"][0]["item"], answer["impression"]
        return self.expected.fault(self.user, body)


def ask(job: Job) -> Result:
    """Let all clients ask for the time of the job; return what they saw."""
    expected, result = Expected(Path(job.expected), job.n), Result()
    latencies: tuple[list[float], list[float]] = [], []  # of lists, and of events
    versions: Counter[bytes] = Counter()
    poll = select.epoll()
    clients: dict[int, _Client] = {}

    def send(client: _Client) -> None:
        try:
            client.socket.sendall(client.request)
        except OSError:
            again(client)

    def again(client: _Client) -> None:
        result.resent += 1
        clients.pop(client.socket.fileno(), None)
        client.socket.close()
        for _ in range(600):  # all workers may be away
            try:
                clients[client.connect().fileno()] = client
                poll.register(client.socket.fileno(), select.EPOLLIN)
                client.socket.sendall(client.request)
                return
            except OSError as error:
                if error.errno not in (errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE):
                    raise
                time.sleep(0.1)
        raise SystemExit("no server listens any more")

    n_clients = min(job.clients, len(expected.users))  # each has users of its own
    for number in range(n_clients):
        one = _Client(job, number, expected)
        clients[one.connect().fileno()] = one
        poll.register(one.socket.fileno(), select.EPOLLIN)
    start = time.perf_counter()
    for one in list(clients.values()):
        one.choose()
        send(one)
    waiting, end = n_clients, start + job.seconds
    while waiting:
        for place, _ in poll.poll(60) or sys.exit("no answer for a minute"):
            client = clients.get(place)
            if client is None:
                continue
            try:
                data = client.socket.recv(1 << 18)
            except OSError:
                data = b""
            if not data:
                again(client)
                continue
            client.buffer = client.buffer + data if client.buffer else data
            found = _split(client.buffer)
            if found is None:
                continue
            client.buffer = b""
            now = time.perf_counter()
            latencies[client.clicks is not None].append((now - client.start) * 1000)
            fault = client.check(*found)
            mark = found[1].find(_VERSION)
            if mark >= 0:
                mark += len(_VERSION)
                versions[found[1][mark : found[1].find(b'"', mark)]] += 1
            if fault:
                result.wrong += 1
                result.examples = [*result.examples, fault][:3]
            if now < end:
                client.choose()
                send(client)
            else:
                waiting -= 1
    result.seconds = time.perf_counter() - start
    result.versions = {name.decode(): count for name, count in versions.items()}
    result.answers, result.events = map(len, latencies)
    result.p50, result.p95, result.p99, result.longest = np.percentile(latencies[0], [50, 95, 99, 100]).tolist()
    if latencies[1]:
        result.event_p50, result.event_p99 = np.percentile(latencies[1], [50, 99]).tolist()
    return result


def _split(buffer: bytes) -> tuple[bytes, bytes] | None:
    """The status and the body of an answer that is whole; None while some of it is missing."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = buffer[: end + 1].lower()
    place = head.find(_LENGTH) + len(_LENGTH)
    length = int(head[place : head.find(b"\r", place)])
    return (buffer[9:12], buffer[end + 4 :]) if len(buffer) >= end + 4 + length else None


def main() -> None:
    words: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps(asdict(ask(Job(**words))) | {"client_seconds": time.process_time()}))


if __name__ == "__main__":
    main()
