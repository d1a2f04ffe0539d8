"""A trained model that answers by external ids: lists, scores, similar items, new users, items added later."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.errors import RunError
from gtcrec.experiments.model_bundle import (
    WEIGHTS,
    ModelBundle,
    is_bundle,
    load_module,
    read_bundle,
    read_vectors,
)
from gtcrec.ops.fold_in import history_matrix
from gtcrec.ops.scorers import DotScorer, RerankingScorer
from gtcrec.ops.topk import recommend
from gtcrec.runtime.files import sha256
from gtcrec.runtime.process_group import find_device
from gtcrec.serving.inputs import join_item_columns, with_ids
from gtcrec.types import AddsItems, FoldsIn, Interactions, Ints, ItemFeatures, Scorer, ScoresNewItems, TopK, Vocabulary

if TYPE_CHECKING:
    from gtcrec.experiments.run import Run

__all__ = ["TrainedModel"]


class TrainedModel:
    """A model with the ids, seen items and content that its answers need."""

    def __init__(
        self, bundle: ModelBundle, load_module: Callable[[], nn.Module], stored: DotScorer | None = None
    ) -> None:
        """Hold a model that `load_module` returns when an answer first needs it; `stored` is its scorer, if kept."""
        self.bundle = bundle
        self._load_module = load_module
        self._stored = stored

    @classmethod
    def load(cls, folder: Path, data: str | None = None, device: str | None = None) -> "TrainedModel":
        """Open a saved recommender or a finished run; `data` says where the data of a run of version 0.1 lie now.

        Raises `RunError` when the folder is neither, is damaged, or its training has not ended.
        """
        if not (is_bundle(folder) and (folder / WEIGHTS).exists()):
            from gtcrec.experiments.run import Run

            return cls.of_run(Run.load(folder, data, device))
        bundle, place = read_bundle(folder), find_device(device or "cpu")
        weights_sum, vectors = sha256(folder / WEIGHTS), read_vectors(folder)

        def load() -> nn.Module:
            return load_module(folder, bundle, weights_sum).to(place)

        if vectors is None:
            module = load()
            return cls(bundle, lambda: module)
        sides = (torch.from_numpy(np.array(one)).to(place) for one in (vectors.user_vectors, vectors.item_vectors))
        return cls(bundle, load, DotScorer(*sides))

    @classmethod
    def of_run(cls, run: "Run") -> "TrainedModel":
        """Return the model of a finished run. Raises `RunError` when its training has not ended."""
        run.need_finished()
        return cls(run.bundle(), lambda: run.model)

    @cached_property
    def module(self) -> nn.Module:
        """The model itself, built and loaded when it is first asked for."""
        return self._load_module()

    @cached_property
    def scorer(self) -> Scorer:
        """Scores [b, n items] of user indices int64 [b], items added later included; computed once."""
        if self._stored is not None:
            return self._stored
        module = self._adding_module() if self.bundle.n_added else None
        if isinstance(module, AddsItems):
            with torch.no_grad():
                users, items = module.vectors()
                return DotScorer(users, torch.cat([items, module.add_items(self.bundle.added_features)]))
        known: Scorer = self.module.scorer()  # type: ignore[operator]
        if module is None:
            return known
        histories = self.bundle.seen.matrix()
        return lambda users: self._with_added(known(users), histories[users.cpu().numpy()])

    def recommend(self, users: Ints, k: int, exclude_seen: bool = True, candidates: Ints | None = None) -> pa.Table:
        """Return the best k items of users by index: columns user_id, item_id, rank int32, score float32.

        `candidates` are the only items, by index, that may be listed.
        """
        scorer = self.scorer if candidates is None else _restrict(self.scorer, candidates)
        lists = recommend(scorer, users, k, [self.seen] if exclude_seen else [])
        return self._tabulate(lists, self._user_ids)

    def recommend_for_histories(
        self, histories: Sequence[Sequence[Any]], k: int, exclude_seen: bool = True, candidates: Ints | None = None
    ) -> pa.Table:
        """Return the best k items of new users by the ids of their histories; user_id counts these from 1.

        Raises `DataError` for an unknown item, `RunError` for a model that cannot score new users.
        """
        scores, seen = self.score_histories(histories)
        numbers = np.arange(len(scores))

        def scorer(rows: Tensor) -> Tensor:
            return scores[rows.to(scores.device)]

        chosen = scorer if candidates is None else _restrict(scorer, candidates)
        return self._tabulate(
            recommend(chosen, numbers, k, [seen] if exclude_seen else []), pa.array(numbers + 1).cast(pa.string())
        )

    def similar_items(self, items: Ints, k: int) -> pa.Table:
        """Return the k items most similar to each by index: columns item_id, similar_item_id, rank, score."""
        if isinstance(getattr(self.scorer, "items", None), Tensor):
            units = F.normalize(self.vectors("items"), dim=1)
            scores = units[torch.from_numpy(items).to(units.device)] @ units.T
        else:
            scores = self.score_histories([[one] for one in self.bundle.items.external(items).tolist()])[0]
        numbers = np.arange(len(items))
        itself = Interactions(numbers, items, len(items), len(self.bundle.items))
        lists = recommend(lambda rows: scores[rows.to(scores.device)], numbers, k, [itself])
        table = self._tabulate(lists, self._item_ids.take(pa.array(items)))
        return table.rename_columns(["item_id", "similar_item_id", "rank", "score"])

    def add_items(self, ids: list[Any], features: ItemFeatures, columns: pa.Table | None = None) -> "TrainedModel":
        """Return the model with new items after the others, scored by their content.

        `columns` are theirs of the items table, if known; raises `DataError` for one that cannot be joined to it.
        """
        self._adding_module()
        later = replace(
            self.bundle,
            items=_extend(self.bundle.items, ids),
            features=_stack(self.bundle.features, features),
            n_added=self.bundle.n_added + features.n_items,
            item_columns=join_item_columns(self.bundle.item_columns, len(self.bundle.items), columns, len(ids)),
        )
        return TrainedModel(later, lambda: self.module)

    @cached_property
    def item_columns(self) -> pa.Table:
        """The ids of all items as text, `item_id`, and their columns of the items table."""
        return with_ids(self._item_ids, self.bundle.item_columns)

    def titles_of(self, items: Sequence[Any]) -> list[str]:
        """Return the titles of items by id; an empty list if the data have none."""
        titles = self.bundle.titles
        return [titles[place] for place in self.bundle.items.index(items)] if titles else []

    def vectors(self, side: str) -> Tensor:
        """Return the vectors of "users" or "items". Raises `RunError` for a model whose scores are no inner product."""
        vectors = getattr(self.scorer, side, None)
        if not isinstance(vectors, Tensor):
            raise RunError(f"{self.bundle.model} has no vectors of {side}: its scores are no inner products")
        return vectors

    def score_histories(self, histories: Sequence[Sequence[Any]]) -> tuple[Tensor, Interactions]:
        """Return the scores [b, n items] of new users by their histories, and these as interactions."""
        if not isinstance(self.module, FoldsIn):
            raise RunError(f"{self.bundle.model} cannot score users whom the training did not have")
        n_trained, n_items = self.bundle.seen.n_items, len(self.bundle.items)
        lists = [self.bundle.items.index(one) for one in histories]
        rows = history_matrix([one[one < n_trained] for one in lists], n_trained)
        base = self.scorer.base if isinstance(self.scorer, RerankingScorer) else self.scorer
        if isinstance(self.module, AddsItems) and isinstance(base, DotScorer):
            scores = self.module.new_users(rows) @ base.items.T  # what fold_in would make of items' vectors made anew
        else:
            scores = self._with_added(self.module.fold_in(rows).detach(), rows)
        users, items = history_matrix(lists, n_items).nonzero()
        return scores, Interactions(users.astype(np.int64), items.astype(np.int64), len(lists), n_items)

    @cached_property
    def seen(self) -> Interactions:
        """The training interactions, over all items."""
        seen = self.bundle.seen
        if not self.bundle.n_added:
            return seen
        return Interactions(seen.users, seen.items, seen.n_users, len(self.bundle.items))

    @cached_property
    def _user_ids(self) -> pa.Array:
        return pa.array(self.bundle.users.ids).cast(pa.string())  # one type, whatever the ids look like

    @cached_property
    def _item_ids(self) -> pa.Array:
        return pa.array(self.bundle.items.ids).cast(pa.string())

    def _with_added(self, scores: Tensor, history: csr_array) -> Tensor:
        """Scores [b, n known items] with those of the items added later after them, by histories of known items."""
        if not self.bundle.n_added or not isinstance(self.module, ScoresNewItems):
            return scores
        new = self.module.score_new_items(history, self.bundle.added_features)
        return torch.cat([scores, new.detach().to(scores)], dim=1)

    def _adding_module(self) -> AddsItems | ScoresNewItems:
        if not isinstance(self.module, AddsItems | ScoresNewItems):
            raise RunError(f"{self.bundle.model} cannot score items that came after training")
        return self.module

    def _tabulate(self, lists: TopK, ids: pa.Array) -> pa.Table:
        rows, places = (lists.items >= 0).nonzero()
        columns = {
            "user_id": ids.take(pa.array(lists.users[rows])),
            "item_id": self._item_ids.take(pa.array(lists.items[rows, places])),
            "rank": pa.array(places.astype(np.int32) + 1),
            "score": pa.array(lists.scores[rows, places]),
        }
        return pa.table(columns)


def _restrict(scorer: Scorer, candidates: Ints) -> Scorer:
    """Return the scorer for which all items but the candidates have the score -inf, which is never recommended."""

    def scores(users: Tensor) -> Tensor:
        every = scorer(users)
        chosen = torch.zeros(every.shape[1], dtype=torch.bool, device=every.device)
        chosen[torch.from_numpy(candidates).to(every.device)] = True
        return every.masked_fill(~chosen, -torch.inf)

    return scores


def _stack(first: ItemFeatures, then: ItemFeatures) -> ItemFeatures:
    def both(side: str) -> dict[str, Any]:
        return {m: np.concatenate([getattr(first, side)[m], getattr(then, side)[m]]) for m in first.names}

    return ItemFeatures(first.n_items + then.n_items, both("values"), both("present"))


def _extend(known: Vocabulary, ids: list[Any]) -> Vocabulary:
    """Return the ids with new ones after them; whole numbers stay so if the new ones are."""
    if known.ids.dtype.kind == "i" and all(isinstance(one, int | np.integer) for one in ids):
        return Vocabulary(np.array([*known.ids.tolist(), *map(int, ids)]), known.word)
    return Vocabulary(np.array([*map(str, known.ids.tolist()), *map(str, ids)]), known.word)
