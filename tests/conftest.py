"""Small data sets and a small model that many tests share."""

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gtcrec.ops import losses
from gtcrec.ops.scorers import dot_scorer
from gtcrec.types import Interactions, ItemFeatures, Split


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


def features(n_items: int, widths: dict[str, int], missing: float = 0.0, seed: int = 0) -> ItemFeatures:
    """Random content; a share of each modality's rows is missing."""
    rng = np.random.default_rng(seed)
    values, present = {}, {}
    for name, width in widths.items():
        has = rng.random(n_items) >= missing
        values[name] = np.where(has[:, None], rng.normal(size=(n_items, width)), 0).astype(np.float32)
        present[name] = has
    return ItemFeatures(n_items, values, present)


def checkerboard_split(widths: dict[str, int] | None = None, missing: float = 0.0, n: int = 40) -> Split:
    """Users like the items of their own colour, (u + i) even; 6 : 2 : 2 at random."""
    rng = np.random.default_rng(7)
    users, items = np.nonzero((np.arange(n)[:, None] + np.arange(n)) % 2 == 0)
    part = rng.choice(3, size=len(users), p=[0.6, 0.2, 0.2])
    pairs = [Interactions(users[part == p], items[part == p], n, n) for p in range(3)]
    content = features(n, {"image": 6, "text": 5} if widths is None else widths, missing)
    return Split(*pairs, content, {"used": "checkerboard"})


class RowBPR(nn.Module):
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
