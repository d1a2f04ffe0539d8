"""Time what the candidates are held against: the machine, a bare product, and the plain loops that ours replace.

Loops over all users or all pairs of users would take minutes to hours, so they run on a random sample and the whole is
extrapolated.
"""

import math
from typing import Any

import numpy as np
import torch
from speed_candidate import product
from speed_clock import Clock, scaled
from torch import Tensor

from gtcrec import data, graph
from gtcrec.evaluate import EvaluateConfig, evaluate_split
from gtcrec.models.vectors import dot_scorer
from gtcrec.types import Interactions, Split

WIDTH, REPEATS, CUTS, NEIGHBOURS = 64, 5, (5, 10, 20, 50), 40


def measure(folder: str, full: bool, seed: int) -> dict[str, Any]:
    """Rates, evaluators and user graphs; not `full`: matrices and samples that fit a smoke test."""
    split = data.split(data.load(folder))
    train, valid = split.train, split.valid
    return {
        "rates": {"sgemm_gflops": _sgemm(2048 if full else 256), "copy_gbytes": _copy(1 << (26 if full else 20))},
        "evaluation": _evaluators(split, 1000 if full else 50, seed),
        "user_graph": _user_graph(train, 20 if full else 3, seed),
        "data": {
            "users": train.n_users,
            "items": train.n_items,
            "train": len(train),
            "valid": len(valid),
            "widths": {m: int(split.features.values[m].shape[1]) for m in split.features.names},
        },
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }


def _sgemm(n: int) -> float:
    """The best rate of a float32 product of two n x n matrices, in 10^9 operations a second."""
    a, b, out = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
    return 2 * n**3 / 1e9 / _best(lambda: torch.mm(a, b, out=out))


def _copy(numbers: int) -> float:
    """The best rate of a copy of float32, bytes read plus bytes written, in 10^9 a second."""
    source, target = torch.randn(numbers), torch.zeros(numbers)
    return 2 * 4 * numbers / 1e9 / _best(lambda: target.copy_(source))


def _best(call: Any) -> float:
    call()
    laps = []
    for _ in range(REPEATS):
        clock = Clock()
        call()
        laps.append(clock.lap()["wall"])
    return min(laps)


def _evaluators(split: Split, sample: int, seed: int) -> dict[str, Any]:
    """The same random vectors ranked and measured by us and user by user; the product alone beside them."""
    rng = torch.Generator().manual_seed(seed)
    users = torch.randn(split.train.n_users, WIDTH, generator=rng)
    items = torch.randn(split.train.n_items, WIDTH, generator=rng)
    clock = Clock()
    report = evaluate_split(dot_scorer(users, items), split, "valid", EvaluateConfig(), details=False)
    ours = clock.lap()
    chosen = np.random.default_rng(seed).permutation(len(report.users))[:sample]
    clock = Clock()
    plain = [_one_user(user, users, items, split.train, split.valid) for user in report.users[chosen].tolist()]
    loop = scaled(clock.lap(), len(report.users) / len(chosen))
    for name in plain[0]:
        found = np.array([one[name] for one in plain])
        if not np.allclose(found, report.per_user[name][chosen], atol=1e-9):
            raise SystemExit(f"the two evaluators disagree on {name}")
    rows = users[torch.from_numpy(report.users)]
    return {
        "ours": ours,
        "loop": loop,
        "product": product(rows, items, reuse=True),
        "product_fresh": product(rows, items, reuse=False),
        "sample": len(chosen),
        "users": len(report.users),
    }


@torch.inference_mode()
def _one_user(user: int, users: Tensor, items: Tensor, train: Interactions, liked: Interactions) -> dict[str, float]:
    """One user's metrics, place by place, as a first evaluator is written."""
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


def _user_graph(train: Interactions, sample: int, seed: int) -> dict[str, Any]:
    """Co-liked users by our sparse product and by a loop over pairs of users, each pair once."""
    clock = Clock()
    ours_graph = graph.co_liked_users(train, NEIGHBOURS)
    ours = clock.lap()
    sets = [set(train.items_of(user).tolist()) for user in range(train.n_users)]
    chosen = np.random.default_rng(seed).permutation(train.n_users)[:sample].tolist()
    clock = Clock()
    for user in chosen:
        counts = []
        for other in range(train.n_users):
            common = len(sets[user] & sets[other])
            if common and other != user:
                counts.append((-common, other))
        best = sorted(counts)[:NEIGHBOURS]
        mine = set(ours_graph.indices[ours_graph.indptr[user] : ours_graph.indptr[user + 1]].tolist())
        if {other for _, other in best} != mine:
            raise SystemExit(f"the two user graphs disagree on user {user}")
    pairs = train.n_users * (train.n_users - 1) / 2
    return {"ours": ours, "loop": scaled(clock.lap(), pairs / (sample * train.n_users)), "sample": sample}
