"""A small shop, and two evaluated runs on it."""

from pathlib import Path

import pytest

from gtcrec.cli.main import execute
from gtcrec.data import write_catalog


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalog(tmp_path_factory.mktemp("data") / "shop", n_users=80, n_items=50)


@pytest.fixture(scope="package")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two evaluated runs."""
    folder = tmp_path_factory.mktemp("runs")
    bpr = ["train", str(data), "bpr", "epochs=2", "dim=8", "batch_size=512", "--out", str(folder / "bpr")]
    assert execute(bpr) == 0
    assert execute(["train", str(data), "popular", "--out", str(folder / "popular")]) == 0
    assert [execute(["evaluate", str(folder / name)]) for name in ("bpr", "popular")] == [0, 0]
    return folder
