"""The best items of each user: all items are scored, in blocks of users that fit the processor's cache.

A block is read a few times: to score, to find a border that k scores of each user reach, and to list what reaches it.
Only that list is sorted.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from gtcrec.errors import ConfigError, DataError
from gtcrec.types import Interactions, Ints, Scorer, TopK

__all__ = ["RankingScorer", "WritingScorer", "block_users", "recommend", "seen_places", "select_best"]

# Scores of one block on a CPU: 2 MiB of float32, about a core's own cache; blocks of 32 MiB took 1.3 times as long.
_CACHED = 1 << 19
# A product for fewer users than this is slow, so larger catalogues get so many, within 128 MiB. Accelerators always
# get 128 MiB: small blocks would leave them idle.
_USERS, _LARGEST = 64, 1 << 25


@runtime_checkable
class WritingScorer(Protocol):
    """A `Scorer` that can also write its scores to `out` [b, n_items], memory that the caller keeps."""

    def __call__(self, users: Tensor) -> Tensor: ...

    def into(self, users: Tensor, out: Tensor) -> None: ...


@runtime_checkable
class RankingScorer(Protocol):
    """A `Scorer` that finds the best items itself, as `recommend` would; `block` as there."""

    def __call__(self, users: Tensor) -> Tensor: ...

    def recommend(self, users: Ints, k: int, exclude: Sequence[Interactions], block: int) -> TopK: ...


def block_users(n_items: int, device: str = "cpu") -> int:
    """Return how many users to score at once on a kind of device."""
    most = max(1, _LARGEST // n_items)
    return min(most, max(_USERS, _CACHED // n_items)) if device == "cpu" else most


def recommend(scorer: Scorer, users: Ints, k: int, exclude: Sequence[Interactions] = (), block: int = 0) -> TopK:
    """Return the best k items of each user by score, ties by ascending item, without the pairs in `exclude`.

    `users` int64 [b]; `block` of them are scored at once, 0 = by size. An item scored -inf is never recommended; places
    that cannot be filled hold item -1, score -inf. Raises `ConfigError` for k < 1, `DataError` for scores of a wrong
    shape or kind, for NaN and for users that `exclude` does not know.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, found {k}")
    for pairs in exclude:
        for user in users[(users < 0) | (users >= pairs.n_users)][:1]:
            raise DataError(f"users must lie in [0, {pairs.n_users}), found {user}")
        if pairs.n_items != exclude[0].n_items:
            raise DataError(f"excluded pairs must be over the same items, found {exclude[0].n_items}, {pairs.n_items}")
    if isinstance(scorer, RankingScorer):
        return scorer.recommend(users, k, exclude, block)
    items = np.full((len(users), k), -1, dtype=np.int64)
    scores = np.full((len(users), k), -np.inf, dtype=np.float32)
    with torch.inference_mode():
        for start, scored in _score_blocks(scorer, users, exclude[0].n_items if exclude else 0, block):
            some = users[start : start + len(scored)]
            for pairs in exclude:
                seen = torch.from_numpy(seen_places(pairs, some)).to(scored.device)
                scored.view(-1).index_fill_(0, seen, -torch.inf)
            values, best = select_best(scored, k)
            here = slice(start, start + len(scored)), slice(best.shape[1])
            items[here], scores[here] = best.cpu().numpy(), values.float().cpu().numpy()
    return TopK(users, items, scores)


def _score_blocks(scorer: Scorer, users: Ints, n_items: int, block: int) -> Iterator[tuple[int, Tensor]]:
    """Yield blocks of checked scores, float32 or float64 [b, n_items], each with the place of its first user.

    All blocks use the same memory, and the caller may write to it. `n_items` 0: the scorer says.
    """
    index = torch.tensor(users, dtype=torch.int64)
    if not len(index):
        return
    first = index[: block or (block_users(n_items) if n_items else 1)]
    scores = _check_scores(scorer(first), first, n_items)  # shows what all scores are and where they lie
    n_items = scores.shape[1]
    step = block or block_users(n_items, scores.device.type)
    kind = torch.float64 if scores.dtype == torch.float64 else torch.float32
    rows = min(max(step, len(first)), len(index))
    memory = torch.empty(rows, n_items, dtype=kind, device=scores.device)

    def copied(some: Tensor, out: Tensor) -> None:
        out.copy_(_check_scores(scorer(some), some, n_items))

    into = scorer.into if isinstance(scorer, WritingScorer) and scores.dtype == kind else copied
    yield 0, _check_not_nan(memory[: len(first)].copy_(scores), first)
    for start in range(len(first), len(index), step):
        some = index[start : start + step]
        out = memory[: len(some)]
        into(some, out)
        yield start, _check_not_nan(out, some)


