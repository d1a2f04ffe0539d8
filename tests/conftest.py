"""Small data sets that many tests share."""

from collections.abc import Callable

import numpy as np
import pytest

from gtcrec.types import Interactions, ItemFeatures, Split


def features(n_items: int, widths: dict[str, int], missing: float = 0.0, seed: int = 0) -> ItemFeatures:
    """Random content; a share of each modality's rows is missing."""
    rng = np.random.default_rng(seed)
    values, present = {}, {}
    for name, width in widths.items():
        has = rng.random(n_items) >= missing
        values[name] = np.where(has[:, None], rng.normal(size=(n_items, width)), 0).astype(np.float32)
        present[name] = has
    return ItemFeatures(n_items, values, present)


@pytest.fixture
def checkerboard() -> Callable[..., Split]:
    """Users like the items of their own colour, (u + i) even; 6 : 2 : 2 at random."""

    def make(widths: dict[str, int] | None = None, missing: float = 0.0, n: int = 40) -> Split:
        rng = np.random.default_rng(7)
        users, items = np.nonzero((np.arange(n)[:, None] + np.arange(n)) % 2 == 0)
        part = rng.choice(3, size=len(users), p=[0.6, 0.2, 0.2])
        pairs = [Interactions(users[part == p], items[part == p], n, n) for p in range(3)]
        content = features(n, {"image": 6, "text": 5} if widths is None else widths, missing)
        return Split(*pairs, content, {"used": "checkerboard"})

    return make
