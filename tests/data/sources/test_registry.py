"""Public data sets by name, and their download: against a server on this machine, never the net."""

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from gtcrec.cli.main import app
from gtcrec.data.sources import registry as catalogue
from gtcrec.data.sources.download import SUMS, get
from gtcrec.data.sources.registry import PUBLIC_DATA, PublicData, PublicFile, find_public_data
from gtcrec.errors import ConfigError, DataError

DATA = bytes(range(256)) * 10_000
SHA = hashlib.sha256(DATA).hexdigest()
MD5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `data`, knows Range and If-Range, and hangs up after `stop` bytes if that is not 0."""

    data: ClassVar[bytes] = DATA
    tag: ClassVar[str] = '"one"'
    stop: ClassVar[int] = 0
    asked: ClassVar[list[str]] = []
    shift: ClassVar[int] = 0

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://example.invalid/data.bin")
            self.end_headers()
            return
        if self.path != "/data.bin":
            self.send_error(404, "Not Found")
            return
        wanted = self.headers.get("Range", "")
        type(self).asked.append(wanted)
        start = int(wanted[6:-1]) if wanted and self.headers["If-Range"] == self.tag else 0
        if start >= len(self.data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(self.data)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + self.shift}-{len(self.data) - 1}/{len(self.data)}")
        if self.tag:
            self.send_header("ETag", self.tag)
        self.send_header("Content-Length", str(len(self.data) - start))
        self.end_headers()
        self.wfile.write(self.data[start : self.stop or None])

    def log_message(self, *given: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[type[Server], str]]:
    handler = type("Fresh", (Server,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.01,))
        thread.start()
        yield handler, f"http://127.0.0.1:{one.server_port}/data.bin"
        one.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download_is_checked_and_its_sum_is_recorded_and_said(server, tmp_path: Path) -> None:
    _, url = server
    said: list[str] = []
    counted: list[tuple[int, int]] = []
    found = get([PublicFile(url)], tmp_path, said.append, lambda done, total: counted.append((done, total)))
    assert (tmp_path / "data.bin").read_bytes() == DATA
    assert found == {"data.bin": {"url": url, "bytes": len(DATA), "sha256": SHA}}
    assert json.loads((tmp_path / SUMS).read_text()) == found
    assert names(tmp_path) == ["data.bin", SUMS]
    assert said == [f"{tmp_path}/data.bin: downloaded, sha256 {SHA} (publisher: none published, recorded now)"]
    assert counted[-1] == (len(DATA), len(DATA))


def test_a_file_that_is_there_is_not_downloaded_again_but_checked(server, tmp_path: Path) -> None:
    handler, url = server
    get([PublicFile(url, checksum=f"md5:{MD5}")], tmp_path)
    get([PublicFile(url, checksum=f"md5:{MD5}")], tmp_path)
    assert len(handler.asked) == 1
    (tmp_path / "data.bin").write_bytes(b"edited")
    with pytest.raises(DataError, match=rf"data.bin: md5 is .*, its publisher says {MD5}; it is damaged"):
        get([PublicFile(url, checksum=f"md5:{MD5}")], tmp_path)
    with pytest.raises(DataError, match=rf"data.bin: sha256 is .*, downloads.json recorded {SHA}"):
        get([PublicFile(url)], tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == b"edited"


def test_an_interrupted_download_goes_on_where_it_ended(server, tmp_path: Path) -> None:
    handler, url = server
    handler.stop = 1_000_000
    with pytest.raises(DataError, match="the connection ended after 1,000,000 of 2,560,000 bytes; the same command"):
        get([PublicFile(url)], tmp_path)
    assert names(tmp_path) == ["data.bin.part", "data.bin.part.mark"]
    handler.stop = 0
    get([PublicFile(url, checksum=f"sha256:{SHA}")], tmp_path)
    assert handler.asked == ["", "bytes=1000000-"]
    assert (tmp_path / "data.bin").read_bytes() == DATA
    assert names(tmp_path) == ["data.bin", SUMS]


def test_a_file_that_changed_in_between_is_fetched_from_its_start(server, tmp_path: Path) -> None:
    handler, url = server
    handler.stop = 1000
    with pytest.raises(DataError, match="ended after 1,000"):
        get([PublicFile(url)], tmp_path)
    handler.stop, handler.tag, handler.data = 0, '"two"', DATA[::-1]
    get([PublicFile(url)], tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == DATA[::-1]


@pytest.mark.parametrize("tag", ["", 'W/"one"'])
def test_without_a_sure_mark_of_the_file_nothing_is_continued(server, tmp_path: Path, tag: str) -> None:
    handler, url = server
    handler.tag, handler.stop = tag, 1000
    with pytest.raises(DataError, match="ended after 1,000"):
        get([PublicFile(url)], tmp_path)
    handler.stop = 0
    get([PublicFile(url)], tmp_path)
    assert handler.asked == ["", ""]
    assert (tmp_path / "data.bin").read_bytes() == DATA


def test_a_whole_part_only_gets_its_name_and_one_that_is_too_long_is_deleted(server, tmp_path: Path) -> None:
    _, url = server
    (tmp_path / "data.bin.part.mark").write_text('"one"')
    (tmp_path / "data.bin.part").write_bytes(DATA)
    get([PublicFile(url, checksum=f"md5:{MD5}")], tmp_path)
    assert names(tmp_path) == ["data.bin", SUMS]
    (tmp_path / "data.bin").unlink()
    (tmp_path / "data.bin.part.mark").write_text('"one"')
    (tmp_path / "data.bin.part").write_bytes(DATA + b"x")
    with pytest.raises(DataError, match=r"data.bin.part: has 2,560,001 bytes, more than the file; deleted it"):
        get([PublicFile(url)], tmp_path)
    assert not (tmp_path / "data.bin.part").exists()


def test_another_part_than_the_wanted_one_is_refused(server, tmp_path: Path) -> None:
    handler, url = server
    handler.shift = 5
    (tmp_path / "data.bin.part.mark").write_text('"one"')
    (tmp_path / "data.bin.part").write_bytes(DATA[:100])
    with pytest.raises(DataError, match="expected bytes from 100, the server sends another part; delete"):
        get([PublicFile(url)], tmp_path)


def test_a_wrong_sum_is_refused_and_the_file_removed(server, tmp_path: Path) -> None:
    _, url = server
    with pytest.raises(DataError, match=rf"md5 is {MD5}, its publisher says 0000; deleted it"):
        get([PublicFile(url, checksum="md5:0000")], tmp_path)
    assert names(tmp_path) == []


def test_an_answer_that_is_no_file_is_named(server, tmp_path: Path) -> None:
    _, url = server
    with pytest.raises(DataError, match=r"127.0.0.1 answers 404 Not Found for http://127.*/nothing"):
        get([PublicFile(url.replace("data.bin", "nothing"))], tmp_path)


def test_without_a_connection_it_is_said_where_to_put_the_file(server, tmp_path: Path) -> None:
    _, url = server
    closed = re.sub(r":\d+/", ":1/", url)
    with pytest.raises(DataError) as raised:
        get([PublicFile(closed)], tmp_path)
    assert "no connection to 127.0.0.1 (" in str(raised.value)
    assert f"download {closed} elsewhere and put it at {tmp_path}/data.bin, then" in str(raised.value)
    (tmp_path / "data.bin").write_bytes(DATA)
    assert get([PublicFile(closed, checksum=f"md5:{MD5}")], tmp_path)["data.bin"]["sha256"] == SHA


def test_a_connection_that_breaks_in_the_middle_is_told_from_none(tmp_path: Path, monkeypatch) -> None:
    class Breaking:
        status, url, headers = 200, "", {"ETag": '"one"', "Content-Length": "10"}

        def __init__(self) -> None:
            self.parts = [b"abc"]

        def __enter__(self) -> "Breaking":
            return self

        def __exit__(self, *given: object) -> None:
            pass

        def read(self, size: int) -> bytes:
            if self.parts:
                return self.parts.pop()
            raise ConnectionResetError("reset by peer")

    monkeypatch.setattr("gtcrec.data.sources.download._OPENER.open", lambda *given, **more: Breaking())
    with pytest.raises(DataError, match=r"the connection broke .reset by peer.; the same command goes on from there"):
        get([PublicFile("https://example.invalid/data.bin")], tmp_path)
    assert (tmp_path / "data.bin.part").read_bytes() == b"abc"


def test_only_https_is_followed_except_on_this_machine(server, tmp_path: Path) -> None:
    _, url = server
    with pytest.raises(DataError, match=r"http://example.invalid/x: expected an https address, found http"):
        get([PublicFile("http://example.invalid/x")], tmp_path)
    with pytest.raises(DataError, match=r"file:///etc/passwd: expected an https address, found file"):
        get([PublicFile("file:///etc/passwd")], tmp_path)
    with pytest.raises(DataError, match=r"http://example.invalid/data.bin: expected an https address, found http"):
        get([PublicFile(url.replace("data.bin", "moved"))], tmp_path)


def test_a_damaged_list_of_sums_is_refused(tmp_path: Path) -> None:
    (tmp_path / SUMS).write_text("[1]")
    with pytest.raises(DataError, match=r"downloads.json: cannot be read as a list of downloads; delete it"):
        get([PublicFile("https://example.invalid/x")], tmp_path)


def test_every_entry_has_a_page_a_licence_a_kind_and_https_addresses() -> None:
    assert len(PUBLIC_DATA) >= 15
    for name, one in PUBLIC_DATA.items():
        assert name == one.name
        assert one.licence
        assert one.page.startswith("https://")
        assert one.kind in ("amazon", "movielens", "microlens", "hf", "recbole")
        for file in one.files:
            assert file.url.startswith("https://")
            assert re.fullmatch(r"|md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", file.checksum)
        assert len({file.name for file in one.files}) == len(one.files)
    assert find_public_data("movielens-100k").size == 4_924_029
    assert find_public_data("amazon-2014-baby").size == 0
    with pytest.raises(ConfigError, match=r"no public data set 'movielens-1mm' .did you mean 'movielens-1m'.."):
        find_public_data("movielens-1mm")


def test_the_commands_list_and_get(server, tmp_path: Path, monkeypatch) -> None:
    _, url = server
    run = CliRunner()
    listed = run.invoke(app, ["data", "list"])
    assert listed.exit_code == 0
    for words in (
        "movielens-1m: ",
        "licence: ",
        "about 5.9 MB, checksum: md5:c4d9",
        "size not known, checksum: none known",
    ):
        assert words in listed.output
    assert len(json.loads(run.invoke(app, ["data", "list", "--json"]).output)) == len(PUBLIC_DATA)
    one = PublicData("tiny", "Tiny", "movielens", "https://example.invalid", "free", (PublicFile(url),))
    monkeypatch.setitem(catalogue.PUBLIC_DATA, "tiny", one)
    result = run.invoke(app, ["data", "get", "tiny", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "data.bin").read_bytes() == DATA
    assert SHA in result.output.replace("\n", "")
