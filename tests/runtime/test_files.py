"""Files are written whole or not at all, and damage is noticed."""

import io
import json
import os

import pytest

from gtcrec.errors import DataError, WriteError
from gtcrec.runtime.files import (
    atomic_path,
    check_manifest,
    expect_files,
    has_manifest,
    new_folder,
    replace_files,
    sweep_stale,
    write_json,
    write_manifest,
    write_text,
)
from helpers.faults import count_events


def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail_midway():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail_midway()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_notices_an_edited_and_a_missing_file(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    write_manifest(tmp_path, ["a", "b"], {"made": "here"})
    assert check_manifest(tmp_path)["made"] == "here"
    (tmp_path / "a").write_text("3")
    with pytest.raises(DataError, match=r"a: damaged or edited: its sha256 sum differs"):
        check_manifest(tmp_path)
    (tmp_path / "a").unlink()
    with pytest.raises(DataError, match=r"a: missing, though manifest\.json names it"):
        check_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read as a manifest"):
        check_manifest(tmp_path)


def test_no_letter_of_a_manifest_can_be_changed_unnoticed(tmp_path):
    (tmp_path / "a").write_text("1")
    write_manifest(tmp_path, ["a"], {"gtcrec": {"format": "mmrec", "n_users": 12}})
    whole = (tmp_path / "manifest.json").read_bytes()
    value, harmless = json.loads(whole), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "manifest.json").write_bytes(damaged)
        assert has_manifest(tmp_path)
        try:
            found = check_manifest(tmp_path)
        except DataError:
            continue
        harmless += 1  # white space, or the name of the sum itself
        assert {key: found[key] for key in ("gtcrec", "files")} == {key: value[key] for key in ("gtcrec", "files")}
    assert harmless < len(whole) / 2


@pytest.mark.parametrize("name", ["../a", "/etc/passwd"])
def test_a_manifest_names_nothing_outside_its_folder(tmp_path, name):
    write_json(tmp_path / "manifest.json", {"files": {name: {"sha256": "0"}}})
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read as a manifest: not an entry"):
        check_manifest(tmp_path)


def test_while_files_are_replaced_each_state_is_one_that_the_manifest_describes(tmp_path, monkeypatch):
    folder, staged = tmp_path / "folder", tmp_path / "staged"
    folder.mkdir(), staged.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).write_text(f"old {name}")
    write_manifest(folder, ["a", "b", "c"], {"made": "here"})
    for name in ("b", "c", "d"):
        (staged / name).write_text(f"new {name}")
    states: list[str] = []

    def look(number: int, event: str) -> None:
        with monkeypatch.context() as plain:  # a reader's own files do not count
            plain.setattr(io, "open", real_open)
            check_manifest(folder)
            states.append("".join((folder / name).read_text()[0] for name in "abcd" if (folder / name).exists()))

    real_open = io.open
    with monkeypatch.context() as patch:
        count_events(patch, look)
        replace_files(folder, staged, ["d", "b", "c"])
    assert {"ooo", "ooon", "onon", "onnn"} == set(states)
    assert check_manifest(folder)["made"] == "here"
    (folder / "b").write_text("old b")
    with pytest.raises(DataError, match=r"b: damaged or edited"):  # once all is in place, the old is wrong
        check_manifest(folder)


def test_damage_is_not_forgiven_because_a_new_file_is_expected(tmp_path):
    (tmp_path / "a").write_text("old")
    write_manifest(tmp_path, ["a"])
    (tmp_path / "a").write_text("damaged")
    (tmp_path / "next").write_text("new")
    expect_files(tmp_path, {"a": tmp_path / "next"})
    with pytest.raises(DataError, match="a: damaged or edited"):
        check_manifest(tmp_path)


def test_only_what_dead_processes_left_is_swept(tmp_path):
    dead, own = 4194304, os.getpid()  # the first is a number that no process has
    for name in (f".a.{dead}.tmp", f".a.{own}.tmp", f".b.{dead}.tmp", "a", ".a.tmp"):
        (tmp_path / name).touch()
    (tmp_path / f".a.{dead}.writing").mkdir()
    sweep_stale(tmp_path, "a")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([
        f".a.{own}.tmp", f".b.{dead}.tmp", "a", ".a.tmp"
    ])  # fmt: skip
    sweep_stale(tmp_path)
    assert not (tmp_path / f".b.{dead}.tmp").exists()
    (tmp_path / ".tmpGxC7pC").touch()  # of safetensors, which does not say whose it is
    sweep_stale(tmp_path)
    assert (tmp_path / ".tmpGxC7pC").exists()
    sweep_stale(tmp_path, alone=True)
    assert not (tmp_path / ".tmpGxC7pC").exists()
    sweep_stale(tmp_path / "nowhere")


def test_an_error_of_the_system_names_the_path_that_was_asked_for(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"^.*file/x\.csv: cannot be written: Not a directory$"):
        write_text(tmp_path / "file" / "x.csv", "")
    with pytest.raises(WriteError, match=r"^.*nowhere/x\.csv: cannot be written: No such file or directory$"):
        write_text(tmp_path / "nowhere" / "x.csv", "")
    with (
        pytest.raises(WriteError, match=r"^.*/out: cannot be written: No such file"),
        new_folder(tmp_path / "out") as made,
    ):
        write_text(made / "deep" / "er", "")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "y"):  # a file that is read is not blamed on y
        (tmp_path / "elsewhere" / "input").read_text()
