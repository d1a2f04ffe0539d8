"""Files are written whole or not at all, and damage is noticed."""

import pytest

from gtcrec.errors import DataError
from gtcrec.runtime.files import atomic_path, check_manifest, write_json, write_manifest, write_text


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
