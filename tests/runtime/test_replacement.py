"""A folder in the place of another: whole at every moment, with and without the system's exchange."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gtcrec.errors import DataError, WriteError
from gtcrec.runtime import replacement
from gtcrec.runtime.files import write_manifest
from gtcrec.runtime.replacement import exchange_folders, read_unchanged, renewed_folder, restore_folder


def folder_of(place: Path, text: str) -> Path:
    place.mkdir()
    (place / "a.txt").write_text(text)
    (place / "b.txt").write_text(text)
    return place


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "two renames":
        monkeypatch.setattr(replacement, "_exchange", lambda one, other: False)
    return request.param


def test_the_new_folder_is_there_and_the_former_is_gone(tmp_path: Path, way: str) -> None:
    place, new = folder_of(tmp_path / "data", "former"), folder_of(tmp_path / ".data.next", "new")
    exchange_folders(new, place)
    assert (place / "a.txt").read_text() == "new"
    assert [child.name for child in tmp_path.iterdir()] == ["data"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="renameat2 is Linux's")
def test_a_reader_finds_a_folder_at_every_moment(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "data", "0")
    missing, done = [], threading.Event()

    def read() -> None:
        while not done.is_set():
            if not place.is_dir():
                missing.append(place)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        exchange_folders(folder_of(tmp_path / ".data.next", str(number)), place)
    done.set()
    reader.join()
    assert missing == []
    assert (place / "b.txt").read_text() == "199"


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_read_of_two_folders_is_read_again(tmp_path: Path, fails: bool) -> None:
    place, new = folder_of(tmp_path / "data", "former"), folder_of(tmp_path / ".data.next", "new")
    for folder in (place, new):
        write_manifest(folder, ["a.txt", "b.txt"])
    calls = []

    def read() -> tuple[str, str]:
        first = (place / "a.txt").read_text()
        calls.append(first)
        if len(calls) == 1:
            exchange_folders(new, place)
            if fails:
                raise DataError("b.txt does not go with a.txt")
        return first, (place / "b.txt").read_text()

    assert read_unchanged(place, read) == ("new", "new")
    assert calls == ["former", "new"]


def test_an_error_of_a_folder_that_stays_is_raised_at_once(tmp_path: Path) -> None:
    calls = []

    def read() -> None:
        calls.append(1)
        raise DataError("damaged")

    with pytest.raises(DataError, match="damaged"):
        read_unchanged(folder_of(tmp_path / "data", "former"), read)
    assert calls == [1]


def test_after_a_kill_between_two_renames_the_former_folder_comes_back(tmp_path: Path) -> None:
    place = tmp_path / "data"
    folder_of(tmp_path / ".data.former", "former")
    restore_folder(place)
    assert (place / "a.txt").read_text() == "former"
    assert [child.name for child in tmp_path.iterdir()] == ["data"]


def test_after_a_kill_behind_two_renames_the_new_folder_stays(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "data", "new")
    folder_of(tmp_path / ".data.former", "former")
    restore_folder(place)
    assert (place / "a.txt").read_text() == "new"
    assert [child.name for child in tmp_path.iterdir()] == ["data"]


def test_a_copy_has_the_other_files_and_replaces_the_folder(tmp_path: Path, way: str) -> None:
    place = folder_of(tmp_path / "run", "former")
    (place / "part").mkdir()
    (place / "part" / "c.txt").write_text("former")
    (place / ".stop").write_text("")
    with renewed_folder(place) as copy:
        (copy / "a.new").write_text("new")
        (copy / "a.new").replace(copy / "a.txt")
        assert (place / "a.txt").read_text() == "former"
    texts = {str(file.relative_to(place)): file.read_text() for file in place.rglob("*") if file.is_file()}
    assert texts == {"a.txt": "new", "b.txt": "former", "part/c.txt": "former"}
    assert [child.name for child in tmp_path.iterdir()] == ["run"]


def test_an_error_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "run", "former")

    def fail() -> None:
        with renewed_folder(place) as copy:
            (copy / "a.txt").unlink()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (place / "a.txt").read_text() == "former"
    assert [child.name for child in tmp_path.iterdir()] == ["run"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "run", "former")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder_of(tmp_path / f".run.{dead.pid}.writing", "half")
    with renewed_folder(place):
        pass
    assert [child.name for child in tmp_path.iterdir()] == ["run"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_missing_permission_is_named(tmp_path: Path) -> None:
    place, new = folder_of(tmp_path / "data", "former"), folder_of(tmp_path / "next", "new")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(WriteError, match="data"):
            exchange_folders(new, place)
    finally:
        tmp_path.chmod(0o700)