def _check_scores(scores: Tensor, users: Tensor, n_items: int) -> Tensor:
    """Return the scores; raise `DataError` unless they are floating-point [b, n_items], n_items 0: of any number."""
    wrong_width = scores.dim() == 2 and n_items and scores.shape[1] != n_items
    if scores.dim() != 2 or len(scores) != len(users) or scores.shape[1] < 1 or wrong_width:
        raise DataError(
            f"expected scores [{len(users)}, {n_items or 'n_items'}] for {len(users)} users from user {users[0]} on, "
            f"found {list(scores.shape)}"
        )
    if not scores.is_floating_point():
        raise DataError(f"expected floating-point scores for user {users[0]}, found {scores.dtype}")
    return scores


def _check_not_nan(scores: Tensor, users: Tensor) -> Tensor:
    """Return the scores; raise `DataError` if one is NaN."""
    if scores.sum().isnan():  # cheap; also true for inf - inf, so look closer
        for row, item in scores.isnan().nonzero()[:1].tolist():
            raise DataError(f"the score of user {users[row]} for item {item} is NaN")
    return scores


def seen_places(pairs: Interactions, users: Ints) -> Ints:
    """Return where the pairs of these users lie in a matrix [b, n_items] laid end to end, ascending, int64."""
    row, items = pairs.rows_of(users)
    return row * pairs.n_items + items


def select_best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and items [b, at most k] of the best places, ties by ascending item; item -1 at value -inf."""
    border = _border(scores, min(k, scores.shape[1]))
    starts = torch.arange(len(scores) + 1, device=scores.device) * scores.shape[1]
    place = _places_above(scores, border)  # [candidates]: the block laid end to end, so by user, then by item
    ends = torch.searchsorted(place, starts)  # [b + 1]
    if ends.diff().max() > 4 * k:  # equal scores are rare or everywhere
        place = _limit_ties(scores, border, place, ends, k)
        ends = torch.searchsorted(place, starts)
    counts = ends.diff()[:, None]
    filled = torch.arange(int(counts.max()), device=scores.device) < counts  # [b, most candidates of a user]
    values = torch.full_like(filled, -torch.inf, dtype=scores.dtype)
    values.masked_scatter_(filled, scores.view(-1).index_select(0, place))  # indexing by [] takes 5 times as long
    values, order = (part[:, :k] for part in _sort_rows(values))
    items = place[(ends[:-1, None] + order).clamp(max=len(place) - 1)] - starts[:-1, None]
    return values, torch.where(values > -torch.inf, items, -1)


def _border(scores: Tensor, k: int) -> Tensor:
    """A value that at least k scores of each user reach, or all that are above -inf, [b, 1].

    It is the k-th largest of the maxima of equal parts of the items: never above the k-th largest score, and hardly
    below it when there are many more parts than k. Part j holds the items j, j + parts, j + 2 parts, ..; the few
    items left over are in none.
    """
    size = scores.shape[1] // max(8 * k, 256)
    if size > 1:
        parts = scores.shape[1] // size
        scores = scores[:, : size * parts].view(-1, size, parts).amax(dim=1)
    if _on_cpu(scores):
        kth = torch.from_numpy(np.partition(scores.numpy(), -k, axis=1)[:, -k, None])
    else:
        kth = scores.topk(k, dim=1).values[:, -1:]
    return kth.clamp(min=torch.finfo(scores.dtype).min)


def _places_above(scores: Tensor, border: Tensor) -> Tensor:
    """Places of the scores >= border in the block laid end to end, ascending, int64."""
    if _on_cpu(scores):
        return torch.from_numpy(np.flatnonzero(scores.numpy() >= border.numpy()))
    return (scores >= border).flatten().nonzero().flatten()


def _sort_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values of each row, best first, and their places; equal values keep their order."""
    if _on_cpu(values):
        order = torch.from_numpy(np.argsort(-values.numpy(), axis=1))  # does not keep it, so only where none are equal
        best = values.gather(1, order)
        if not ((best[:, 1:] == best[:, :-1]) & (best[:, 1:] > -torch.inf)).any():
            return best, order
    return values.sort(dim=1, descending=True, stable=True)


def _on_cpu(scores: Tensor) -> bool:
    """Whether numpy can read the scores; it selects, sorts and finds what is true several times faster than torch."""
    return scores.device.type == "cpu"


def _limit_ties(scores: Tensor, border: Tensor, place: Tensor, ends: Tensor, k: int) -> Tensor:
    """Leave out the candidates that equal the border and come after k such in their row."""
    row = torch.arange(len(scores), device=place.device).repeat_interleave(ends.diff())
    equal = scores.view(-1)[place] == border.flatten()[row]
    count = torch.nn.functional.pad(equal.cumsum(0), (1, 0))  # [candidates + 1]
    return place[~equal | (count[1:] - count[ends[row]] <= k)]
