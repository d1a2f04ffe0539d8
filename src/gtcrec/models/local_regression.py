"""Item weights of catalogues too large for one inverse: each item is regressed on a few hundred candidates."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array
from torch import Tensor
from torch.nn import functional as F

from gtcrec.models.item_regression import ContentRegression, weigh_users
from gtcrec.ops.neighbors import Search, empty_csr, largest_of_rows, nearest_neighbors, nearest_rows
from gtcrec.types import Floats, Interactions, Ints, ItemFeatures

__all__ = ["LocalRegression"]


@dataclass(frozen=True, eq=False)
class LocalRegression:
    """The regression of `item_regression.solve_item_weights`, each item's weights restricted to its candidates.

    With N the candidates of item j and G = X^T Omega X,

        b_j = (G_NN + (lambda + beta) I)^-1 (G_Nj + beta C_Nj).

    The candidates are the items i that alone would lower item j's loss most, by (G_ij + beta C_ij)^2 / (G_ii + lambda +
    beta), among those that share users with j and those whose content is nearest to its own. An item's weights depend
    on no other item's, so that `solve` may be called on any parts of the catalogue, in any order and process.
    """

    by_user: csr_array  # Omega^1/2 X
    by_item: csc_array
    diagonal: Floats  # G_ii + lambda + beta, [n_items]
    ridge: float  # lambda + beta
    content: ContentRegression
    targets: Tensor  # t_j, [n_items, W]
    content_weight: float  # beta
    near: Ints  # each item's nearest by content, [n_items, m]
    num_candidates: int

    @classmethod
    def prepare(
        cls,
        train: Interactions,
        content: ContentRegression,
        reg: float,
        content_weight: float,
        user_exponent: float,
        num_candidates: int,
        search: Search = nearest_rows,
    ) -> "LocalRegression":
        """Compute what all parts share; `search` finds near content, for at most half of the candidates."""
        by_user = weigh_users(train, user_exponent)
        by_item = by_user.tocsc()
        ridge = reg + content_weight
        diagonal = np.asarray(by_item.multiply(by_item).sum(axis=0)) + ridge
        k = min(num_candidates, train.n_items - 1)
        unit = F.normalize(content.rows @ _root(content), dim=1).numpy()
        near = search(unit, k // 2) if k > 1 and unit.shape[1] else np.zeros((train.n_items, 0), dtype=np.int64)
        return cls(by_user, by_item, diagonal, ridge, content, content.targets(), content_weight, near, k)

    def solve(self, items: Ints) -> tuple[Ints, Floats]:
        """Return the candidates of items int64 [b] and their weights float32, [b, num_candidates] each.

        Candidates ascend. An item with fewer has candidate -1 at weight 0 in the places that are left.
        """
        counts = (self.by_item[:, items].T @ self.by_user).tocsr()  # G_j, [b, n_items]
        return self._regress(counts, self.near[items], self.targets[torch.from_numpy(items)], items)

    def solve_new(self, features: ItemFeatures) -> tuple[Ints, Floats]:
        """Return the same of new items, which share no users with any: their content alone chooses and pulls."""
        targets = self.content.new_targets(features)
        root = _root(self.content)
        rows, queries = (F.normalize(side @ root, dim=1) for side in (self.content.rows, self.content.encode(features)))
        near = nearest_neighbors(queries, rows, self.num_candidates)[1].numpy()
        nothing = empty_csr(len(near), len(self.diagonal))
        return self._regress(nothing, near, targets, np.full(len(near), -1))

    def _regress(self, counts: csr_array, near: Ints, targets: Tensor, items: Ints) -> tuple[Ints, Floats]:
        """Solve for items with these shared counts G_j [b, n_items], near items [b, m] and targets [b, W]."""
        candidates, right = self._choose(counts, near, targets, items)
        union, places = np.unique(candidates, return_inverse=True)
        columns = self.by_item[:, np.maximum(union, 0)]
        gram = torch.from_numpy((columns.T @ columns).toarray())  # G of all candidates
        own = torch.from_numpy(places.reshape(candidates.shape))
        system = gram[own[:, :, None], own[:, None, :]]  # G_NN of each item
        empty = torch.from_numpy(candidates < 0)
        system.masked_fill_(empty[:, :, None] | empty[:, None, :], 0.0)
        system.diagonal(dim1=1, dim2=2).add_(self.ridge)
        solved = torch.cholesky_solve(torch.from_numpy(right)[:, :, None], torch.linalg.cholesky(system))
        return candidates, solved[:, :, 0].numpy()

    def _choose(self, counts: csr_array, near: Ints, targets: Tensor, items: Ints) -> tuple[Ints, Floats]:
        """The candidates of items, ascending, and G_ij + beta C_ij of them, [b, k] each; -1 and 0 at the end."""
        shared = counts.tocoo()
        rows, columns = (side.astype(np.int64) for side in (shared.row, shared.col))
        strong = largest_of_rows(rows, shared.data**2 / self.diagonal[columns], self.num_candidates + 1)
        places = rows[strong] * counts.shape[1] + columns[strong]
        places_near = (np.arange(len(near))[:, None] * counts.shape[1] + near).ravel()
        row, column = np.divmod(np.union1d(places, places_near), counts.shape[1])
        row, column = row[column != items[row]], column[column != items[row]]
        count = np.asarray(counts[row, column]).ravel()
        content = (self.content.rows[torch.from_numpy(column)] * targets[torch.from_numpy(row)]).sum(dim=1).numpy()
        pull = count + self.content_weight * content
        best = np.sort(largest_of_rows(row, pull**2 / self.diagonal[column], self.num_candidates))
        row, column, pull = row[best], column[best], pull[best]
        place = np.arange(len(row)) - np.searchsorted(row, np.arange(len(near)))[row]
        candidates = np.full((len(near), self.num_candidates), -1, dtype=np.int64)
        right = np.zeros(candidates.shape, dtype=np.float32)
        candidates[row, place], right[row, place] = column, pull
        return candidates, right


def _root(content: ContentRegression) -> Tensor:
    """R with R R^T = S: <e_i R, e_j R> is what content says of i and j."""
    root: Tensor = torch.linalg.cholesky(content.inverse.double()).float()
    return root
