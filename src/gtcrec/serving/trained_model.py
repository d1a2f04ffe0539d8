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

from gtcrec import models
from gtcrec.errors import ConfigError, DataError, RunError, nearest
from gtcrec.experiments.model_bundle import (
    WEIGHTS,
    ModelBundle,
    is_bundle,
    load_module,
    read_bundle,
    read_vectors,
    with_ids,
)
from gtcrec.ops.fold_in import history_matrix
from gtcrec.ops.scorers import DotScorer, RerankingScorer
from gtcrec.ops.topk import recommend
from gtcrec.runtime.files import sha256
from gtcrec.runtime.process_group import find_device
from gtcrec.runtime.replacement import read_unchanged
from gtcrec.serving.diversity import POOL, cosines, diversify, side_by_side
from gtcrec.serving.inputs import join_item_columns
from gtcrec.serving.list_request import ListRequest
from gtcrec.types import (
    AddsItems,
    Floats,
    FoldsIn,
    Interactions,
    Ints,
    ItemFeatures,
    Scorer,
    ScoresNewItems,
    TopK,
    Vocabulary,
)

if TYPE_CHECKING:
    from gtcrec.experiments.run import Run

__all__ = ["TrainedModel"]

_FIRST_TEN = ListRequest()
_USERS = 4096  # scored at once for `users_for`


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
        place = find_device(device or "cpu")
        bundle, weights_sum, vectors = read_unchanged(
            folder, lambda: (read_bundle(folder), sha256(folder / WEIGHTS), read_vectors(folder))
        )

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
        module = self.require_adding() if self.bundle.n_added else None
        if isinstance(module, AddsItems):
            with torch.no_grad():
                users, items = module.vectors()
                return DotScorer(users, torch.cat([items, module.add_items(self.bundle.added_features)]))
        known: Scorer = self.module.scorer()  # type: ignore[operator]
        if module is None:
            return known
        histories = self.bundle.seen.matrix()
        return lambda users: self._with_added(known(users), histories[users.cpu().numpy()])

    def recommend(self, users: Ints, request: ListRequest = _FIRST_TEN) -> pa.Table:
        """Return the best items of users by index: columns user_id, item_id, rank int32, score float32."""
        return self._tabulate(self._ranked(self.scorer, users, request, self.seen), self._user_ids, request.offset)

    def recommend_for_histories(
        self, histories: Sequence[Sequence[Any]], request: ListRequest = _FIRST_TEN
    ) -> pa.Table:
        """Return the best items of new users by the ids of their histories; user_id counts these from 1.

        Raises `DataError` for an unknown item, `RunError` for a model that cannot score new users.
        """
        scores, seen = self.score_histories(histories)
        numbers = np.arange(len(scores))
        lists = self._ranked(lambda rows: scores[rows.to(scores.device)], numbers, request, seen)
        return self._tabulate(lists, pa.array(numbers + 1).cast(pa.string()), request.offset)

    def similar_items(self, items: Ints, k: int, view: str | None = None, where: str | None = None) -> pa.Table:
        """Return the k items most similar to each by index: columns item_id, similar_item_id, rank, score.

        `view` is a modality whose content is compared, None for the whole; `where` as in `ListRequest`.
        """
        scores = self._similarities(items) if view is None else self._content_similarities(items, view)
        numbers = np.arange(len(items))
        itself = Interactions(numbers, items, len(items), len(self.bundle.items))
        request = ListRequest(k, where=where)
        lists = self._ranked(lambda rows: scores[rows.to(scores.device)], numbers, request, itself)
        table = self._tabulate(lists, self._item_ids.take(pa.array(items)))
        return table.rename_columns(["item_id", "similar_item_id", "rank", "score"])

    def users_for(self, items: Ints, k: int, exclude_seen: bool = True) -> pa.Table:
        """Return the k users with the largest scores of each item by index: item_id, user_id, rank, score."""
        n_users, chosen = len(self.bundle.users), torch.from_numpy(items)
        blocks = np.split(np.arange(n_users), range(_USERS, n_users, _USERS))
        with torch.inference_mode():
            scores = torch.cat([self.scorer(torch.from_numpy(users))[:, chosen] for users in blocks]).T
        numbers, (by_item, by_user) = np.arange(len(items)), self._seen_by_item[items].nonzero()
        seen = Interactions(by_item.astype(np.int64), by_user.astype(np.int64), len(items), n_users)
        lists = recommend(lambda rows: scores[rows.to(scores.device)], numbers, k, [seen] if exclude_seen else [])
        rows, places = (lists.items >= 0).nonzero()
        columns = {
            "item_id": self._item_ids.take(pa.array(items[rows])),
            "user_id": self._user_ids.take(pa.array(lists.items[rows, places])),
            "rank": pa.array(places.astype(np.int32) + 1),
            "score": pa.array(lists.scores[rows, places]),
        }
        return pa.table(columns)

    def candidates(self, request: ListRequest) -> Ints | None:
        """Return the items that may be listed, by index; see `ListRequest.candidates`."""
        known = self.bundle.items
        return request.candidates(known.index, len(known), lambda: self.item_columns)

    def require_adding(self) -> AddsItems | ScoresNewItems:
        """Return the model; raises `RunError` for one that cannot score items which came after training."""
        if not isinstance(self.module, AddsItems | ScoresNewItems):
            raise RunError(f"{self.bundle.model} cannot score items that came after training")
        return self.module

    def add_items(self, ids: list[Any], features: ItemFeatures, columns: pa.Table | None = None) -> "TrainedModel":
        """Return the model with new items after the others, scored by their content.

        `columns` are theirs of the items table, if known; raises `DataError` for one that cannot be joined to it.
        """
        self.require_adding()
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

    def _ranked(self, scorer: Scorer, users: Ints, request: ListRequest, seen: Interactions) -> TopK:
        """Return the lists of users from the first place on, items of `seen` left out if the request says so."""
        candidates = self.candidates(request)
        scorer = scorer if candidates is None else _restrict(scorer, candidates)
        n = min(request.end, len(self.bundle.items))
        length = max(n, POOL) if request.diversity else n
        lists = recommend(scorer, users, min(length, len(self.bundle.items)), [seen] if request.exclude_seen else [])
        return diversify(lists, request.diversity, self.cosines_among, n) if request.diversity else lists

    def cosines_among(self, items: Ints) -> Floats:
        """Return the cosines among items, [p, p]: of their vectors, else of their contents, else of their users."""
        vectors = self._item_vectors
        if vectors is not None:
            return cosines(vectors[torch.from_numpy(items).to(vectors.device)].float().cpu().numpy())
        features = self.bundle.features
        if models.get_spec(self.bundle.model).uses_content and features.names:
            return cosines(side_by_side([features.values[m][items] for m in features.names]))
        return cosines(self._seen_by_item[items])

    @cached_property
    def _seen_by_item(self) -> csr_array:
        return csr_array(self.seen.matrix().T)

    @property
    def _item_vectors(self) -> Tensor | None:
        vectors = getattr(getattr(self.scorer, "base", self.scorer), "items", None)
        return vectors if isinstance(vectors, Tensor) else None

    def _similarities(self, items: Ints) -> Tensor:
        """Return the cosines of items' vectors with those of all; without vectors, scores of the history of one."""
        if not isinstance(getattr(self.scorer, "items", None), Tensor):
            return self.score_histories([[one] for one in self.bundle.items.external(items).tolist()])[0]
        units = F.normalize(self.vectors("items"), dim=1)
        return units[torch.from_numpy(items).to(units.device)] @ units.T

    def _content_similarities(self, items: Ints, view: str) -> Tensor:
        """Return the cosines of items' content with that of all, -inf for those without it."""
        features = self.bundle.without_unused_content().features
        if view not in features.names:
            known = ", ".join(features.names) or "none, since its model uses no content"
            raise ConfigError(f"unknown view {view!r}{nearest(view, features.names)}; the model's modalities: {known}")
        present = features.present[view]
        for item in items[~present[items]][:1]:
            raise DataError(f"item {str(self.bundle.items.ids[item])!r} has no content {view}")
        units = F.normalize(torch.from_numpy(np.asarray(features.values[view], dtype=np.float32)), dim=1)
        return (units[torch.from_numpy(items)] @ units.T).masked_fill(~torch.from_numpy(present), -torch.inf)

    def _tabulate(self, lists: TopK, ids: pa.Array, offset: int = 0) -> pa.Table:
        rows, places = (lists.items[:, offset:] >= 0).nonzero()
        places += offset
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
