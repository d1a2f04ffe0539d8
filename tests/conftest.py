"""Small data sets and a small model that many tests share."""

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gtcrec.ops import losses
from gtcrec.ops.scorers import dot_scorer
from gtcrec.testing import checkerboard as checkerboard_split
from gtcrec.types import Split, TrainableModel

collect_ignore_glob = ["*_process.py"]  # scripts that tests start, not modules to import


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as a terminal's process has it; one that a shell started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class RowBPR(nn.Module, TrainableModel):
    """BPR by row-sparse gradients, plus a pull towards item vectors that are held fixed between refreshes."""

    def __init__(self, train, seed=0, dim=8):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.users = nn.Parameter(torch.randn(train.n_users, dim, generator=rng) / 10)
        self.items = nn.Parameter(torch.randn(train.n_items, dim, generator=rng) / 10)
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("held", torch.zeros(train.n_items, dim), persistent=False)

    def sparse_parameters(self):
        return [self.users, self.items]

    def refresh(self):
        self.held.copy_(self.items)

    def scorer(self):
        return dot_scorer(self.users, self.items)

    def loss(self, batch, rng):
        u = F.embedding(batch.users, self.users, sparse=True)
        i, j = (F.embedding(side, self.items, sparse=True) for side in batch[1:])
        near = F.embedding(batch.positives, self.held)
        return {
            "bpr": losses.bpr(self.scale * (u * i).sum(dim=1), self.scale * (u * j).sum(dim=1)),
            "held": 0.1 * (i - near - 0.1).square().mean(),
        }


@pytest.fixture
def checkerboard() -> Callable[..., Split]:
    return checkerboard_split


@pytest.fixture
def row_bpr() -> type[RowBPR]:
    return RowBPR


@pytest.fixture(scope="session")
def loopback() -> list[str]:
    """What to put before a command that starts Ray: a network where only 127.0.0.1 exists, if that is permitted."""
    inside = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    permitted = shutil.which("unshare") and subprocess.run([*inside, "true"], capture_output=True).returncode == 0
    return inside if permitted else []
