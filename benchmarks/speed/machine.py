"""Time what the candidates are held against: the machine, a bare product, and the plain loops that ours replace.

Loops over all users or all pairs of users would take minutes to hours, so they run on a random sample and the whole is
extrapolated.

Two evaluators go user by user in Python. `evaluate_by_sorting` is an evaluator as it is first written: scores of one
user, seen items masked, all items sorted, then each metric a function of the ranked list and the relevant items, called
for each length of list. The field's per-user evaluators (NGCF's, which many later models took over) have this form,
with a dictionary of scores and a heap in place of the sort, which is slower still. `evaluate_by_selecting` is the
shortest such loop: a partial sort, and all metrics of a length in one walk along the list.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.clock import Clock, Cost, middle, scaled
from benchmarks.speed.candidates import product
from gtcrec import data
from gtcrec.evaluation.evaluator import evaluate_split
from gtcrec.evaluation.protocol import EvaluateConfig
from gtcrec.ops import graph, losses
from gtcrec.ops import neighbors as similarity
from gtcrec.ops.scorers import dot_scorer
from gtcrec.types import Interactions, Ints, Report, Split

WIDTH, REPEATS, PASSES, NEIGHBOURS = 64, 5, 3, 40
CUTS = (5, 10, 20, 50)
Ranker = Callable[[int, Tensor, Tensor, Interactions, Interactions], dict[str, float]]


def measure(folder: str, full: bool, seed: int) -> dict[str, Any]:
    """Rates, evaluators and user graphs; not `full`: matrices and samples that fit a smoke test."""
    split = data.split(data.load(folder))
    train, valid = split.train, split.valid
    return {
        "rates": {"sgemm_gflops": _sgemm(2048 if full else 256), "copy_gbytes": _copy(1 << (26 if full else 20))},
        "evaluation": _evaluators(split, 1000 if full else 50, seed),
        "user_graph": _user_graph(train, 20 if full else 3, seed),
        "kernels": _kernels(train, 2048 if full else 64, seed),
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
    """The same random vectors ranked and measured by us and by two loops over users; the product alone beside them."""
    rng = torch.Generator().manual_seed(seed)
    users = torch.randn(split.train.n_users, WIDTH, generator=rng)
    items = torch.randn(split.train.n_items, WIDTH, generator=rng)
    scorer = dot_scorer(users, items)
    ours, products, fresh = [], [], []
    for _ in range(PASSES):
        clock = Clock()
        report = evaluate_split(scorer, split, "valid", EvaluateConfig(), details=False)
        ours.append(clock.lap())
        rows = users[torch.from_numpy(report.users)]
        products.append(product(rows, items, reuse=True))
        fresh.append(product(rows, items, reuse=False))
    chosen = np.random.default_rng(seed).permutation(len(report.users))[:sample]
    return {
        "ours": middle(ours),
        "loop": _loop(evaluate_by_sorting, chosen, report, users, items, split),
        "short_loop": _loop(evaluate_by_selecting, chosen, report, users, items, split),
        "product": middle(products),
        "product_fresh": middle(fresh),
        "sample": len(chosen),
        "users": len(report.users),
    }


def _loop(one_user: Ranker, chosen: Ints, report: Report, users: Tensor, items: Tensor, split: Split) -> Cost:
    """Seconds for all users, extrapolated from the chosen rows of the report, with which the loop must agree."""
    one_user(int(report.users[0]), users, items, split.train, split.valid)
    clock = Clock()
    plain = [one_user(user, users, items, split.train, split.valid) for user in report.users[chosen].tolist()]
    cost = scaled(clock.lap(), len(report.users) / len(chosen))
    for name in plain[0]:
        if not np.allclose([one[name] for one in plain], report.per_user[name][chosen], atol=1e-9):
            raise SystemExit(f"the evaluators disagree on {name}")
    return cost


def _user_graph(train: Interactions, sample: int, seed: int) -> dict[str, Any]:
    """Co-liked users by our sparse product and by a loop over pairs of users, each pair once."""
    clock = Clock()
    ours_graph = similarity.co_interaction_users(train, NEIGHBOURS)
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


def _kernels(train: Interactions, rows: int, seed: int) -> dict[str, Any]:
    """A product with the user-item graph, and InfoNCE with its gradient, by us and as torch has them."""
    rng = torch.Generator().manual_seed(seed)
    a = graph.SparseMatrix(graph.bipartite(train)).sides()[0]
    x = torch.randn(train.n_items, WIDTH, generator=rng)
    views = [F.normalize(torch.randn(rows, WIDTH, generator=rng), dim=1).requires_grad_() for _ in range(2)]
    return {
        "product": _both(lambda: graph.times(a, x), lambda: a @ x),
        "contrast": _both(lambda: _slope(losses.info_nce, *views), lambda: _slope(_plain_info_nce, *views)),
    }


def _both(ours: Callable[[], Tensor], plain: Callable[[], Tensor]) -> dict[str, Cost]:
    """The median of either by turns; their results must agree."""
    torch.testing.assert_close(ours(), plain())
    calls = {"ours": ours, "plain": plain}
    laps: dict[str, list[Cost]] = {name: [] for name in calls}
    for _ in range(4 * REPEATS):
        for name, call in calls.items():
            clock = Clock()
            call()
            laps[name].append(clock.lap())
    return {name: middle(found) for name, found in laps.items()}


def _slope(loss: Callable[[Tensor, Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """The gradient of a at temperature 0.2."""
    return torch.autograd.grad(loss(a, b, torch.tensor(5.0)), [a, b])[0]


def _plain_info_nce(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    logits, own = scale * a @ b.T, torch.arange(len(a))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def evaluate_by_sorting(
    user: int, users: Tensor, items: Tensor, train: Interactions, relevant: Interactions
) -> dict[str, float]:
    """One user's metrics, name -> value."""
    scores = items.numpy() @ users[user].numpy()
    scores[train.items_of(user)] = -np.inf
    ranked = np.argsort(-scores).tolist()
    targets = set(relevant.items_of(user).tolist())
    return {f"{kind}@{k}": metric(ranked[:k], targets) for kind, metric in METRICS.items() for k in CUTS}


