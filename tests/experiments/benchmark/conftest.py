"""The runs of a small benchmark."""

import shutil
from pathlib import Path

import pytest

from gtcrec.data import write_catalog
from gtcrec.experiments.execution.worker import train_and_measure
from helpers.bench import planned, write_file


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalog(tmp_path_factory.mktemp("data") / "shop", n_users=150, n_items=80, per_user=8)


@pytest.fixture(scope="module")
def done(data: Path) -> Path:
    """A file whose runs have all been trained and tested, in this process."""
    file = write_file(data.parent)
    for wanted in planned(file).trained:
        train_and_measure(wanted)
    return file


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    """The same in folders that a test may change."""
    shutil.copytree(done.parent / "out", tmp_path / "out")
    return write_file(tmp_path, data={"shop": str(done.parent / "shop")})
