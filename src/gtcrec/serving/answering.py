"""What a fitted recommender answers: lists, scores, similar items, explanations, vectors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gtcrec.errors import ConfigError, RunError
from gtcrec.experiments.analysis.explanation import ItemExplanation, explain_scores
from gtcrec.serving.inputs import as_list, as_lists
from gtcrec.serving.list_request import ListRequest
from gtcrec.serving.trained_model import TrainedModel
from gtcrec.types import Interactions, Scorer

__all__ = ["Answering"]


class Answering:
    """The questions that a fitted recommender answers, by external ids."""

    _trained: TrainedModel | None

    def recommend(
        self,
        users: Any = None,
        *,
        history: Sequence[Any] | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        items: Any = None,
        exclude: Any = None,
        where: str | None = None,
        offset: int = 0,
        diversity: float = 0.0,
    ) -> pa.Table:
        """Return each user's best items.

        Parameters
        ----------
        users : id or list of ids, optional
            Users of the training data; all of them if neither `users` nor `history` is given.
        history : list of item ids, or list of such lists, optional
            Users that the training did not have, each by the items of their history.
        k : int
            Length of the lists.
        exclude_seen : bool
            Leave out the items of the user's training interactions or history.
        items : id or list of ids, optional
            The only items that may be recommended; all if not given.
        exclude : id or list of ids, optional
            Items that must not be recommended.
        where : str, optional
            A filter on the columns of the items table, such as `category = 'Shoes' and price < 50`.
        offset : int
            How many of the best items to pass over: pages of k items join without gap or double.
        diversity : float
            Weight of maximal marginal relevance, in [0, 1). From 0 on, the 200 best items are ordered by score less and
            less and by how unlike they are to those before them; the scores shown stay the model's. Unlike are items by
            their vectors; of a model without vectors by content, or by users if it uses no content.

        Returns
        -------
        pyarrow.Table
            Columns user_id and item_id (text), rank (int32, from offset + 1) and score (float32), best first, a user
            after the other. With `history`, user_id counts the histories from 1.

        Raises
        ------
        DataError
            For an id that the training did not have.
        ConfigError
            For a filter that cannot be read, or a number out of range.
        RunError
            For `history` with a model that cannot score new users, or a recommender that is not fitted.

        Examples
        --------
        >>> model = gtcrec.Recommender("ease").fit(gtcrec.data.make_catalog(n_users=60, n_items=40).dataset)
        >>> model.recommend(["u0001", "u0002"], k=5).num_rows
        10
        >>> model.recommend(history=["p0003", "p0007"], k=2, where="kind = 'mug' and price < 50")["user_id"].to_pylist()
        ['1', '1']
        """
        trained = self._fitted()
        if users is not None and history is not None:
            raise ConfigError("recommend takes users or history, found both")
        only, never = (None if ids is None else as_list(ids) for ids in (items, exclude))
        request = ListRequest(k, exclude_seen, only, never, where, offset, diversity)
        if history is not None:
            return trained.recommend_for_histories(as_lists(history), request)
        everyone = trained.bundle.users
        index = np.arange(len(everyone)) if users is None else everyone.index(as_list(users))
        return trained.recommend(index, request)

    def score(self, users: Any, items: Any) -> np.ndarray[Any, Any]:
        """Return the scores of users with items.

        Parameters
        ----------
        users, items : id or list of ids

        Returns
        -------
        numpy.ndarray
            float32 [n users, n items].

        Raises
        ------
        DataError
            For an id that the training did not have.

        Examples
        --------
        >>> model = gtcrec.Recommender("popular").fit(gtcrec.data.make_catalog(n_users=60, n_items=40).dataset)
        >>> model.score("u0001", ["p0000", "p0001"]).shape
        (1, 2)
        """
        trained = self._fitted()
        rows, columns = trained.bundle.users.index(as_list(users)), trained.bundle.items.index(as_list(items))
        with torch.inference_mode():
            found = trained.scorer(torch.from_numpy(rows))[:, torch.from_numpy(columns)]
        scores: np.ndarray[Any, Any] = found.float().cpu().numpy()
        return scores

    def similar_items(self, items: Any, k: int = 10, view: str | None = None, where: str | None = None) -> pa.Table:
        """Return the items most similar to each of `items`.

        The similarity is the cosine of the item vectors. A model without vectors that can score new users says instead
        what it recommends to someone whose history is that item alone.

        Parameters
        ----------
        items : id or list of ids
        k : int
            Length of the lists.
        view : str, optional
            A modality: items are compared by this content alone. Items without it are in no list.
        where : str, optional
            A filter that similar items must match, as of `recommend`.

        Returns
        -------
        pyarrow.Table
            Columns item_id, similar_item_id, rank (int32, from 1) and score (float32).

        Raises
        ------
        DataError
            For an id that the training did not have, or an item without the content of `view`.
        ConfigError
            For a filter that cannot be read, or a view that the model does not use.
        RunError
            For a model with neither item vectors nor a way to score new users.

        Examples
        --------
        >>> model = gtcrec.Recommender("ease").fit(gtcrec.data.make_catalog(n_users=60, n_items=40).dataset)
        >>> model.similar_items("p0003", k=2).column_names
        ['item_id', 'similar_item_id', 'rank', 'score']
        """
        trained = self._fitted()
        return trained.similar_items(trained.bundle.items.index(as_list(items)), k, view, where)

    def users_for(self, items: Any, k: int = 10, exclude_seen: bool = True) -> pa.Table:
        """Return the users whose scores of each item are the largest: whom to tell of it.

        Scores of several users are compared as they are. Models of inner products give larger ones to active users.

        Parameters
        ----------
        items : id or list of ids
        k : int
            Length of the lists.
        exclude_seen : bool
            Leave out users who have the item in their training interactions.

        Returns
        -------
        pyarrow.Table
            Columns item_id, user_id, rank (int32, from 1) and score (float32), best first, an item after the other.

        Raises
        ------
        DataError
            For an id that the training did not have.

        Examples
        --------
        >>> model = gtcrec.Recommender("ease").fit(gtcrec.data.make_catalog(n_users=60, n_items=40).dataset)
        >>> model.users_for("p0003", k=2).column_names
        ['item_id', 'user_id', 'rank', 'score']
        """
        trained = self._fitted()
        return trained.users_for(trained.bundle.items.index(as_list(items)), k, exclude_seen)

    def explain(self, user: Any, items: Any, nearest: int = 5) -> list[ItemExplanation]:
        """Say what a user's scores of items are made of.

        Parameters
        ----------
        user : id
            A user of the training data.
        items : id or list of ids
        nearest : int
            How many items of the user's history to name, nearest in what the user keeps of their content.

        Returns
        -------
        list of ItemExplanation
            For each item its score, rank, the contributions that add up to the score, what is retained of its content
            and the nearest history items. A model without parts has score and rank alone.

        Raises
        ------
        DataError
            For an id that the training did not have.

        Examples
        --------
        >>> model = gtcrec.Recommender("popular").fit(gtcrec.data.make_catalog(n_users=60, n_items=40).dataset)
        >>> [one.item for one in model.explain("u0001", ["p0003", "p0004"])]
        ['p0003', 'p0004']
        """
        trained = self._fitted()
        found = explain_scores(trained.bundle, trained.module, trained.scorer, user, as_list(items), nearest)
        return list(found.items)

    @property
    def user_vectors(self) -> np.ndarray[Any, Any]:
        """Vectors of the users, float32 [n users, d]; with `item_vectors` their inner products are the scores."""
        return self._vectors("users")

    @property
    def item_vectors(self) -> np.ndarray[Any, Any]:
        """Vectors of the items, float32 [n items, d]."""
        return self._vectors("items")

    def _vectors(self, side: str) -> np.ndarray[Any, Any]:
        vectors: np.ndarray[Any, Any] = self._fitted().vectors(side).float().cpu().numpy()
        return vectors

    @property
    def interactions(self) -> Interactions:
        """The training interactions by index, over all items; indices are places in `user_ids` and `item_ids`."""
        return self._fitted().seen

    def item_cosines(self, items: Any) -> np.ndarray[Any, Any]:
        """Return how alike items are: the cosines of their vectors.

        Of a model without vectors those of their content, or of their users if it uses no content.

        Parameters
        ----------
        items : id or list of ids

        Returns
        -------
        numpy.ndarray
            Floats [n, n].

        Raises
        ------
        DataError
            For an id that the training did not have.

        Examples
        --------
        >>> model = gtcrec.Recommender("ease").fit(gtcrec.data.make_catalog(n_users=60, n_items=40).dataset)
        >>> model.item_cosines(["p0003", "p0004"]).shape
        (2, 2)
        """
        trained = self._fitted()
        return trained.cosines_among(trained.bundle.items.index(as_list(items)))

    def scorer(self) -> Scorer:
        """Return the scores as a function of user indices: int64 [b] -> float32 [b, n items]."""
        return self._fitted().scorer

    @property
    def user_ids(self) -> list[Any]:
        """Ids of the users that training had."""
        return list(map(str, self._fitted().bundle.users.ids.tolist()))

    @property
    def item_ids(self) -> list[Any]:
        """Ids of the items, those of `add_items` last."""
        return list(map(str, self._fitted().bundle.items.ids.tolist()))

    @property
    def item_columns(self) -> pa.Table:
        """The items table, a row an item: `item_id` (text), then title, category, price and what else the data have."""
        return self._fitted().item_columns

    @property
    def modalities(self) -> list[str]:
        """Names of the contents that the model uses, each a `view` of `similar_items`."""
        return list(self._fitted().bundle.without_unused_content().features.names)

    def titles_of(self, items: Any) -> list[str]:
        """Return the titles of items by id, "" for one without; an empty list if the data have none."""
        return self._fitted().titles_of(as_list(items))

    def _fitted(self) -> TrainedModel:
        if self._trained is None:
            raise RunError(f"{self!r} is not fitted: call fit first")
        return self._trained
