"""The best items of each user: all items are scored in blocks of users, with one partial sort a block."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gtcrec.errors import ConfigError, DataError
from gtcrec.types import Interactions, Ints, Scorer, TopK

__all__ = ["recommend"]

# Scores of one block of users when the caller leaves it open: 32 MiB of float32. A block and its masked copy
# stay under 128 MiB with all that ranking adds; larger blocks were measured to be slower, not faster.
_BLOCK_SCORES = 1 << 23


def recommend(scorer: Scorer, users: Ints, k: int, exclude: Sequence[Interactions] = (), block: int = 0) -> TopK:
    """Return the best k items of each user by score, ties by ascending item, without the pairs in `exclude`.

    `users` int64 [b]. An item scored -inf is never recommended; places that cannot be filled hold item -1,
    score -inf. Raises `ConfigError` for k < 1, `DataError` for scores of a wrong shape or kind, for NaN and
    for users that `exclude` does not know.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, found {k}")
    for pairs in exclude:
        for user in users[(users < 0) | (users >= pairs.n_users)][:1]:
            raise DataError(f"users must lie in [0, {pairs.n_users}), found {user}")
    items = np.full((len(users), k), -1, dtype=np.int64)
    scores = np.full((len(users), k), -np.inf, dtype=np.float32)
    with torch.inference_mode():
        if not block and len(users):
            n_items = exclude[0].n_items if exclude else _score(scorer, users[:1], exclude).shape[1]
            block = max(1, _BLOCK_SCORES // n_items)
        for start in range(0, len(users), max(block, 1)):
            some = users[start : start + block]
            values, best = _best(_mask(_score(scorer, some, exclude), some, exclude), k)
            filled = values > -torch.inf
            here = slice(start, start + len(some)), slice(best.shape[1])
            items[here] = torch.where(filled, best, -1).cpu().numpy()
            scores[here] = values.float().cpu().numpy()
    return TopK(users, items, scores)


def _score(scorer: Scorer, users: Ints, exclude: Sequence[Interactions]) -> Tensor:
    """Scores of a block of users, checked, float [b, n_items]."""
    scores = scorer(torch.tensor(users, dtype=torch.int64))
    n_items = exclude[0].n_items if exclude else "n_items"
    wrong_width = scores.dim() == 2 and exclude and scores.shape[1] != n_items
    if scores.dim() != 2 or len(scores) != len(users) or scores.shape[1] < 1 or wrong_width:
        raise DataError(
            f"wanted scores [{len(users)}, {n_items}] for {len(users)} users from user {users[0]} on, "
            f"found {list(scores.shape)}"
        )
    if not scores.is_floating_point():
        raise DataError(f"wanted floating-point scores for user {users[0]}, found {scores.dtype}")
    if scores.sum(dim=1).isnan().any():  # cheap; also true for inf - inf, so look closer
        for row, item in scores.isnan().nonzero()[:1].tolist():
            raise DataError(f"the score of user {users[row]} for item {item} is NaN")
    return scores


def _mask(scores: Tensor, users: Ints, exclude: Sequence[Interactions]) -> Tensor:
    """Return a copy of the scores with -inf at the pairs of `exclude`."""
    scores = scores.clone(memory_format=torch.contiguous_format)
    for pairs in exclude:
        counts = pairs.user_counts[users]
        rows = np.repeat(np.arange(len(users)), counts)
        first = pairs.indptr[users] - (np.cumsum(counts) - counts)
        seen = pairs.items[np.repeat(first, counts) + np.arange(len(rows))]
        at = torch.from_numpy(rows).to(scores.device), torch.from_numpy(seen).to(scores.device)
        scores[at] = -torch.inf
    return scores


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and items [b, min(k, n_items)] of the best places, ties by ascending item."""
    k = min(k, scores.shape[1])
    values, items = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if values.shape[1] > k:  # one place more shows where the border runs through equal scores
        tied = ((values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)).nonzero().flatten()
        values, items = values[:, :k], items[:, :k].contiguous()
        part = max(1, len(scores) // 8)  # equal scores are rare or everywhere: hold few rows at once
        for start in range(0, len(tied), part):
            rows = tied[start : start + part]
            items[rows] = _first_of_equals(scores[rows], values[rows], items[rows])
    same = ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any(dim=1).nonzero().flatten()
    by_item, order = items[same].sort(dim=1)
    order = values[same].gather(1, order).sort(dim=1, descending=True, stable=True).indices
    items[same] = by_item.gather(1, order)
    return values, items


def _first_of_equals(scores: Tensor, values: Tensor, items: Tensor) -> Tensor:
    """Refill the places whose value equals the last one's with the lowest items of that value.

    `scores` [r, n_items], `values` and `items` [r, k], best first -> items [r, k].
    """
    n_items, k = scores.shape[1], values.shape[1]
    border = values[:, -1:]
    above = (values > border).sum(dim=1, keepdim=True)  # [r, 1]
    backwards = torch.arange(n_items, 0, -1, dtype=torch.int32, device=scores.device)
    rank = torch.where(scores == border, backwards, 0)  # [r, n_items]
    lowest = rank.topk(k - int(above.min()), dim=1).indices
    place = (torch.arange(k, device=scores.device) - above).clamp(0, lowest.shape[1] - 1)
    return torch.where(values == border, lowest.gather(1, place), items)
