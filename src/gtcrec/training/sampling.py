"""The training pairs in batches, with negatives.

Every random draw comes from a stream that (seed, epoch, step) number, so that a resumed training draws what
the unbroken one would have drawn, whatever the global random state.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gtcrec.errors import ConfigError
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.types import Batch, Interactions, Ints

__all__ = ["Batches", "Negatives"]


class Negatives:
    """Draws, for each user, an item that is none of the user's positives, uniformly and without rejection.

    The r-th other item of a user with positives s_0 < s_1 < ... is r + |{j: s_j - j <= r}|; the count is one
    binary search over all users' s_j - j, laid end to end. With `warm_only`, items without a training pair are not
    drawn: s_j is then the place among the others.
    """

    def __init__(self, train: Interactions, warm_only: bool = False) -> None:
        drawn = np.flatnonzero(train.item_counts) if warm_only else np.arange(train.n_items)
        self.n_items = len(drawn)
        self.items = torch.from_numpy(drawn)
        self.indptr = torch.from_numpy(train.indptr)
        rank = np.arange(len(train)) - train.indptr[train.users]
        positives = np.searchsorted(drawn, train.items)
        self.keys = torch.from_numpy(train.users * (self.n_items + 1) + positives - rank)

    def draw(self, users: Tensor, rng: torch.Generator) -> Tensor:
        """Return one item for each of `users` int64 [b]; each must leave some item out."""
        start = self.indptr[users]
        unseen = self.n_items - (self.indptr[users + 1] - start)
        r = (torch.rand(len(users), generator=rng, dtype=torch.float64) * unseen).long()
        below = torch.searchsorted(self.keys, users * (self.n_items + 1) + r, right=True)
        return self.items[r + below - start]


class Batches:
    """The training pairs, cut into `steps` batches of `size` in an order and with negatives of each epoch's own.

    Users whose positives are all items have no negatives and are left out. `warm_only`: no negative is an item without
    a training pair. Raises `ConfigError` when nothing is left.
    """

    def __init__(self, train: Interactions, size: int, seed: int, warm_only: bool = False) -> None:
        self._negatives = Negatives(train, warm_only)
        usable: Ints = np.flatnonzero(train.user_counts[train.users] < self._negatives.n_items)
        if not len(usable):
            raise ConfigError(
                "nothing to train on: no user has both a positive and a negative item in the training pairs"
            )
        self.size, self.seed = size, seed
        self.steps = math.ceil(len(usable) / size)
        self._usable = torch.from_numpy(usable)
        self._users, self._items = torch.from_numpy(train.users), torch.from_numpy(train.items)

    def epoch(self, number: int, workers: ProcessGroup) -> Iterator[tuple[Batch, float, torch.Generator]]:
        """Yield for each step this worker's part of the batch, its share of the pairs, and the loss's stream.

        The batches are the same for any number of workers; the streams of several workers differ. A worker for which
        no pair is left has the first one, with a share of 0.
        """
        order = self._usable[torch.randperm(len(self._usable), generator=_stream(self.seed, number))]
        for step, chosen in enumerate(torch.split(order, self.size), 1):
            rng = _stream(self.seed, number, step)
            users = self._users[chosen]
            whole = Batch(users, self._items[chosen], self._negatives.draw(users, rng))
            if workers.size == 1:
                yield whole, 1.0, rng
            else:
                own = workers.shard(len(chosen))
                part = Batch(*(side[own if own.stop > own.start else slice(1)] for side in whole))
                share = (own.stop - own.start) / len(chosen)
                yield part, share, _stream(self.seed, number, step, workers.rank + 1)


def _stream(*numbers: int) -> torch.Generator:
    """The random stream that belongs to (seed, epoch, step, worker); from 1, as trailing zeros would not count."""
    entropy = np.random.SeedSequence(numbers).generate_state(2, dtype=np.uint32)
    return torch.Generator().manual_seed(int(entropy[0]) << 31 | int(entropy[1]) >> 1)
