"""DiffMM's graphs of users and items, which have self-loops: the observed one and the generated ones."""

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from gtcrec.ops import graph
from gtcrec.types import Interactions

__all__ = ["bipartite_with_loops", "generated_graph"]


def bipartite_with_loops(train: Interactions) -> tuple[csr_array, Tensor]:
    """Return the user-item block of D^-1/2 (G + I) D^-1/2, and the whole's diagonal [n_users + n_items, 1]."""
    by_user, by_item = (1 / (1.0 + counts) for counts in (train.user_counts, train.item_counts))
    values = np.sqrt(by_user[train.users] * by_item[train.items]).astype(np.float32)
    r = csr_array((values, train.items, train.indptr), shape=(train.n_users, train.n_items))
    return r, torch.from_numpy(np.concatenate([by_user, by_item]).astype(np.float32))[:, None]


def generated_graph(chosen: Tensor, scales: Tensor, n_items: int) -> tuple[Tensor, Tensor]:
    """Return D^-1/2 (G + I) D^-1/2 of the graph G that joins each user with k items, and its transpose, torch CSR.

    `chosen` are the items, int64 [n_users, k]; users are the first nodes. Entries are multiplied by `scales`
    [2 n_users k + n_users + n_items]: first those from users to their items, then the same back, then the self-loops.
    """
    n_users, k = chosen.shape
    n, device = n_users + n_items, chosen.device
    users, items = torch.arange(n_users, device=device).repeat_interleave(k), n_users + chosen.flatten()
    loops = torch.arange(n, device=device)
    rows, columns = torch.cat([users, items, loops]), torch.cat([items, users, loops])
    degrees = rows.bincount(minlength=n)
    values = (degrees[rows] * degrees[columns]).float().rsqrt()
    there, back, own = torch.split(scales, [len(users), len(users), n])
    order = rows.argsort(stable=True)
    sides = (values * scales, values * torch.cat([back, there, own]))
    a, at = (graph.csr(degrees, columns[order], side[order], (n, n)) for side in sides)
    return a, at
