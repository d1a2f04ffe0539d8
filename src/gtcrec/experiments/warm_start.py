"""Training that starts from what an earlier run learnt, on data that have grown since."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gtcrec import models
from gtcrec.errors import ConfigError, RunError
from gtcrec.experiments.config import RunConfig
from gtcrec.experiments.model_bundle import WEIGHTS, ModelBundle, is_bundle, read_bundle, read_weights
from gtcrec.types import Ints, Split, Vocabulary

__all__ = ["WarmStart"]


@dataclass(frozen=True, eq=False)
class WarmStart:
    """A finished run or a saved recommender, whose weights another run starts from.

    Its data need not be there: ids, weights and training interactions lie in its folder.
    """

    folder: Path
    former: ModelBundle

    @classmethod
    def read(cls, folder: str | Path, config: RunConfig) -> "WarmStart":
        """Open a folder for a run of this configuration.

        Raises `ConfigError` for a model that has nothing to start from, `RunError` for a folder that is no finished run
        of it.
        """
        folder = Path(folder)
        if not config.spec.is_trained:
            raise ConfigError(f"init_from: {config.model} is computed anew from the data, so it starts from nothing")
        if getattr(models.make_config(config.model, config.settings, config.preset), "init", "") == "als":
            raise ConfigError(
                "init_from: init=als solves the first weights from all data of today, which older ones would replace; "
                "leave init_from out, or set init=random in both runs"
            )
        if config.train.embedding_sharding == "row_wise":
            raise ConfigError("init_from: expected train.embedding_sharding=none, found row_wise")
        if not is_bundle(folder) or not (folder / WEIGHTS).exists():
            raise RunError(f"{folder}: expected a finished run or a saved recommender to start from")
        former = read_bundle(folder)
        if former.model != config.model:
            raise ConfigError(f"init_from: {folder} holds the model {former.model}, expected {config.model}")
        return cls(folder, former)

    @torch.no_grad()
    def apply(self, model: nn.Module, split: Split) -> dict[str, Any]:
        """Give a model the weights, those of users and items by id; new ones keep theirs. Return what was found.

        `trained_on` counts the validation interactions that the former run was trained on. Raises `ConfigError` for
        weights of another shape.
        """
        users, items = (
            _Side.of(word, ids, known)
            for word, ids, known in (
                ("users", split.train.user_ids, self.former.users),
                ("items", split.train.item_ids, self.former.trained_items),
            )
        )
        self._require_distinct(users, items)
        weights = read_weights(self.folder / WEIGHTS, model)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._take_over(name, parameter, weights, (users, items))
        return {
            "run": self.folder.name,
            "users": {"known": len(users.now), "new": users.n_now - len(users.now)},
            "items": {"known": len(items.now), "new": items.n_now - len(items.now)},
            "validation": {"interactions": len(split.valid), "trained_on": self._count_trained(split, users, items)},
        }

    def _require_distinct(self, *sides: "_Side") -> None:
        """Raise `ConfigError` where sizes do not say which axis of a weight counts users, and which items."""
        for side in sides:
            if side.n_now == side.n_then and not side.is_same:
                raise ConfigError(
                    f"init_from: {self.folder} has {side.n_then:,} {side.word}, as many as the data, but others; it "
                    "cannot be told which of its weights are theirs"
                )
        first, second = sides
        if first.sizes == second.sizes and not (first.is_same and second.is_same):
            raise ConfigError(f"init_from: {self.folder} has as many users as items, and the data too; leave it out")

    def _take_over(self, name: str, parameter: Tensor, weights: Mapping[str, Tensor], sides: Sequence["_Side"]) -> None:
        then = weights.get(name)
        found = None if then is None else list(then.shape)
        if then is None or then.ndim != parameter.ndim:
            raise self._another_shape(name, parameter, found)
        axes: dict[int, _Side] = {}
        for axis, sizes in enumerate(zip(parameter.shape, then.shape, strict=True)):
            side = next((side for side in sides if side.sizes == sizes), None)
            if side is not None and not side.is_same:
                axes[axis] = side
                then = then.index_select(axis, torch.from_numpy(side.then))
            elif sizes[0] != sizes[1]:
                raise self._another_shape(name, parameter, found)
        _put(parameter, {axis: torch.from_numpy(side.now).to(parameter.device) for axis, side in axes.items()}, then)

    def _another_shape(self, name: str, parameter: Tensor, found: list[int] | None) -> ConfigError:
        return ConfigError(
            f"init_from: {self.folder}: its weights {name} have the shape {found}, expected {list(parameter.shape)} "
            "but for users and items; settings and widths of content must be those of that run"
        )

    def _count_trained(self, split: Split, users: "_Side", items: "_Side") -> int:
        then = [np.full(side.n_now, -1, dtype=np.int64) for side in (users, items)]
        for place, side in zip(then, (users, items), strict=True):
            place[side.now] = side.then
        pairs = then[0][split.valid.users], then[1][split.valid.items]
        known = (pairs[0] >= 0) & (pairs[1] >= 0)
        return int(self.former.seen.contains(pairs[0][known], pairs[1][known]).sum())


@dataclass(frozen=True, eq=False)
class _Side:
    """Users or items: how many there are now and were then, and the indices of those known at both times."""

    word: str
    n_now: int
    n_then: int
    now: Ints
    then: Ints

    @classmethod
    def of(cls, word: str, ids: Vocabulary | None, known: Vocabulary) -> "_Side":
        assert ids is not None  # `split` gives them
        place = {str(one): index for index, one in enumerate(known.ids.tolist())}
        then = np.array([place.get(str(one), -1) for one in ids.ids.tolist()], dtype=np.int64)
        now = np.flatnonzero(then >= 0)
        return cls(word, len(ids), len(known), now, then[now])

    @property
    def sizes(self) -> tuple[int, int]:
        return self.n_now, self.n_then

    @property
    def is_same(self) -> bool:
        """Whether users or items are those of then, in the same order."""
        return self.n_now == self.n_then == len(self.now) and bool((self.now == self.then).all())


def _put(target: Tensor, rows: Mapping[int, Tensor], values: Tensor) -> None:
    """Write values into the chosen rows of some axes of a tensor."""
    if not rows:
        target.copy_(values)
        return
    (axis, index), *rest = rows.items()
    if rest:
        part = target.index_select(axis, index)
        _put(part, dict(rest), values)
        values = part
    target.index_copy_(axis, index, values.to(target))
