"""Downloads that go on where they broke off, and are checked before they get their name."""

import hashlib
import http.client
import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from gtcrec.data.sources.registry import PublicFile
from gtcrec.errors import DataError
from gtcrec.runtime.files import make_folder, sha256, write_json, write_text

__all__ = ["SUMS", "download", "get"]

SUMS = "downloads.json"
"""The file of a folder of downloads that holds their addresses, sizes and sha256 sums."""

_BLOCK = 1 << 20
_WAIT = 30.0  # seconds without an answer
_LOCAL = ("localhost", "127.0.0.1", "::1")
_BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def get(
    files: Sequence[PublicFile],
    folder: str | Path,
    on_file: Callable[[str], None] = lambda said: None,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, Any]]:
    """Download files into a folder and return what `downloads.json` says of them: url, bytes, sha256.

    A file that is there is checked, not downloaded again: against its publisher's sum if there is one, and against the
    sum that was recorded when it came. Raises `DataError` as `download` does.
    """
    folder = Path(folder)
    make_folder(folder)
    sums, found = _read_sums(folder), {}
    for file in files:
        path = folder / file.name
        there = path.is_file()
        if there:
            check(path, file.checksum, delete=False)
        else:
            download(file, path, on_bytes)
        entry = {"url": file.url, "bytes": path.stat().st_size, "sha256": sha256(path)}
        known = sums.get(file.name, {}).get("sha256", entry["sha256"])
        if there and known != entry["sha256"]:
            raise DataError(f"{path}: sha256 is {entry['sha256']}, {SUMS} recorded {known}; delete one of them")
        found[file.name] = sums[file.name] = entry
        write_json(folder / SUMS, sums)
        published = file.checksum or "none published, recorded now"
        on_file(f"{path}: {'is there' if there else 'downloaded'}, sha256 {entry['sha256']} (publisher: {published})")
    return found


def download(file: PublicFile, path: Path, on_bytes: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Download one file to `path`; what has come so far stays in `path` + `.part` and is not fetched again.

    It goes on only where the server says that its file is still the same one (`ETag` or `Last-Modified`). Raises
    `DataError` for an address that is not https (but on this machine), without a connection, for an answer that is no
    file, a connection that ends early, and for a file with another size or sum, which is deleted.
    """
    _refuse_plain(file.url)
    part, mark = (path.with_name(f"{path.name}.{end}") for end in ("part", "part.mark"))
    have = part.stat().st_size if part.is_file() and mark.is_file() else 0
    headers = {"Range": f"bytes={have}-", "If-Range": mark.read_text(encoding="utf-8")} if have else {}
    try:
        with _OPENER.open(urllib.request.Request(file.url, headers=headers), timeout=_WAIT) as answer:
            total = _receive_body(answer, part, mark, have, on_bytes)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise DataError(f"{_host(file.url)} answers {error.code} {error.reason} for {file.url}") from error
        total = _whole_size(error.headers.get("Content-Range", ""))
        if total != have:
            part.unlink()
            raise DataError(f"{part}: has {have:,} bytes, more than the file; deleted it, start again") from error
    except _BROKEN as error:
        raise DataError(_no_connection(file, path, part, error)) from error
    size = part.stat().st_size
    if total and size < total:
        raise DataError(
            f"{file.url}: the connection ended after {size:,} of {total:,} bytes; the same command goes on from there"
        )
    mark.unlink(missing_ok=True)
    check(part, file.checksum, delete=True)
    part.replace(path)


def check(path: Path, checksum: str, delete: bool) -> None:
    """Compare a file's sum with "md5:..." or "sha256:...", "" for none; raises `DataError` where they differ."""
    if not checksum:
        return
    kind, _, expected = checksum.partition(":")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, kind).hexdigest()
    if found != expected:
        if delete:
            path.unlink()
        raise DataError(
            f"{path}: {kind} is {found}, its publisher says {expected}; "
            + ("deleted it, for it is damaged or another file" if delete else "it is damaged or another file")
        )


def _receive_body(answer: Any, part: Path, mark: Path, have: int, on_bytes: Callable[[int, int], None]) -> int:
    """Write what comes to the part file and return the whole file's size, 0 where the server does not say it."""
    goes_on = answer.status == 206
    if goes_on and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        raise DataError(f"{answer.url}: expected bytes from {have:,}, the server sends another part; delete {part}")
    start = have if goes_on else 0
    length = int(answer.headers.get("Content-Length", 0))
    total = start + length if length else 0
    tag = answer.headers.get("ETag", "")  # a weak one does not promise equal bytes
    same = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")
    with part.open("ab" if goes_on else "wb") as stream:
        if same:
            write_text(mark, same)
        else:
            mark.unlink(missing_ok=True)
        _copy_body(answer, stream, start, total, on_bytes)
    return total


def _copy_body(answer: Any, stream: IO[bytes], start: int, total: int, on_bytes: Callable[[int, int], None]) -> None:
    while block := answer.read(_BLOCK):
        stream.write(block)
        start += len(block)
        on_bytes(start, total)


def _whole_size(content_range: str) -> int:
    found = re.fullmatch(r"bytes \*/(\d+)", content_range)
    return int(found[1]) if found else 0


def _no_connection(file: PublicFile, path: Path, part: Path, error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(error, urllib.error.URLError) or not part.is_file():
        return (
            f"no connection to {_host(file.url)} ({reason}); download {file.url} elsewhere and put it at {path}, "
            "then the same command checks it"
        )
    return f"{file.url}: the connection broke ({reason}); the same command goes on from there"


def _read_sums(folder: Path) -> dict[str, Any]:
    path = folder / SUMS
    if not path.is_file():
        return {}
    with suppress(ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and all(isinstance(entry, dict) for entry in found.values()):
            return found
    raise DataError(f"{path}: cannot be read as a list of downloads; delete it to record the sums again")


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _refuse_plain(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
        raise DataError(f"{url}: expected an https address, found {parts.scheme or 'no scheme'}")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _refuse_plain(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SafeRedirects())
