"""A disk that is really full: 2 MB of memory mounted as a file system."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from gtcrec.errors import WriteError
from gtcrec.runtime.files import make_folder, make_matrix, write_text
from gtcrec.runtime.locks import hold_lock


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a file system can be mounted as root only")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_matrix_that_does_not_fit_is_refused_before_it_is_filled(small_disk):
    with pytest.raises(OSError, match="No space left"):
        make_matrix(small_disk / "x.npy", np.dtype("float32"), (1000, 1000))
    (small_disk / "x.npy").unlink()
    x = make_matrix(small_disk / "x.npy", np.dtype("float32"), (10, 4))
    x[3] = 7
    x.flush()
    assert np.load(small_disk / "x.npy").sum() == 28


ENCODE = """
import sys
import numpy as np
from gtcrec.data.features.extract import EncodeConfig, encode
encode(sys.argv[1], sys.argv[2], EncodeConfig(text=("t",), encoder="wide"), lambda texts: np.ones((len(texts), 4000)))
"""


def test_an_encoding_that_does_not_fit_ends_with_our_error(small_disk, tmp_path):
    rows = "".join(f"i{k},word {k}\n" for k in range(100))
    (tmp_path / "items.csv").write_text("item_id,t\n" + rows)
    out = small_disk / "x_feat.npy"
    line = [sys.executable, "-c", ENCODE, str(tmp_path / "items.csv"), str(out)]
    failed = subprocess.run(line, capture_output=True, text=True)
    assert failed.returncode == 1, failed.stderr  # not -7, SIGBUS
    assert f"WriteError: {out}: cannot be written: No space left on device" in failed.stderr
    assert not out.exists()


def test_a_text_that_does_not_fit_leaves_the_old_one(small_disk):
    write_text(small_disk / "a", "old")
    with pytest.raises(WriteError, match=r"disk/a: cannot be written: No space left on device"):
        write_text(small_disk / "a", "x" * (3 << 20))
    assert (small_disk / "a").read_text() == "old"
    assert [file.name for file in small_disk.iterdir()] == ["a"]


def test_a_read_only_disk_is_named_with_the_path_that_was_asked_for(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(WriteError, match=r"disk/a: cannot be written: Read-only file system"):
        write_text(small_disk / "a", "x")
    with pytest.raises(WriteError, match=r"disk/b: cannot be written: the folder cannot be made: Read-only"):
        make_folder(small_disk / "b")
    with (
        pytest.raises(WriteError, match=r"disk/run: cannot be written: its lock cannot be made: Read-only"),
        hold_lock(small_disk / "run"),
    ):
        pass
