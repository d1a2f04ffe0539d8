"""`gtcrec serve` as a process: it answers, takes newer runs under load, and ends when asked."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

import gtcrec
from gtcrec.cli.main import execute
from gtcrec.serving.http.live import version_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three saved models of one catalogue, by name."""
    catalog = gtcrec.data.make_catalog(n_users=60, n_items=40, seed=0).dataset
    folder = tmp_path_factory.mktemp("runs")
    for name in ("ease", "itemknn", "popular"):
        gtcrec.Recommender(name).fit(catalog).save(folder / name)
    return folder


@contextmanager
def server(*arguments):
    """Run `gtcrec serve` on a free port; yield the process and the port, and end it."""
    command = [sys.executable, "-m", "gtcrec", "serve", *map(str, arguments), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        lines = []
        try:
            for line in process.stderr:
                lines.append(line)
                if " answers until Ctrl-C" in line:
                    yield process, int(line.split()[0].rpartition(":")[2])
                    break
            else:
                raise AssertionError("".join(lines))
        finally:
            process.kill()


def ask(port, address, method="GET", **options):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, address, **options)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_the_server_answers_until_it_is_asked_to_end(runs, tmp_path, sign):
    with server(runs / "ease", "--events", tmp_path / "events.db") as (process, port):
        assert ask(port, "/v1/recommend/u0001?n=3")[0] == 200
        process.send_signal(sign)
        process.wait(timeout=30)
    assert not (tmp_path / "events.db-wal").exists()  # closed, not torn off


def test_a_key_file_guards_an_open_address(runs, tmp_path):
    (tmp_path / "key.txt").write_text("a-secret-of-32-characters-for-tests\n")
    arguments = [runs / "ease", "--host", "0.0.0.0", "--key-file", tmp_path / "key.txt"]
    with server(*arguments, "--events", tmp_path / "events.db") as (_, port):
        assert ask(port, "/v1/recommend/u0001")[0] == 401
        headers = {"X-API-Key": "a-secret-of-32-characters-for-tests"}
        assert ask(port, "/v1/recommend/u0001", headers=headers)[0] == 200


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--host", "0.0.0.0"], 1, "0.0.0.0 can be reached by other machines: expected a key"),
        (["--variant", "runs/ease"], 2, "expected RUN:SHARE such as"),
        (["--variant", "runs/ease:1"], 1, "the share of a variant must lie between 0 and 1, found 1.0"),
        (["--key-file", "missing.txt"], 1, "missing.txt: No such file or directory"),
    ],
)
def test_a_wrong_option_is_an_error_before_anything_is_loaded(runs, capsys, arguments, code, message):
    assert execute(["serve", str(runs / "ease"), *arguments]) == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_port_in_use_is_named_before_anything_is_loaded(runs, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert execute(["serve", str(runs / "ease"), "--port", str(port)]) == 1
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in capsys.readouterr().err


def test_a_folder_without_a_run_is_named(tmp_path, capsys):
    assert execute(["serve", str(tmp_path), "--port", "0", "--events", str(tmp_path / "e.db")]) == 1
    assert "expected a finished run or a folder of runs, found none" in capsys.readouterr().err


class Client(threading.Thread):
    """Asks for lists until stopped and keeps every answer."""

    def __init__(self, port, number):
        super().__init__()
        self.port, self.number, self.answers, self.stopped = port, number, [], threading.Event()

    def run(self):
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            while not self.stopped.is_set():
                user = f"u{(self.number * 17 + len(self.answers)) % 60:04d}"
                connection.request("GET", f"/v1/recommend/{user}?n=8")
                answer = connection.getresponse()
                self.answers.append((user, answer.status, json.loads(answer.read())))


def point(link: Path, target: Path) -> None:
    """Let a link lead elsewhere, in one step."""
    fresh = link.with_name("next")
    fresh.symlink_to(target)
    os.replace(fresh, link)


def test_three_newer_runs_under_load_drop_no_answer_and_mix_none(runs, tmp_path):
    models = [gtcrec.Recommender.load(runs / name) for name in ("ease", "itemknn", "popular")]
    versions = [version_of(runs / name) for name in ("ease", "itemknn", "popular")]
    offline = {}
    for version, model in zip(versions, models, strict=True):
        for row in model.recommend(k=8).to_pylist():
            offline.setdefault((version, row["user_id"]), []).append((row["item_id"], row["score"]))
    link = tmp_path / "live"
    link.symlink_to(runs / "ease")
    options = ["--events", tmp_path / "events.db", "--reload-seconds", "0.05"]
    with server(link, *options) as (process, port):
        clients = [Client(port, number) for number in range(4)]
        for client in clients:
            client.start()
        for name, version in (("itemknn", versions[1]), ("popular", versions[2]), ("ease", versions[0])):
            point(link, runs / name)
            while ask(port, "/health/ready")[1]["versions"]["a"] != version:
                assert process.poll() is None
        for client in clients:
            client.stopped.set()
            client.join()
    answers = [answer for client in clients for answer in client.answers]
    assert {status for _, status, _ in answers} == {200}
    assert {answer["version"] for _, _, answer in answers} == set(versions)
    for user, _, answer in answers:
        assert [(row["item"], row["score"]) for row in answer["items"]] == offline[answer["version"], user]


def workers_of(process) -> set[int]:
    """The processes that answer: children that `multiprocessing` has spawned."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = set()
    for child in children:
        with suppress(OSError):  # it has just ended
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(int(child))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_worker_is_replaced_while_the_other_answers(runs, tmp_path):
    with server(runs / "ease", "--events", tmp_path / "events.db", "--workers", "2") as (process, port):
        before = workers_of(process)
        assert len(before) == 2
        os.kill(min(before), signal.SIGKILL)
        status, kept, headers = 0, workers_of(process), {"Content-Type": "application/json"}
        event = {"user": "u0001", "item": "p0001", "kind": "click"}
        body = json.dumps({"events": [event], "idempotency_key": "one"})
        while status != 200:  # the kernel may still hand a connection to the dead one
            with suppress(OSError, http.client.HTTPException):
                status, _ = ask(port, "/v1/events", "POST", body=body, headers=headers)
        while len(kept) < 2 or kept & before != {max(before)}:
            assert process.poll() is None
            kept = workers_of(process)
        for _ in range(50):
            _, answer = ask(port, "/v1/recommend/u0001?n=40")
            assert "p0001" not in [row["item"] for row in answer["items"]]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert not (tmp_path / "events.db-wal").exists()


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_server_in_words(tmp_path):
    command = [sys.executable, "-m", "gtcrec", "serve", str(tmp_path), "--port", "0", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "expected a finished run or a folder of runs, found none" in done.stderr
    assert "a worker could not start" in done.stderr
    assert "Traceback" not in done.stderr
