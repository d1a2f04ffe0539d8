"""Embeddings of cold items from their content: kernel ridge regression on the warm items' embeddings."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gtcrec.errors import DataError
from gtcrec.ops.feature_transforms import column_means, unit_rows
from gtcrec.types import ItemFeatures

__all__ = ["ColdItemRegressor"]

_SHARPNESS = 3.0  # gamma
_REG = 0.3  # lambda
_LANDMARKS, _BLOCK = 2048, 4096


class ColdItemRegressor(nn.Module):
    """f(x) = sum_l k(x, x_l) a_l over items l, the f that minimises sum_i |f(x_i) - e_i|^2 + lambda |f|^2.

    i runs over the items `warm` bool [n_items], e_i are their embeddings. k(x, x') is the mean over all modalities of
    exp(-gamma (1 - cosine)), the cosine of content minus the warm items' mean; a modality that either
    item lacks counts 0. Of more than 2,048 warm items l runs over as many drawn ones (subset of regressors).

    `solve` finds a, which is part of the saved weights; `of_items` [n_items, dim] is f of all items.
    """

    of_items: Tensor
    weights: Tensor

    def __init__(self, features: ItemFeatures, warm: np.ndarray, dim: int) -> None:
        super().__init__()
        self.items = np.flatnonzero(warm & np.any([features.present[m] for m in features.names], axis=0))
        places = self.items
        if len(places) > _LANDMARKS:
            places = np.sort(np.random.default_rng(0).choice(places, _LANDMARKS, replace=False))
        self.features = features
        present = {m: torch.from_numpy(self.items[features.present[m][self.items]]) for m in features.names}
        self.means = {m: column_means(torch.from_numpy(features.values[m]), present[m]) for m in features.names}
        self.landmarks = self._unit_content(features, places)
        self.register_buffer("weights", torch.zeros(len(places), dim))
        self.register_buffer("of_items", torch.zeros(features.n_items, dim), persistent=False)
        self.register_load_state_dict_post_hook(_renew)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def solve(self, embeddings: Tensor) -> None:
        """Fit the regression to the warm items' rows of `embeddings` [n_items, dim]."""
        k = self._kernel(self.landmarks).double()
        values, axes = torch.linalg.eigh(k)
        root = axes * values.clamp(min=1e-9 * len(k)).rsqrt()  # k^(-1/2), turned: k(x, .) root are ridge's features
        gram, sums = torch.zeros_like(k), k.new_zeros(len(k), embeddings.shape[1])
        for places in np.array_split(self.items, len(self.items) // _BLOCK + 1):
            x = self._kernel(self._unit_content(self.features, places)).double() @ root
            gram += x.T @ x
            sums += x.T @ embeddings[torch.from_numpy(places)].double()
        gram.diagonal().add_(_REG)
        self.weights.copy_(root @ torch.linalg.solve(gram, sums))
        self.renew()

    @torch.no_grad()
    def renew(self) -> None:
        """Recompute `of_items` from the weights."""
        self.of_items.copy_(self(self.features))

    @torch.no_grad()
    def forward(self, features: ItemFeatures) -> Tensor:
        """Return the embeddings by content, [n, dim]. Raises `DataError` for content of another width."""
        parts = []
        for places in np.array_split(np.arange(features.n_items), features.n_items // _BLOCK + 1):
            parts.append(self._kernel(self._unit_content(features, places)).to(self.weights.device) @ self.weights)
        return torch.cat(parts)

    def _unit_content(self, features: ItemFeatures, places: np.ndarray) -> dict[str, Tensor]:
        """Centred content of length 1 of some items, [n, width] of each modality; 0 where it is absent."""
        units = {}
        for m, mean in self.means.items():
            x = torch.from_numpy(features.values[m][places])
            if x.shape[1] != len(mean):
                raise DataError(f"{m}: expected content of width {len(mean)}, found {x.shape[1]}")
            has = torch.from_numpy(features.present[m][places])
            units[m] = torch.where(has[:, None], unit_rows(x - mean), 0.0)
        return units

    def _kernel(self, rows: dict[str, Tensor]) -> Tensor:
        """k [n, landmarks]."""
        total = torch.zeros(len(next(iter(rows.values()))), len(next(iter(self.landmarks.values()))))
        for m, x in rows.items():
            has, landmark_has = x.any(dim=1).float(), self.landmarks[m].any(dim=1).float()
            total += torch.exp(_SHARPNESS * (x @ self.landmarks[m].T - 1)) * has[:, None] * landmark_has
        return total / len(rows)


def _renew(regressor: ColdItemRegressor, keys: Any) -> None:
    regressor.renew()