def recall(ranked: list[int], targets: set[int]) -> float:
    return sum(item in targets for item in ranked) / len(targets)


def precision(ranked: list[int], targets: set[int]) -> float:
    return sum(item in targets for item in ranked) / len(ranked)


def ndcg(ranked: list[int], targets: set[int]) -> float:
    gain = sum(1 / math.log2(place + 2) for place, item in enumerate(ranked) if item in targets)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(len(ranked), len(targets))))


def map_cut(ranked: list[int], targets: set[int]) -> float:
    return _precisions(ranked, targets) / min(len(ranked), len(targets))


def average_precision(ranked: list[int], targets: set[int]) -> float:
    return _precisions(ranked, targets) / len(targets)


def _precisions(ranked: list[int], targets: set[int]) -> float:
    n_hits, total = 0, 0.0
    for place, item in enumerate(ranked, start=1):
        if item in targets:
            n_hits += 1
            total += n_hits / place
    return total


METRICS = {"recall": recall, "ndcg": ndcg, "precision": precision, "map": average_precision, "map_cut": map_cut}


@torch.inference_mode()
def evaluate_by_selecting(
    user: int, users: Tensor, items: Tensor, train: Interactions, relevant: Interactions
) -> dict[str, float]:
    """One user's metrics, name -> value."""
    scores = items @ users[user]
    scores[train.items_of(user)] = -math.inf
    ranked = scores.topk(max(CUTS)).indices.tolist()
    targets = set(relevant.items_of(user).tolist())
    values: dict[str, float] = {}
    for k in CUTS:
        n_hits, gain, precisions = 0, 0.0, 0.0
        for place, item in enumerate(ranked[:k], start=1):
            if item in targets:
                n_hits += 1
                gain += 1 / math.log2(place + 1)
                precisions += n_hits / place
        ideal = sum(1 / math.log2(place + 1) for place in range(1, min(k, len(targets)) + 1))
        values[f"recall@{k}"], values[f"precision@{k}"] = n_hits / len(targets), n_hits / k
        values[f"ndcg@{k}"], values[f"map@{k}"] = gain / ideal, precisions / len(targets)
        values[f"map_cut@{k}"] = precisions / min(k, len(targets))
    return values
