"""Two evaluators that go user by user in Python: what an evaluation in blocks is held against.

`by_sorting` is an evaluator as it is first written: scores of one user, seen items masked, all items sorted, then each
metric a function of the ranked list and the liked items, called for each length of list. The field's per-user
evaluators (NGCF's, which many later models took over) have this form, with a dictionary of scores and a heap in place
of the sort, which is slower still. `by_selecting` is the shortest such loop: a partial sort, and all metrics of a
length in one walk along the list.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gtcrec.types import Interactions

CUTS = (5, 10, 20, 50)
Ranker = Callable[[int, Tensor, Tensor, Interactions, Interactions], dict[str, float]]


def by_sorting(user: int, users: Tensor, items: Tensor, train: Interactions, liked: Interactions) -> dict[str, float]:
    """One user's metrics, name -> value."""
    scores = items.numpy() @ users[user].numpy()
    scores[train.items_of(user)] = -np.inf
    ranked = np.argsort(-scores).tolist()
    wanted = set(liked.items_of(user).tolist())
    return {f"{kind}@{k}": metric(ranked[:k], wanted) for kind, metric in METRICS.items() for k in CUTS}


def recall(ranked: list[int], wanted: set[int]) -> float:
    return sum(item in wanted for item in ranked) / len(wanted)


def precision(ranked: list[int], wanted: set[int]) -> float:
    return sum(item in wanted for item in ranked) / len(ranked)


def ndcg(ranked: list[int], wanted: set[int]) -> float:
    gain = sum(1 / math.log2(place + 2) for place, item in enumerate(ranked) if item in wanted)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(len(ranked), len(wanted))))


def map_cut(ranked: list[int], wanted: set[int]) -> float:
    return _precisions(ranked, wanted) / min(len(ranked), len(wanted))


def average_precision(ranked: list[int], wanted: set[int]) -> float:
    return _precisions(ranked, wanted) / len(wanted)


def _precisions(ranked: list[int], wanted: set[int]) -> float:
    n_hits, total = 0, 0.0
    for place, item in enumerate(ranked, start=1):
        if item in wanted:
            n_hits += 1
            total += n_hits / place
    return total


METRICS = {"recall": recall, "ndcg": ndcg, "precision": precision, "map": average_precision, "map_cut": map_cut}


@torch.inference_mode()
def by_selecting(user: int, users: Tensor, items: Tensor, train: Interactions, liked: Interactions) -> dict[str, float]:
    """One user's metrics, name -> value."""
    scores = items @ users[user]
    scores[train.items_of(user)] = -math.inf
    ranked = scores.topk(max(CUTS)).indices.tolist()
    wanted = set(liked.items_of(user).tolist())
    found: dict[str, float] = {}
    for k in CUTS:
        n_hits, gain, precisions = 0, 0.0, 0.0
        for place, item in enumerate(ranked[:k], start=1):
            if item in wanted:
                n_hits += 1
                gain += 1 / math.log2(place + 1)
                precisions += n_hits / place
        ideal = sum(1 / math.log2(place + 1) for place in range(1, min(k, len(wanted)) + 1))
        found[f"recall@{k}"], found[f"precision@{k}"] = n_hits / len(wanted), n_hits / k
        found[f"ndcg@{k}"], found[f"map@{k}"] = gain / ideal, precisions / len(wanted)
        found[f"map_cut@{k}"] = precisions / min(k, len(wanted))
    return found
