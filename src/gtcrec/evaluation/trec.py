"""Ranked lists that other programs wrote, read and measured as our own: TREC run files and MMRec's top-k tables.

dataset = gtcrec.load_dataset("data/baby")
split = gtcrec.split(dataset)
mmrec = evaluate_lists(read_lists("mmrec-topk.csv", dataset), split)
gtcrec.compare({"gtc": report, "mmrec": mmrec}, metrics=["recall@20"])
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gtcrec.data.formats.columns import parse_number
from gtcrec.errors import ConfigError, DataError
from gtcrec.evaluation.evaluator import evaluate_split
from gtcrec.evaluation.metrics import RANKING_METRICS, check_length, longest
from gtcrec.evaluation.protocol import EvaluateConfig, masked_parts
from gtcrec.types import Dataset, Ints, Report, Scorer, Split, TopK, Vocabulary

__all__ = ["evaluate_lists", "read_lists", "read_mmrec_lists", "read_trec_run"]

_DEFAULT = EvaluateConfig()


def read_lists(path: str | Path, dataset: Dataset) -> TopK:
    """Read a file of either kind: one whose first word is `id` is MMRec's table. Raises as their readers."""
    path = Path(path)
    first = next(iter(_numbered_lines(path)), (0, ""))[1]
    return read_mmrec_lists(path, dataset) if first.split()[:1] == ["id"] else read_trec_run(path, dataset)


def read_trec_run(path: str | Path, dataset: Dataset) -> TopK:
    """Read lines of `user Q0 item rank score tag` in the data's ids; a list goes by its ranks, whatever their start.

    Raises `DataError` naming file and line for a line of another form, an id that is not in the data, a rank or an item
    that a user has twice, or a score above that of a better rank.
    """
    path = Path(path)
    rows = [(number, _trec_words(path, number, line)) for number, line in _numbered_lines(path)]
    if not rows:
        raise DataError(f"{path}: expected lines of `user Q0 item rank score tag`, found none")
    users = _indices_of_column(path, rows, 0, dataset.users)
    items = _indices_of_column(path, rows, 2, dataset.items)
    ranks = np.array([_parse_whole_number(path, number, "rank", words[3]) for number, words in rows])
    scores = np.array([_parse_score(path, number, words[4]) for number, words in rows])
    order = np.lexsort((ranks, users))
    users, items, ranks, scores = users[order], items[order], ranks[order], scores[order]
    lines = np.array([number for number, _ in rows])[order]
    same = users[1:] == users[:-1]
    for place in np.flatnonzero(same & (ranks[1:] == ranks[:-1]))[:1] + 1:
        raise DataError(f"{path}, line {lines[place]}: rank {ranks[place]} stands twice for this user")
    for place in np.flatnonzero(same & (scores[1:] > scores[:-1]))[:1] + 1:
        raise DataError(
            f"{path}, line {lines[place]}: score {scores[place]:g} at rank {ranks[place]} is above the score "
            f"{scores[place - 1]:g} of rank {ranks[place - 1]}; expected ranks in order of score"
        )
    list_users, starts, counts = np.unique(users, return_index=True, return_counts=True)
    places = (np.repeat(np.arange(len(list_users)), counts), np.arange(len(users)) - np.repeat(starts, counts))
    shape = (len(list_users), int(counts.max()))
    lists = _padded_matrix(shape, places, items, -1)
    _require_distinct_items(path, lists, _padded_matrix(shape, places, lines, 0))
    return TopK(list_users, lists, _padded_matrix(shape, places, scores.astype(np.float32), -np.inf))


def read_mmrec_lists(path: str | Path, dataset: Dataset) -> TopK:
    """Read MMRec's table: a header `id top_0 top_1 ...`, then a user and their items a line, separated by tabs.

    Its ids are the dense ones of the .inter file, which are our indices. The scores of the lists say the order alone.
    Raises `DataError` naming file and line for a line of another form, an id out of range, or a user or an item that
    stands twice.
    """
    path = Path(path)
    (_, header), *rows = list(_numbered_lines(path)) or [(0, "")]
    names = header.split()
    if names != ["id", *(f"top_{place}" for place in range(len(names) - 1))] or len(names) < 2 or not rows:
        raise DataError(f"{path}: expected a header `id top_0 top_1 ...` and a line a user, found {header[:60]!r}")
    table = np.empty((len(rows), len(names)), dtype=np.int64)
    for place, (number, line) in enumerate(rows):
        words = line.split()
        if len(words) != len(names):
            raise DataError(f"{path}, line {number}: expected {len(names)} columns, found {len(words)}")
        table[place] = [_parse_whole_number(path, number, "id", word) for word in words]
    lines = np.array([number for number, _ in rows])
    for word, part, end in (("user", table[:, :1], len(dataset.users)), ("item", table[:, 1:], len(dataset.items))):
        for row, column in np.argwhere((part < 0) | (part >= end))[:1]:
            raise DataError(f"{path}, line {lines[row]}: {word}s lie in [0, {end}), found {part[row, column]}")
    order = np.argsort(table[:, 0], kind="stable")
    table, lines = table[order], lines[order]
    for row in np.flatnonzero(table[1:, 0] == table[:-1, 0])[:1] + 1:
        raise DataError(f"{path}, line {lines[row]}: user {table[row, 0]} stands twice")
    lists = np.ascontiguousarray(table[:, 1:])
    _require_distinct_items(path, lists, np.broadcast_to(lines[:, None], lists.shape))
    scores = np.broadcast_to(-np.arange(lists.shape[1], dtype=np.float32), lists.shape)
    return TopK(table[:, 0].copy(), lists, np.ascontiguousarray(scores))


