"""Folders that appear whole: all is written beside the place, which then gets its name."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gtcrec.errors import DataError
from gtcrec.runtime.files import fsync_dir

__all__ = ["link_or_copy", "new_folder"]


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes `out` at the end; an exception removes it.

    Files must be durable when the block ends. Raises `DataError` for a folder in use.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: wanted a new or empty folder, found one in use")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.resolve().with_name(f".{out.resolve().name}.{os.getpid()}.writing")
    folder.mkdir()
    try:
        yield folder
        folder.replace(out.resolve())
        fsync_dir(out.resolve().parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name where the disk allows it, else copy it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