def evaluate_lists(
    lists: TopK,
    split: Split,
    on: Literal["valid", "test"] = "test",
    config: EvaluateConfig = _DEFAULT,
    seed: int = 0,
    metrics: Sequence[str] = (),
) -> Report:
    """Measure lists as `evaluate_split` measures a model: the same users, metrics, intervals and slices.

    Metrics of the config that need longer lists are left out. Raises `ConfigError` if one of `metrics` does, none is
    left or not all items are candidates, `DataError` for a user without a list and for a listed item that the protocol
    masks.
    """
    if config.candidates != "all":
        raise ConfigError(f"lists are measured among all items, found candidates: {config.candidates}")
    for name in metrics:
        check_length(name, RANKING_METRICS, lists.k)
    fitting = tuple(name for name in config.metrics if longest([name]) <= lists.k)
    if not (metrics or fitting):
        shortest = min(longest([name]) for name in config.metrics)
        raise ConfigError(f"expected lists of at least {shortest} items, found lists of {lists.k}")
    catalog_metrics = tuple(name for name in config.lists if longest([name]) <= lists.k)
    config = config.model_copy(update={"metrics": fitting or tuple(metrics), "lists": catalog_metrics})
    masked = masked_parts(config, on)
    for part, pairs in (("train", split.train), ("valid", split.valid)):
        is_masked = pairs.contains(np.broadcast_to(lists.users[:, None], lists.items.shape), lists.items)
        for row, column in np.argwhere(is_masked)[:1] if part in masked else ():
            raise DataError(
                f"protocol {config.protocol} masks {part} items, found item {lists.items[row, column]} of user "
                f"{lists.users[row]} at place {column + 1} (by index)"
            )
    return evaluate_split(_list_scorer(lists, split), split, on, config, seed, metrics)


def _list_scorer(lists: TopK, split: Split) -> Scorer:
    """A scorer whose best items are those of the lists, in their order."""
    rows = torch.full((split.train.n_users,), -1)
    rows[torch.from_numpy(lists.users)] = torch.arange(len(lists.users))
    items = torch.from_numpy(lists.items)

    def score(users: Tensor) -> Tensor:
        row = rows[users]
        if (row < 0).any():
            missing = int((row < 0).sum())
            raise DataError(
                f"expected a list for every measured user, found none for user {int(users[row < 0][0])} (by index)"
                f"{f' and {missing - 1} more' if missing > 1 else ''}"
            )
        listed = items[row]  # [b, k]
        value = torch.where(listed >= 0, -torch.arange(listed.shape[1], dtype=torch.float32), -torch.inf)
        scores = torch.full((len(users), split.train.n_items), -torch.inf)
        # Places that hold no item point at the first item, which amax leaves at its own value.
        return scores.scatter_reduce(1, listed.clamp(min=0), value, "amax")

    return score


def _numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that hold something, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _trec_words(path: Path, number: int, line: str) -> list[str]:
    words = line.split()
    if len(words) != 6:
        raise DataError(f"{path}, line {number}: expected `user Q0 item rank score tag`, found {len(words)} words")
    return words


def _indices_of_column(path: Path, rows: Sequence[tuple[int, list[str]]], column: int, ids: Vocabulary) -> Ints:
    """The indices of the ids in a column; an unknown one is named with its line."""
    known = {str(external): index for index, external in enumerate(ids.ids.tolist())}
    indices = np.array([known.get(words[column], -1) for _, words in rows], dtype=np.int64)
    for place in np.flatnonzero(indices < 0)[:1]:
        number, words = rows[place]
        raise DataError(f"{path}, line {number}: {ids.word} {words[column]!r} is not in the data")
    return indices


def _parse_whole_number(path: Path, number: int, what: str, word: str) -> int:
    if not re.fullmatch(r"-?\d{1,18}", word, re.ASCII):  # more digits fit into no int64
        raise DataError(f"{path}, line {number}: expected a whole number as {what}, found {word!r}")
    return int(word)


def _parse_score(path: Path, number: int, word: str) -> float:
    try:
        found = parse_number(word, "a finite number")
    except ValueError:
        found = np.inf
    if abs(found) > float(np.finfo(np.float32).max):  # in which lists hold scores
        raise DataError(f"{path}, line {number}: expected a finite number as score, found {word!r}")
    return found


def _padded_matrix(shape: tuple[int, int], places: tuple[Ints, Ints], values: Any, rest: float) -> NDArray[Any]:
    """A matrix of `rest` with `values` at `places`."""
    matrix = np.full(shape, rest, dtype=values.dtype)
    matrix[places] = values
    return matrix


def _require_distinct_items(path: Path, lists: Ints, lines: Ints) -> None:
    """Raise `DataError` naming the line where an item stands in a list for the second time."""
    order = np.argsort(lists, axis=1, kind="stable")
    ordered = np.take_along_axis(lists, order, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    for row, column in np.argwhere(twice)[:1]:
        line = lines[row, order[row, column + 1]]
        raise DataError(f"{path}, line {line}: an item stands twice in the list of one user")
